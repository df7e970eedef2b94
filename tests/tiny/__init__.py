"""Tiny random pairs of every model family, with inputs for them made directly as tensors."""

from tests.tiny.families import FAMILIES, Family
from tests.tiny.inputs import make_inputs
from tests.tiny.pairs import Pair, build_pair, garbage_draft, perfect_draft, wrong_draft

__all__ = [
    "FAMILIES",
    "Family",
    "Pair",
    "build_pair",
    "garbage_draft",
    "make_inputs",
    "perfect_draft",
    "wrong_draft",
]
