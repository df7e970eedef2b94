"""Data, training and evaluation of the bundled pair; not part of the installed package."""
