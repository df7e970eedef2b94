"""Finding, loading and pairing models, and what differs from one family to the next."""
