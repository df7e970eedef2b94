"""Measurements of the engine: exactness against `generate`, and speed by policy."""
