"""The options that say who drafts, what it sees, and how its trees are shaped."""

from __future__ import annotations

from typing import Annotated, Literal

from sage_cli.options.flags import DECODING, MODELS, once, setting

__all__ = [
    "Draft",
    "DraftDevice",
    "DraftRevision",
    "Lookup",
    "Lossy",
    "Policy",
    "Pruning",
    "PruningMethod",
    "ViSkip",
    "Vocab",
    "check_vocab",
]

Draft = Annotated[
    str,
    setting(
        "--draft",
        "The draft model: 'auto' for the known partner (the best that is cached, if one is), "
        "'ngram' to look drafts up in the text so far, 'none' to go without, the folder of a head "
        "trained for the target, or as --model.",
        MODELS,
        metavar="MODEL",
    ),
]
DraftRevision = Annotated[
    str | None,
    setting(
        "--draft-revision",
        "Branch, tag or commit of --draft on the hub.",
        MODELS,
        metavar="REV",
    ),
]
DraftDevice = Annotated[
    str,
    setting(
        "--draft-device",
        "Where the draft runs: 'auto' (beside the target if there is room), or as --device.",
        MODELS,
        metavar="DEVICE",
    ),
]
Policy = Annotated[
    str | None,
    setting(
        "--policy",
        "How drafts are shaped: autoregressive, chain, static, optimal-static, eagle2, "
        "spec-llava, sage-paper or sage, with options after a colon, as in "
        "'sage-paper:dmax=12,nmax=32'. The text is the same with all of them; only the speed "
        "differs.",
        DECODING,
        metavar="SPEC",
        show_default="sage",
    ),
]
Lookup = Annotated[
    bool,
    setting(
        "--draft-lookup",
        "Add to the draft's trees what followed the same words earlier in the conversation, "
        "while that pays.",
        DECODING,
    ),
]
Vocab = Annotated[
    str | None,
    setting(
        "--draft-vocab",
        "Have the draft score some tokens only: those of a file that sage draft-vocab has written, "
        "or, given a number, so many of the most frequent ones in the model's own "
        "draft_vocab.json. The text is the same with any.",
        DECODING,
        metavar="LIST",
        show_default="all tokens",
    ),
]
Lossy = Annotated[
    str | None,
    once(
        "--lossy",
        "Give up the model's own text for speed: 'ears:tolerance=0.1' (sampled text, with "
        "--candidates drawn) or 'spec-vla:radius=1,first=ID,last=ID' (greedy text with ordered "
        "action tokens). Every output says so.",
        DECODING,
        metavar="RULE",
        show_default="exact",
    ),
]
ViSkip = Annotated[
    float | None,
    setting(
        "--viskip",
        "Draft nothing while the last token gave this share of its attention to the picture; "
        "ViSkip's own is 0.35. The text is the same.",
        DECODING,
        min=0.0,
        max=1.0,
        metavar="SHARE",
        show_default="always draft",
    ),
]
Pruning = Annotated[
    float | None,
    setting(
        "--draft-pruning",
        "Share of the visual tokens that the draft does without, 0 to 0.95. The text is the "
        "same with any.",
        DECODING,
        min=0.0,
        max=0.95,
        metavar="RATIO",
        show_default="0.9 for clips and 0.8 for pictures from 2,048 visual tokens on, else 0",
    ),
]
PruningMethod = Annotated[
    Literal["verifier", "alignment", "uniform", "random", "none"] | None,
    setting(
        "--draft-pruning-method",
        "How they are chosen: by the target's attention (verifier), by its growing likeness "
        "to the text (alignment), uniform, random, or none.",
        DECODING,
        metavar="METHOD",
        show_default="verifier",
    ),
]


def check_vocab(vocab: str | None, draft: str, *, drafts: bool = True) -> None:
    """Refuse a ``--draft-vocab`` that makes no sense, or where no draft model drafts.

    Raises:
        OptionError: it is one of these.
    """
    from sage_core.drafts.ngram import is_lookup
    from sage_core.drafts.vocab.token_list import as_asked
    from sage_core.errors import OptionError

    as_asked(vocab)
    drafts = drafts and draft != "none" and not is_lookup(draft)
    if vocab is not None and not drafts:
        raise OptionError(
            "--draft-vocab is what a draft model scores, and none drafts here: leave it out"
        )
