"""The options of ``sage distill``: what is trained, on what, and those it shares."""

from __future__ import annotations

from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from sage_cli.options.shared import RunOptions

__all__ = ["DistillFlags", "SharedFlags"]

_WHAT, _HOW, _OUTPUT, _DRY = "What is trained", "How", "Output", "Dry run"


def _option(flag: str, help: str, panel: str, **more: Any) -> Any:
    """An option of one run, which neither the settings file nor the environment sets."""
    return typer.Option(flag, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class DistillFlags:
    """What is trained, how, and where it goes."""

    data: Annotated[
        Path,
        _option(
            "--data",
            "A folder of pictures and clips, or a .jsonl file with an object a line: image, video "
            "or images, prompt, and perhaps an answer. Answers that are missing are written by "
            "the target.",
            _WHAT,
            metavar="DIR|FILE",
        ),
    ]
    output: Annotated[
        Path,
        _option(
            "--output", "Folder for the draft, which --draft takes then.", _WHAT, metavar="DIR"
        ),
    ]
    target: Annotated[
        str | None,
        _option(
            "--target",
            "The model to train a draft for: a folder, or a name in the local cache or on the hub.",
            _WHAT,
            metavar="MODEL",
            show_default="the bundled sage-tiny",
        ),
    ] = None
    kind: Annotated[
        Literal["head", "specvlm", "vispec", "model"],
        _option(
            "--kind",
            "head: one layer that reads the target's features; specvlm: one that sees pictures "
            "compressed; vispec: one that sees a few learned queries of them; model: a small model "
            "of the target's class.",
            _WHAT,
            metavar="KIND",
        ),
    ] = "head"
    steps: Annotated[
        int | None,
        _option("--steps", "Stop after N steps.", _WHAT, min=1, metavar="N"),
    ] = None
    minutes: Annotated[
        float | None,
        _option("--minutes", "Stop after M minutes of training.", _WHAT, metavar="M"),
    ] = None
    compare: Annotated[
        str,
        _option(
            "--compare",
            "The draft that the new one is measured against, which also helps to write answers: "
            "'auto' for the one that is known, 'none', or as --target.",
            _WHAT,
            metavar="MODEL",
        ),
    ] = "auto"

    mode: Annotated[
        str,
        _option(
            "--mode",
            "How specvlm compresses: weighted, concat, select, or one way alone: prune, pool, "
            "convolution, resampler, text.",
            _HOW,
            metavar="MODE",
        ),
    ] = "weighted"
    ratio: Annotated[
        float,
        _option(
            "--ratio",
            "Visual tokens for each that specvlm leaves, in mode weighted and of one way alone.",
            _HOW,
            min=1,
            metavar="X",
        ),
    ] = 3.0
    queries: Annotated[
        int,
        _option(
            "--queries",
            "Learned queries a picture, of the resampler and of vispec.",
            _HOW,
            min=1,
            metavar="N",
        ),
    ] = 2
    layers: Annotated[
        int | None,
        _option(
            "--layers",
            "Layers of a model.",
            _HOW,
            min=1,
            metavar="N",
            show_default="an eighth of the target's",
        ),
    ] = None
    hidden: Annotated[
        int | None,
        _option(
            "--hidden",
            "Hidden size of a model.",
            _HOW,
            min=1,
            metavar="N",
            show_default="half the target's; all of it where the vision tower has that size",
        ),
    ] = None
    lr: Annotated[
        float | None,
        _option(
            "--lr",
            "Learning rate.",
            _HOW,
            metavar="X",
            show_default="8e-5 at hidden size 3584, in inverse proportion to it, 3e-3 at most",
        ),
    ] = None
    decay: Annotated[
        float,
        _option(
            "--decay",
            "The share of the run, at its end, over which the learning rate falls to nothing.",
            _HOW,
            min=0,
            max=1,
            metavar="SHARE",
        ),
    ] = 0.0
    batch: Annotated[
        int,
        _option(
            "--batch",
            "Samples of a step, over all processes. They pass one by one and their gradients add "
            "up: memory does not depend on it.",
            _HOW,
            min=1,
            metavar="N",
        ),
    ] = 8
    loss: Annotated[
        Literal["sage", "acceptance"],
        _option(
            "--loss",
            "sage: cross-entropy to the target's distribution; acceptance: minus the logarithm "
            "of the probability to be accepted. Heads learn the target's features besides.",
            _HOW,
            metavar="LOSS",
        ),
    ] = "sage"
    ce_weight: Annotated[
        float, _option("--ce-weight", "Weight of that loss, for heads.", _HOW, min=0, metavar="X")
    ] = 0.1
    feature_weight: Annotated[
        float,
        _option("--feature-weight", "Weight of the features, for heads.", _HOW, min=0, metavar="X"),
    ] = 1.0
    depths: Annotated[
        int,
        _option(
            "--depths",
            "Steps in a row that a head is trained on, the later ones on its own features.",
            _HOW,
            min=1,
            metavar="N",
        ),
    ] = 3
    temperature: Annotated[
        float,
        _option(
            "--temperature",
            "Of the answers that the target writes; 0 is greedy.",
            _HOW,
            min=0,
            metavar="X",
        ),
    ] = 0.0
    max_new_tokens: Annotated[
        int,
        _option("--max-new-tokens", "Longest answer in tokens.", _HOW, min=2, metavar="N"),
    ] = 256
    recompute: Annotated[
        bool,
        _option("--recompute", "Activation checkpointing: less memory, more time.", _HOW),
    ] = False

    resume: Annotated[
        bool,
        _option("--resume", "Go on with the run in --output, if there is one.", _OUTPUT),
    ] = False
    checkpoint_every: Annotated[
        int,
        _option(
            "--checkpoint-every",
            "Steps between checkpoints; the draft is kept if it is the best on held-out samples.",
            _OUTPUT,
            min=1,
            metavar="N",
        ),
    ] = 100
    log: Annotated[
        Literal["csv", "tensorboard"],
        _option(
            "--log",
            "csv: log.csv in --output; tensorboard: event files too.",
            _OUTPUT,
            metavar="KIND",
        ),
    ] = "csv"
    json: Annotated[
        bool, _option("--json", "Print the report as JSON, not as a table.", _OUTPUT)
    ] = False

    dry_run: Annotated[
        bool,
        _option(
            "--dry-run",
            "Read no weights and write nothing: tell the memory and the time that the run would "
            "need, on a GPU unless --device is cpu.",
            _DRY,
        ),
    ] = False
    tflops: Annotated[
        float | None,
        _option(
            "--tflops",
            "Peak of the device that is planned for, 10^12 operations a second.",
            _DRY,
            metavar="X",
            show_default="989, an H200 in bfloat16; 0.2 on a CPU",
        ),
    ] = None
    utilisation: Annotated[
        float | None,
        _option(
            "--utilisation",
            "The share of that peak that training reaches, 0 to 1.",
            _DRY,
            metavar="X",
            show_default="0.4",
        ),
    ] = None
    bandwidth: Annotated[
        float | None,
        _option(
            "--bandwidth",
            "Of that device's memory, in GB a second.",
            _DRY,
            metavar="X",
            show_default="4300; 20 on a CPU",
        ),
    ] = None


_SHARED = (
    "max_pixels",
    "revision",
    "draft_revision",
    "device",
    "dtype",
    "quantization",
    "trust_remote_code",
    "seed",
    "quiet",
    "verbose",
    "config",
)
_KINDS = get_type_hints(RunOptions, include_extras=True)

SharedFlags = make_dataclass(
    "SharedFlags",
    [(f.name, _KINDS[f.name], f) for f in fields(RunOptions) if f.name in _SHARED],
    frozen=True,
)
"""Those of `RunOptions` that distilling takes too, with the same names, help and defaults."""
