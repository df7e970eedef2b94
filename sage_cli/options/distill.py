"""The options of ``sage distill``: its own, those of `DistillOptions`, and shared ones."""

from __future__ import annotations

from dataclasses import Field, dataclass, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from sage_cli.options.flags import once
from sage_cli.options.shared import RunOptions
from sage_core.distill.options import DistillOptions

__all__ = ["DistillFlags", "SharedFlags", "TrainingFlags", "distill_options"]

_WHAT, _HOW, _OUTPUT = "What is trained", "Training", "Output"


@dataclass(frozen=True)
class DistillFlags:
    """Inputs and outputs of a run."""

    data: Annotated[
        Path,
        once(
            "--data",
            "A folder of images and videos, or a .jsonl file with one object per line: image, "
            "video or images, prompt, and optionally answer. The target writes missing answers.",
            _WHAT,
            metavar="DIR|FILE",
        ),
    ]
    output: Annotated[
        Path,
        once("--output", "Folder for the draft, to be given to --draft.", _WHAT, metavar="DIR"),
    ]
    target: Annotated[
        str | None,
        once(
            "--target",
            "The model to train a draft for: a folder, or a name in the local cache or on the hub.",
            _WHAT,
            metavar="MODEL",
            show_default="the bundled sage-tiny",
        ),
    ] = None
    compare: Annotated[
        str,
        once(
            "--compare",
            "The draft that the new one is compared with, which also speeds up writing answers: "
            "'auto' (the one known for the target), 'none', or as --target.",
            _WHAT,
            metavar="MODEL",
        ),
    ] = "auto"
    resume: Annotated[
        bool, once("--resume", "Continue the run in --output, if there is one.", _OUTPUT)
    ] = False
    log: Annotated[
        Literal["csv", "tensorboard"],
        once(
            "--log",
            "csv: log.csv in --output; tensorboard: event files too.",
            _OUTPUT,
            metavar="KIND",
        ),
    ] = "csv"
    json: Annotated[bool, once("--json", "Print JSON instead of a table.", _OUTPUT)] = False
    dry_run: Annotated[
        bool,
        once(
            "--dry-run",
            "Take one training step on the longest sample, print peak memory and the expected "
            "time of the run, and write nothing to --output.",
            _OUTPUT,
        ),
    ] = False


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
_SHARED_TYPES = get_type_hints(RunOptions, include_extras=True)

SharedFlags = make_dataclass(
    "SharedFlags",
    [(f.name, _SHARED_TYPES[f.name], f) for f in fields(RunOptions) if f.name in _SHARED],
    frozen=True,
)
"""The options of `RunOptions` that distilling takes too: same names, help and defaults."""

_TYPES = get_type_hints(DistillOptions)
_PANELS = {"kind": _WHAT, "steps": _WHAT, "minutes": _WHAT, "checkpoint_every": _OUTPUT}


def _flag(field: Field[Any]) -> Any:
    """An option of the training run as an option of the command line."""
    about = field.metadata
    names = {"least": "min", "most": "max", "metavar": "metavar", "shown": "show_default"}
    more = {names[name]: value for name, value in about.items() if name in names}
    panel = _PANELS.get(field.name, _HOW)
    option = once("--" + field.name.replace("_", "-"), about["help"], panel, **more)
    return Annotated[_TYPES[field.name], option]


TrainingFlags = make_dataclass(
    "TrainingFlags",
    [(f.name, _flag(f), f) for f in fields(DistillOptions) if f.name not in _SHARED],
    frozen=True,
)
"""The options that `DistillOptions` declares, without shared ones."""


def distill_options(training: Any, shared: Any) -> DistillOptions:
    """The options of the run, from `TrainingFlags` and `SharedFlags`.

    Raises:
        OptionError: see `DistillOptions`.
    """
    return DistillOptions(**vars(training), max_pixels=shared.max_pixels, seed=shared.seed)
