"""Model families: one file each. A new family is a new file; nothing else changes."""

from sage_core.models.families.base import Family, find_family

__all__ = ["Family", "find_family"]
