"""Captioning many files: which ones, what identifies a result, and the results as JSON objects."""
