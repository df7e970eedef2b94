"""The pair that a benchmark measures, unless its question is about another."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from sage_core.models.catalog import BUNDLED_DRAFT
from sage_core.pair_loading import LoadedPair, load_pair

__all__ = ["measured_pair", "pair_arguments"]


def measured_pair(
    folder: str | Path | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    draft: str | Path | None = None,
) -> LoadedPair:
    """The pair in ``folder`` (target/ and draft/), or the bundled target with its small model.

    The small model is a draft as most pairs have one; ``draft`` names another, and ``auto`` the
    pair's own, which for the bundled target is a head.
    """
    return load_pair(folder, draft or ("auto" if folder else BUNDLED_DRAFT), device, dtype)


def pair_arguments(parser: ArgumentParser) -> None:
    """The options that `measured_pair` takes."""
    parser.add_argument("--pair", help="folder of target/ and draft/ (default: bundled)")
    parser.add_argument("--draft", help="another draft (default: the bundled small model)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
