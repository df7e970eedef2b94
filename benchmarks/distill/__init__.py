"""Kinds of draft trained side by side on one target, and their speed."""
