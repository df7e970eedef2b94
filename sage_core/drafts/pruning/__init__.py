"""Visual tokens that the draft skips."""
