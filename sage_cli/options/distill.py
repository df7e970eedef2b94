"""The options of ``sage distill``: its own, those of `DistillOptions`, and shared ones."""

from __future__ import annotations

from dataclasses import Field, dataclass, fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from sage_cli.options.flags import once
from sage_cli.options.shared import subset
from sage_core.distill.options import DistillOptions

__all__ = ["DistillFlags", "SharedFlags", "TrainingFlags", "distill_options"]

_WHAT, _HOW, _OUTPUT = "What is trained", "Training", "Output"
_what, _output = partial(once, _WHAT), partial(once, _OUTPUT)


@dataclass(frozen=True)
class DistillFlags:
    """Inputs and outputs of a run."""

    data: Annotated[
        Path,
        _what(
            "A folder of images and videos, or a .jsonl file with one object per line: image, "
            "video or images, prompt, and optionally answer. The target writes missing answers.",
            metavar="DIR|FILE",
        ),
    ]
    output: Annotated[Path, _what("Folder for the draft, to be given to --draft.", metavar="DIR")]
    target: Annotated[
        str | None,
        _what(
            "The model to train a draft for: a folder, or a name in the local cache or on the hub.",
            metavar="MODEL",
            show_default="the bundled sage-tiny",
        ),
    ] = None
    compare: Annotated[
        str,
        _what(
            "The draft that the new one is compared with, which also speeds up writing answers: "
            "'auto' (the one known for the target), 'none', or as --target.",
            metavar="MODEL",
        ),
    ] = "auto"
    resume: Annotated[bool, _output("Continue the run in --output, if there is one.")] = False
    log: Annotated[
        Literal["csv", "tensorboard"],
        _output("csv: log.csv in --output; tensorboard: event files too.", metavar="KIND"),
    ] = "csv"
    json: Annotated[bool, _output("Print JSON instead of a table.")] = False
    dry_run: Annotated[
        bool,
        _output(
            "Take one training step on the longest sample, print peak memory and the expected "
            "time of the run, and write nothing to --output."
        ),
    ] = False


_SHARED = {
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
}
SharedFlags = subset("SharedFlags", _SHARED)

_TYPES = get_type_hints(DistillOptions)
_PANELS = {"kind": _WHAT, "steps": _WHAT, "minutes": _WHAT, "checkpoint_every": _OUTPUT}


def _flag(field: Field[Any]) -> Any:
    """An option of the training run as an option of the command line."""
    about = field.metadata
    names = {"least": "min", "most": "max", "metavar": "metavar", "shown": "show_default"}
    more = {names[name]: value for name, value in about.items() if name in names}
    option = once(_PANELS.get(field.name, _HOW), about["help"], **more)
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
