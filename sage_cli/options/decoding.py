"""The options about decoding. A field named as one of `sage_core.Options` is handed to it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import typer

from sage_cli.options import flags
from sage_core.checks import MAX_SEED, MIN_SEED

__all__ = ["AUTO", "BATCH", "DecodingOptions", "count_or_auto"]

_setting = partial(flags.setting, flags.DECODING)

AUTO = "auto"
_OWN = "the model's own, if text is sampled"


def count_or_auto(given: str | int) -> str:
    """``auto`` or a positive integer, as it was written; the settings file has numbers."""
    text = str(given)
    if text != AUTO and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise typer.BadParameter(f"{text!r} is neither 'auto' nor a positive integer")
    return text


def _positive(given: str | float) -> float:
    try:
        value = float(given)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise typer.BadParameter("must be a positive number")
    return value


BATCH: Any = _setting(
    "Batch size: how many files to decode at once, each with the same text as alone (in bfloat16 "
    "and float16 but for ties within rounding, see --reproducible). 'auto' is the size that was "
    "measured to be fastest on this kind of device, and 1 where text is streamed to a terminal.",
    parser=count_or_auto,
    metavar="N|auto",
)


@dataclass(frozen=True)
class DecodingOptions:
    """How tokens are drafted, verified and chosen."""

    policy: Annotated[
        str | None,
        _setting(
            "Tree policy: autoregressive, chain, static, optimal-static, eagle2, spec-llava, "
            "sage-paper or sage, with options after a colon, as in 'sage-paper:dmax=12,nmax=32'. "
            "The text is the same with all of them; only the speed differs.",
            metavar="SPEC",
            show_default="sage",
        ),
    ] = None
    max_new_tokens: Annotated[
        int, _setting("Maximum number of new tokens.", min=1, metavar="N")
    ] = 256
    repetition_penalty: Annotated[
        float | None,
        _setting(
            "Penalty on tokens that occurred already; 1.0 is off.",
            parser=_positive,
            metavar="X",
            show_default="the model's own",
        ),
    ] = None
    draft_lookup: Annotated[
        bool,
        _setting(
            "Add n-gram matches in the prompt and the text so far to the draft's trees, while "
            "that pays."
        ),
    ] = False
    draft_vocab: Annotated[
        str | None,
        _setting(
            "Reduce the draft's LM head to some tokens: those in a file that sage draft-vocab has "
            "written, or the N most frequent ones of the model's own draft_vocab.json. The text "
            "is the same.",
            metavar="FILE|N",
            show_default="all tokens",
        ),
    ] = None
    lossy: Annotated[
        str | None,
        flags.once(
            flags.DECODING,
            "Experimental: accept drafts by a rule that does not keep the model's own text: "
            "'ears:tolerance=0.1' (sampled text, with --candidates drawn) or "
            "'spec-vla:radius=1,first=ID,last=ID' (greedy text of ordered action tokens). Every "
            "output says so.",
            metavar="RULE",
            show_default="exact",
        ),
    ] = None
    viskip: Annotated[
        float | None,
        _setting(
            "Experimental: ViSkip, no drafting while the last token has at least this share of "
            "its attention on visual tokens; the paper has 0.35. The text is the same.",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            show_default="always draft",
        ),
    ] = None
    sample: Annotated[
        bool | None,
        _setting(
            "Sample, with the checkpoint's own temperature, top-p and top-k unless given, or "
            "decode greedily. The sampling options below imply --sample; --greedy overrides them.",
            "--sample/--greedy",
            show_default="greedy",
        ),
    ] = None
    temperature: Annotated[
        float | None,
        _setting("Sampling temperature; 0 is greedy.", metavar="X", show_default=_OWN),
    ] = None
    top_p: Annotated[
        float | None,
        _setting(
            "Nucleus sampling: sample from the most likely tokens that together have this "
            "probability; 1 is off.",
            metavar="X",
            show_default=_OWN,
        ),
    ] = None
    top_k: Annotated[
        int | None,
        _setting("Sample from the N most likely tokens; 0 is off.", metavar="N", show_default=_OWN),
    ] = None
    min_p: Annotated[
        float | None,
        _setting(
            "Sample from tokens with at least this share of the most likely token's probability.",
            metavar="X",
            show_default=_OWN,
        ),
    ] = None
    candidates: Annotated[
        Literal["topk", "drawn"],
        _setting(
            "Draft candidates of sampled text: the draft's most likely tokens (topk; the text is "
            "the same under every policy) or tokens sampled from the draft (drawn). Both keep the "
            "model's own distribution.",
            metavar="KIND",
        ),
    ] = "topk"
    draft_pruning: Annotated[
        float | None,
        _setting(
            "Share of the visual tokens to prune from the draft's prompt, 0 to 0.95. The text is "
            "the same.",
            min=0.0,
            max=0.95,
            metavar="RATIO",
            show_default="0.9 for videos and 0.8 for images from 2,048 visual tokens on, else 0",
        ),
    ] = None
    draft_pruning_method: Annotated[
        Literal["verifier", "alignment", "uniform", "random", "none"] | None,
        _setting(
            "How the visual tokens to prune are chosen: by the target's attention (verifier), by "
            "rising similarity to the text (alignment), uniform, random, or none.",
            metavar="METHOD",
            show_default="verifier",
        ),
    ] = None
    seed: Annotated[int, _setting("Random seed.", min=MIN_SEED, max=MAX_SEED, metavar="N")] = 0
    reproducible: Annotated[
        bool,
        _setting(
            "Shape trees by fixed costs instead of measured ones, so that equal runs give equal "
            "texts in bfloat16 and float16 too, where the tree's shape decides between tokens that "
            "are tied up to rounding. Trees are then not fitted to the machine, which is usually "
            "somewhat slower."
        ),
    ] = False
