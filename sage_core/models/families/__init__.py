"""Model families: one module each, which defines a subclass of `Family`; nothing else changes.

Belongs here: how images, videos and a prompt become model inputs. Must not be here: weights,
forward passes.
"""

from sage_core.models.families.base import Family, find_family

__all__ = ["Family", "find_family"]
