"""The options about the models and where they run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from sage_cli.options import flags

__all__ = ["ModelOptions"]

_setting = partial(flags.setting, flags.MODELS)


@dataclass(frozen=True)
class ModelOptions:
    """What `sage_core.load` takes; ``model`` is its ``target``."""

    model: Annotated[
        str | None,
        _setting(
            "Target model: a folder, or a name in the local cache or on the Hugging Face Hub, "
            "optionally with @REVISION.",
            metavar="MODEL",
            show_default="the bundled sage-tiny",
        ),
    ] = None
    draft: Annotated[
        str,
        _setting(
            "Draft model: 'auto' (the known draft of the target, if there is one), 'ngram' (n-gram "
            "lookup in the prompt and the text so far), 'none', the folder of a head trained for "
            "the target, or a model named as for --model.",
            metavar="MODEL",
        ),
    ] = "auto"
    revision: Annotated[
        str | None, _setting("Branch, tag or commit of --model on the Hub.", metavar="REV")
    ] = None
    draft_revision: Annotated[
        str | None, _setting("Branch, tag or commit of --draft on the Hub.", metavar="REV")
    ] = None
    device: Annotated[
        str,
        _setting(
            "Device: 'auto' (one GPU if both models fit, else several, else the CPU), 'cpu', "
            "'cuda', 'cuda:1', 'mps'.",
            metavar="DEVICE",
        ),
    ] = "auto"
    draft_device: Annotated[
        str,
        _setting(
            "Device of the draft model: 'auto' (the target's if there is room), or as --device.",
            metavar="DEVICE",
        ),
    ] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        _setting(
            "Data type of the weights: auto (the checkpoint's own on a GPU; float32 on a CPU, or "
            "the checkpoint's own if that does not fit), float32, bfloat16 or float16.",
            metavar="DTYPE",
        ),
    ] = "auto"
    quantization: Annotated[
        Literal["none", "8bit", "4bit", "int8", "int4"],
        _setting(
            "Quantize the target's weights while loading: 8bit or 4bit (bitsandbytes), int8 or "
            "int4 (torchao), or none.",
            metavar="METHOD",
        ),
    ] = "none"
    trust_remote_code: Annotated[
        bool,
        flags.once(flags.MODELS, "Run Python code that the checkpoints contain. Read it first."),
    ] = False
