"""Data, training and evaluation of the bundled pair sage-tiny."""
