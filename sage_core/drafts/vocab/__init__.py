"""Reduced draft vocabularies."""
