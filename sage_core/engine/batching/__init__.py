"""Several texts at once."""
