"""The options that say how a token is chosen: the likeliest one, or drawn."""

from __future__ import annotations

from typing import Annotated, Literal

from sage_cli.options.flags import DECODING, setting

__all__ = ["Candidates", "MinP", "Sample", "Temperature", "TopK", "TopP"]

OWN = "the model's own, if text is sampled"

Sample = Annotated[
    bool | None,
    setting(
        "--sample/--greedy",
        "Draw each token, with the figures that the model comes with, rather than taking the "
        "likeliest. So do the figures below; --greedy overrules them.",
        DECODING,
        show_default="greedy",
    ),
]
Temperature = Annotated[
    float | None,
    setting(
        "--temperature",
        "Sample at this temperature; 0 is greedy.",
        DECODING,
        metavar="X",
        show_default=OWN,
    ),
]
TopP = Annotated[
    float | None,
    setting(
        "--top-p",
        "Sample among the likeliest tokens that make up this much of the probability; 1 is off.",
        DECODING,
        metavar="X",
        show_default=OWN,
    ),
]
TopK = Annotated[
    int | None,
    setting(
        "--top-k",
        "Sample among this many of the likeliest tokens; 0 is off.",
        DECODING,
        metavar="N",
        show_default=OWN,
    ),
]
MinP = Annotated[
    float | None,
    setting(
        "--min-p",
        "Sample among tokens at least this share as likely as the likeliest.",
        DECODING,
        metavar="X",
        show_default=OWN,
    ),
]
Candidates = Annotated[
    Literal["topk", "drawn"],
    setting(
        "--candidates",
        "What the draft offers when text is sampled: its likeliest tokens (topk; the text is the "
        "same under every policy) or tokens drawn from it (drawn). The odds are the model's own "
        "with both.",
        DECODING,
        metavar="KIND",
    ),
]
