"""The rules that a text obeys. Runs no forward pass and knows no drafter."""
