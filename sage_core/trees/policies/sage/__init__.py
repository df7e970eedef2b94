"""`sage`: trees whose depth and width follow predicted acceptance and measured pass costs."""

from sage_core.trees.policies.sage.policy import Sage

__all__ = ["Sage"]
