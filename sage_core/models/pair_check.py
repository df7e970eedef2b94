"""Whether a draft fits its target, by configurations and tokenizers alone."""

from __future__ import annotations

from typing import Any

from sage_core.errors import ModelError
from sage_core.models.families import Family, find_family

_VISION = (
    *("image_size", "patch_size", "temporal_patch_size", "spatial_merge_size"),
    *("image_grid_pinpoints", "vision_aspect_ratio", "vision_feature_select_strategy"),
)
"""Fields of the configuration or its vision part that decide the token count of an image."""


def check_pair(
    target: Any, draft: Any, target_tokenizer: Any, draft_tokenizer: Any
) -> type[Family]:
    """Refuse a draft whose prompts would differ from the target's; returns their family.

    ``target`` and ``draft`` are transformers configurations.

    Raises:
        ModelError: names the first difference.
    """
    family = find_family(target)
    theirs = find_family(draft)
    # Models of one specific family preprocess images alike; those of a generic family may not.
    for_all = not family.model_types and hasattr(target, "vision_config")
    if theirs is not family or (for_all and target.model_type != draft.model_type):
        raise ModelError(
            f"a {draft.model_type} draft does not fit a {target.model_type} target: "
            "choose a draft of the target's own family"
        )
    check_same_tokenizer(target_tokenizer, draft_tokenizer)
    check_same_placeholders(target, draft)
    for key in _VISION:
        what = f"target and draft split images into different tokens: {key}"
        _check_equal(what, _vision(target, key), _vision(draft, key))
    _check_embedding_size(target, draft, draft_tokenizer)
    return family


def check_same_tokenizer(target: Any, draft: Any) -> None:
    """Refuse a pair in which an id stands for different tokens.

    Embeddings may be padded to different sizes.

    Raises:
        ModelError: names the first id that differs.
    """
    ours = {index: token for token, index in target.get_vocab().items()}
    theirs = {index: token for token, index in draft.get_vocab().items()}
    for index in sorted(ours.keys() | theirs.keys()) if ours != theirs else ():
        mine, other = (repr(ids[index]) if index in ids else "nothing" for ids in (ours, theirs))
        what = f"target and draft have different tokenizers: token {index}"
        _check_equal(what, mine, other)


def check_same_placeholders(target: Any, draft: Any) -> None:
    """Refuse a pair with different placeholder ids for images or videos.

    Ids that only one configuration has are not used by the family.

    Raises:
        ModelError: names the first that differs.
    """
    ours, theirs = _ids(target), _ids(draft)
    for key in sorted(ours.keys() & theirs.keys()):
        _check_equal(key, ours[key], theirs[key])


def _ids(config: Any) -> dict[str, int]:
    """The token ids in a configuration that concern images and videos."""
    seen = ("image", "video", "vision")
    return {
        key: value
        for key, value in vars(config).items()
        if key.startswith(seen)
        and key.endswith(("_token_id", "_token_index"))
        and value is not None
    }


def _check_equal(what: str, mine: Any, other: Any) -> None:
    if mine != other:
        raise ModelError(
            f"{what} is {mine} for the target and {other} for the draft: choose a draft of the "
            "target's own family"
        )


def _vision(config: Any, key: str) -> Any:
    vision = getattr(config, "vision_config", None)
    return getattr(config, key, getattr(vision, key, None))


def _check_embedding_size(target: Any, draft: Any, tokenizer: Any) -> None:
    """Refuse a draft whose embedding is too small for the tokens of a prompt."""
    most = draft.get_text_config(decoder=True).vocab_size
    if target.get_text_config(decoder=True).vocab_size <= most:
        return
    ids = [*tokenizer.get_vocab().values(), *_ids(target).values()]
    beyond = min((index for index in ids if index >= most), default=None)
    if beyond is not None:
        raise ModelError(
            f"the draft has {most} tokens and cannot embed token {beyond}, which prompts may "
            "contain: choose another draft"
        )
