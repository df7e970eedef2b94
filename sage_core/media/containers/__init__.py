"""Container parsers."""
