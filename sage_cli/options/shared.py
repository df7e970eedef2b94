"""The options that commands share, each defined once; `collect` gives them to a command."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from sage_cli.options import draft as drafting
from sage_cli.options import sampling
from sage_cli.options.flags import DECODING as _DECODING
from sage_cli.options.flags import MEDIA as _MEDIA
from sage_cli.options.flags import MODELS as _MODELS
from sage_cli.options.flags import OUTPUT as _OUTPUT
from sage_cli.options.flags import once as _once
from sage_cli.options.flags import setting as _setting
from sage_cli.options.settings import apply_settings, env_name

__all__ = ["PROMPT", "VERBOSE", "InfoOptions", "RunOptions", "seconds"]


def seconds(text: str) -> float:
    """A time in seconds from ``90``, ``1:30`` or ``0:01:30.5``."""
    try:
        value = 0.0
        for part in str(text).split(":"):
            number = float(part)
            if not 0 <= number < float("inf"):
                raise ValueError(text)
            value = value * 60 + number
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time: write seconds, or minutes:seconds"
        ) from None
    return value


VERBOSE = "sage_cli.verbose"
"""Where a context's ``meta`` says that tracebacks are wanted."""


def remember_verbose(context: typer.Context, value: bool) -> bool:
    """Callback of ``--verbose``: tell the handler of errors, outside of the command."""
    context.meta[VERBOSE] = value
    return value


PROMPT = _setting(
    "--prompt",
    "What to ask for, in place of the usual request for a caption.",
    _MEDIA,
    metavar="TEXT",
)


@dataclass(frozen=True)
class RunOptions:
    """Options of the commands that run a model, as the command line gives them."""

    files_from: Annotated[
        str | None,
        _once(
            "--files-from",
            "Read more file names from FILE, or from standard input with '-': one to "
            "a line, or separated by NUL bytes.",
            _MEDIA,
            metavar="FILE",
        ),
    ] = None
    frames: Annotated[
        int | None, _setting("--frames", "Frames to take from a clip.", _MEDIA, min=1, metavar="N")
    ] = None
    fps: Annotated[
        float | None,
        _setting("--fps", "Frames to take from a second of a clip.", _MEDIA, metavar="RATE"),
    ] = None
    start: Annotated[
        float | None,
        _once(
            "--start",
            "Begin here in a clip: seconds, or minutes:seconds.",
            _MEDIA,
            parser=seconds,
            metavar="TIME",
        ),
    ] = None
    end: Annotated[
        float | None,
        _once(
            "--end",
            "Stop here in a clip: seconds, or minutes:seconds.",
            _MEDIA,
            parser=seconds,
            metavar="TIME",
        ),
    ] = None
    max_pixels: Annotated[
        int | None,
        _setting(
            "--max-pixels",
            "Shrink a picture or frame to at most this many pixels.",
            _MEDIA,
            min=1,
            metavar="N",
        ),
    ] = None

    model: Annotated[
        str | None,
        _setting(
            "--model",
            "The target model: a folder, or a name in the local cache or on the hub, perhaps with "
            "@REVISION.",
            _MODELS,
            metavar="MODEL",
            show_default="the bundled sage-tiny",
        ),
    ] = None
    draft: drafting.Draft = "auto"
    revision: Annotated[
        str | None,
        _setting(
            "--revision", "Branch, tag or commit of --model on the hub.", _MODELS, metavar="REV"
        ),
    ] = None
    draft_revision: drafting.DraftRevision = None
    device: Annotated[
        str,
        _setting(
            "--device",
            "Where to run: 'auto' (one GPU if the pair fits, else several, else the CPU), 'cpu', "
            "'cuda', 'cuda:1', 'mps'.",
            _MODELS,
            metavar="DEVICE",
        ),
    ] = "auto"
    draft_device: drafting.DraftDevice = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        _setting(
            "--dtype",
            "Number format of the weights: auto (the checkpoint's own on a GPU; float32 on a CPU, "
            "or the checkpoint's own where that does not fit), float32, bfloat16 or float16.",
            _MODELS,
            metavar="FORMAT",
        ),
    ] = "auto"
    quantization: Annotated[
        Literal["none", "8bit", "4bit", "int8", "int4"],
        _setting(
            "--quantization",
            "Shrink the target's weights while loading: 8bit or 4bit (bitsandbytes), int8 or int4 "
            "(torchao), or none.",
            _MODELS,
            metavar="METHOD",
        ),
    ] = "none"
    trust_remote_code: Annotated[
        bool,
        _once(
            "--trust-remote-code",
            "Run code that comes with the checkpoints. Read it first.",
            _MODELS,
        ),
    ] = False

    policy: drafting.Policy = None
    max_new_tokens: Annotated[
        int,
        _setting("--max-new-tokens", "Stop after this many tokens.", _DECODING, min=1, metavar="N"),
    ] = 256
    repetition_penalty: Annotated[
        float | None,
        _setting(
            "--repetition-penalty",
            "Make tokens that occurred already less likely; 1.0 is off.",
            _DECODING,
            metavar="X",
            show_default="the model's own",
        ),
    ] = None
    draft_lookup: drafting.Lookup = False
    draft_vocab: drafting.Vocab = None
    lossy: drafting.Lossy = None
    viskip: drafting.ViSkip = None
    sample: sampling.Sample = None
    temperature: sampling.Temperature = None
    top_p: sampling.TopP = None
    top_k: sampling.TopK = None
    min_p: sampling.MinP = None
    candidates: sampling.Candidates = "topk"
    draft_pruning: drafting.Pruning = None
    draft_pruning_method: drafting.PruningMethod = None
    seed: Annotated[
        int, _setting("--seed", "Seed of everything random.", _DECODING, min=0, metavar="N")
    ] = 0

    json: Annotated[
        bool,
        _once("--json", "Print JSON: an object, or a list of them for several files.", _OUTPUT),
    ] = False
    jsonl: Annotated[
        bool, _once("--jsonl", "Print one JSON object to a line, as each file is done.", _OUTPUT)
    ] = False
    output: Annotated[
        Path | None,
        _once(
            "--output",
            "Write to FILE instead of standard output; FILE is replaced only when "
            "everything is done.",
            _OUTPUT,
            metavar="FILE",
        ),
    ] = None
    stats: Annotated[
        bool,
        _setting("--stats", "Print a table of speed and acceptance to standard error.", _OUTPUT),
    ] = False
    live: Annotated[
        bool | None,
        _setting(
            "--live/--no-live",
            "Watch the tree grow while decoding; needs a terminal.",
            _OUTPUT,
            show_default="when standard output and error are terminals",
        ),
    ] = None
    save_view: Annotated[
        Path | None,
        _once(
            "--save-view",
            "Keep the view: the last frame in FILE.svg, or the whole run as a page "
            "to step through in FILE.html.",
            _OUTPUT,
            metavar="FILE",
        ),
    ] = None
    quiet: Annotated[
        bool,
        _setting("--quiet", "Say nothing but errors, and show no view unless --live.", _OUTPUT),
    ] = False
    verbose: Annotated[
        bool,
        _setting(
            "--verbose",
            "Show tracebacks and the warnings of libraries.",
            _OUTPUT,
            callback=remember_verbose,
        ),
    ] = False
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="Read default settings from this file.",
            rich_help_panel=_OUTPUT,
            metavar="FILE",
            envvar=env_name("config"),
            show_envvar=False,
            is_eager=True,
            callback=apply_settings,
            show_default="sage.toml in the user's settings folder",
        ),
    ] = None


@dataclass(frozen=True)
class InfoOptions:
    """Options of the commands that only tell."""

    json: Annotated[bool, _once("--json", "Print JSON.", _OUTPUT)] = False
    verbose: Annotated[
        bool,
        _setting(
            "--verbose",
            "Show tracebacks and the warnings of libraries.",
            _OUTPUT,
            callback=remember_verbose,
        ),
    ] = False
