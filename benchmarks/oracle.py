"""The oracle of the exactness checks; it stands in the package, where `sage bench` uses it too."""

from sage_core.bench.oracle import TIE, Mismatch, check_steps, first_mismatch, reference

__all__ = ["TIE", "Mismatch", "check_steps", "first_mismatch", "reference"]
