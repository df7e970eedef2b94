"""How one forward pass over a tree runs. Knows no drafter and no policy."""
