"""The options of ``sage bench``: its own, and those of ``caption`` for models and decoding."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

from sage_cli.options.flags import OUTPUT, once
from sage_cli.options.shared import RunOptions, subset

__all__ = ["DEFAULT_COMPARE", "BenchOptions", "ModelOptions"]

_what, _output = partial(once, "What is compared"), partial(once, OUTPUT)

DEFAULT_COMPARE = "static,transformers,transformers-assisted"


@dataclass(frozen=True)
class BenchOptions:
    """What is measured and where the results go."""

    compare: Annotated[
        str | None,
        _what(
            "Methods to compare sage with, between commas: policies, perhaps with modifiers "
            "(sage+ngram, +viskip, +vocab, +drawn, a lossy rule); ngram, transformers, "
            "transformers-assisted, transformers-assisted-best, transformers-lookup, best-static, "
            "or all.",
            metavar="METHODS",
            show_default=DEFAULT_COMPARE,
        ),
    ] = None
    reference: Annotated[
        str,
        _what("The method that speeds and texts are compared with.", metavar="METHOD"),
    ] = "autoregressive"
    items: Annotated[
        int | None,
        _what(
            "Measure only the first N items.",
            min=1,
            metavar="N",
            show_default="18 of the 36 bundled items; all of your own",
        ),
    ] = None
    repeats: Annotated[
        int, _what("How often each method decodes each item.", min=1, metavar="N")
    ] = 2
    node_budget: Annotated[
        int | None,
        _what(
            "Nodes of a tree: exactly N for fixed trees, at most N for adaptive ones.",
            min=1,
            metavar="N",
            show_default="each policy's own limit",
        ),
    ] = None
    least: Annotated[
        int,
        _what("Texts of fewer tokens are compared but not timed.", min=2, metavar="N"),
    ] = 8

    json: Annotated[bool, _output("Print JSON instead of the table.")] = False
    csv: Annotated[bool, _output("Print CSV instead of the table.")] = False
    output: Annotated[
        Path | None,
        _output(
            "Write everything to the folder DIR: results, a line for each decoding, plots, an "
            "HTML report. An interrupted run is resumed from it.",
            metavar="DIR",
        ),
    ] = None
    trees: Annotated[
        str,
        _output(
            "Items whose trees the HTML report shows: ids between commas, or the number of the "
            "first items.",
            metavar="IDS",
        ),
    ] = "3"


_OUTPUTS = {"json", "jsonl", "output", "stats", "live", "save_view"}
_WORKER = {"media_memory", "media_seconds"}  # items are decoded in the process that measures
_NOT_SHARED = {"files_from", "policy", "candidates"} | _OUTPUTS | _WORKER
ModelOptions = subset("ModelOptions", {f.name for f in fields(RunOptions)} - _NOT_SHARED)
"""The options of `RunOptions` that a benchmark has too, with the same help and defaults."""
