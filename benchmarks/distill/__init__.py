"""Kinds of draft trained side by side on one target's lessons, and what each is worth."""
