"""`sage`: trees whose depth and width follow predicted acceptance and measured pass costs.

Belongs here: the policy, its networks and their online correction.
"""

from sage_core.trees.policies.sage.policy import Sage

__all__ = ["Sage"]
