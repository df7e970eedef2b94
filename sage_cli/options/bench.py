"""The options of ``sage bench``: its own, and those of ``caption`` for models and decoding."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from sage_cli.options.shared import RunOptions

__all__ = ["DEFAULT_COMPARE", "BenchOptions", "ModelOptions", "as_run_options"]

_WHAT, _OUTPUT = "What is compared", "Output"

DEFAULT_COMPARE = "static,transformers,transformers-assisted"


def _option(flag: str, help: str, panel: str, **more: Any) -> Any:
    """An option of one benchmark, which the settings file and the environment do not set."""
    return typer.Option(flag, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class BenchOptions:
    """What is measured and where the results go."""

    compare: Annotated[
        str | None,
        _option(
            "--compare",
            "Methods to compare sage with, between commas: policies, perhaps with modifiers "
            "(sage+ngram, +viskip, +vocab, +drawn, a lossy rule); ngram, transformers, "
            "transformers-assisted, transformers-assisted-best, transformers-lookup, best-static, "
            "or all.",
            _WHAT,
            metavar="METHODS",
            show_default=DEFAULT_COMPARE,
        ),
    ] = None
    reference: Annotated[
        str,
        _option(
            "--reference",
            "The method that speeds and texts are compared with.",
            _WHAT,
            metavar="METHOD",
        ),
    ] = "autoregressive"
    items: Annotated[
        int | None,
        _option(
            "--items",
            "Measure only the first N items.",
            _WHAT,
            min=1,
            metavar="N",
            show_default="18 of the 36 bundled items; all of your own",
        ),
    ] = None
    repeats: Annotated[
        int,
        _option("--repeats", "How often each method decodes each item.", _WHAT, min=1, metavar="N"),
    ] = 2
    node_budget: Annotated[
        int | None,
        _option(
            "--node-budget",
            "Nodes of a tree: exactly N for fixed trees, at most N for adaptive ones.",
            _WHAT,
            min=1,
            metavar="N",
            show_default="each policy's own limit",
        ),
    ] = None
    least: Annotated[
        int,
        _option(
            "--least",
            "Texts of fewer tokens are compared but not timed.",
            _WHAT,
            min=2,
            metavar="N",
        ),
    ] = 8

    json: Annotated[bool, _option("--json", "Print JSON instead of the table.", _OUTPUT)] = False
    csv: Annotated[bool, _option("--csv", "Print CSV instead of the table.", _OUTPUT)] = False
    output: Annotated[
        Path | None,
        _option(
            "--output",
            "Write everything to the folder DIR: results, a line for each decoding, plots, an "
            "HTML report. An interrupted run is resumed from it.",
            _OUTPUT,
            metavar="DIR",
        ),
    ] = None
    trees: Annotated[
        str,
        _option(
            "--trees",
            "Items whose trees the HTML report shows: ids between commas, or the number of the "
            "first items.",
            _OUTPUT,
            metavar="IDS",
        ),
    ] = "3"


_SHARED = (
    "frames",
    "fps",
    "start",
    "end",
    "max_pixels",
    "model",
    "draft",
    "revision",
    "draft_revision",
    "device",
    "draft_device",
    "dtype",
    "quantization",
    "trust_remote_code",
    "max_new_tokens",
    "repetition_penalty",
    "draft_lookup",
    "draft_vocab",
    "lossy",
    "viskip",
    "sample",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "draft_pruning",
    "draft_pruning_method",
    "seed",
    "quiet",
    "verbose",
    "config",
)
_KINDS = get_type_hints(RunOptions, include_extras=True)

ModelOptions = make_dataclass(
    "ModelOptions",
    [(f.name, _KINDS[f.name], f) for f in fields(RunOptions) if f.name in _SHARED],
    frozen=True,
)
"""The options of `RunOptions` that a benchmark has too, with the same help and defaults."""


def as_run_options(options: Any) -> RunOptions:
    """`ModelOptions` as `RunOptions`, which the rest of the command line takes."""
    return RunOptions(**{name: getattr(options, name) for name in _SHARED})
