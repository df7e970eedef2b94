"""Padded batches of `generate`: split into single prompts, and the texts padded to one batch again.

`generate` passes a decoding function one tensor of ids, padded on the left, and the images of all
prompts one after another. Here each prompt gets ids without padding and as many images as its
placeholders need. The number of tokens of an image is what the target's own encoder returns.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from sage_core.engine.results import DecodeOutput
from sage_core.errors import OptionError, UnsupportedError
from sage_core.generation.prepare import refuse_config
from sage_core.generation.sequence import follows_paths
from sage_core.models.inputs import visual_mask

__all__ = ["is_padded", "pad_texts", "split_prompts"]

_PLACEHOLDERS = {"image": "image_token_id", "video": "video_token_id"}
_UNENCODED = {"image": (), "video": ("second_per_grid_ts",)}
"""Inputs of images or videos that are not arguments of the encoder."""
_ONE_BY_ONE = "pass the prompts one by one"


def is_padded(input_ids: Tensor, arguments: Mapping[str, Any]) -> bool:
    """Whether these are several prompts, or one with padding."""
    mask = arguments.get("attention_mask")
    return len(input_ids) > 1 or (mask is not None and not bool(mask.all()))


def split_prompts(
    model: Any, input_ids: Tensor, arguments: Mapping[str, Any], call: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The arguments of `SpeculativeDecoder.generate` for each prompt of a batch.

    Args:
        model: the target.
        input_ids: (B, n), padded on the left.
        arguments: of the decoding function that `generate` calls.
        call: the arguments of that `generate`.

    Raises:
        OptionError: padding on the right, or a prompt of padding only.
        UnsupportedError: not called by `generate`, or inputs that cannot be assigned to prompts.
    """
    config = arguments["generation_config"]
    refuse_config(config)
    if "kwargs" not in call:
        raise UnsupportedError(f"several prompts work within generate only: {_ONE_BY_ONE}")
    given = {k: v for k, v in call["kwargs"].items() if v is not None and k != "input_ids"}
    mask = arguments.get("attention_mask")
    kept = torch.ones_like(input_ids).bool() if mask is None else mask.bool()
    if not bool(kept.any(dim=1).all()):
        raise OptionError("a prompt is padding and nothing else: leave it out")
    if bool((kept[:, :-1] & ~kept[:, 1:]).any()):
        raise OptionError("prompts must be padded on the left: set tokenizer.padding_side='left'")
    given.pop("attention_mask", None)
    prompts: list[dict[str, Any]] = [
        {"input_ids": ids[keep][None], "attention_mask": torch.ones_like(ids[keep][None])}
        for ids, keep in zip(input_ids, kept, strict=True)
    ]
    for modality in _PLACEHOLDERS:
        media = _media(model, modality, prompts, arguments, given)
        for prompt, own in zip(prompts, media, strict=True):
            prompt.update(own)
    for name, value in given.items():
        if hasattr(config, name) or isinstance(value, bool | int | float | str):
            continue  # a setting
        if not isinstance(value, Tensor) or value.shape[:2] != input_ids.shape:
            raise UnsupportedError(f"{name} of several prompts cannot be split: {_ONE_BY_ONE}")
        for prompt, row, keep in zip(prompts, value, kept, strict=True):
            prompt[name] = row[keep][None]
    rules = _rules(config, input_ids.shape[1], call)
    return [{**prompt, **rules(number)} for number, prompt in enumerate(prompts)]


def pad_texts(
    outputs: Sequence[DecodeOutput], input_ids: Tensor, config: Any
) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
    """Texts of one batch as `generate` returns them: ids, scores and logits, None if not requested.

    ``input_ids`` (B, n) are kept; new tokens are padded on the right to the longest text. Scores
    and logits after a text's end are 0.

    Raises:
        OptionError: there is no padding token.
    """
    width = int(input_ids.shape[1])
    news = [o.sequences[0, o.stats.prompt_tokens :] for o in outputs]
    longest = max(len(new) for new in news)
    pad = config.pad_token_id
    if pad is None and any(len(new) < longest for new in news):
        raise OptionError("texts of several lengths need a pad_token_id: pass one")
    ids = input_ids.new_full((len(news), width + longest), 0 if pad is None else int(pad))
    ids[:, :width] = input_ids
    for row, new in zip(ids, news, strict=True):
        row[width : width + len(new)] = new
    scores, logits = [o.scores for o in outputs], [o.logits for o in outputs]
    return ids, _stacked(scores, longest), _stacked(logits, longest)


def _rules(config: Any, width: int, call: Mapping[str, Any]) -> Callable[[int], dict[str, Any]]:
    """The generation arguments of each prompt: the batch's, whose lengths count the padding."""
    processors = call.get("logits_processor") or []
    for processor in processors:
        if not follows_paths(processor):
            raise UnsupportedError(
                f"the logits processor {type(processor).__name__} may keep a state, and is called "
                "for one prompt at a time here: set its attribute stateless = True if it keeps "
                f"none, or {_ONE_BY_ONE}"
            )
    own = copy.deepcopy(config)
    own.max_new_tokens = int(config.max_length) - width
    own.min_new_tokens = max(0, int(config.min_length or 0) - width) or config.min_new_tokens
    own.max_length, own.min_length = None, 0
    allowed = call.get("prefix_allowed_tokens_fn")

    def rules(number: int) -> dict[str, Any]:
        made: dict[str, Any] = {"generation_config": own, "logits_processor": processors}
        made["stopping_criteria"] = call.get("stopping_criteria")
        if allowed is not None:  # it takes the prompt's number
            made["prefix_allowed_tokens_fn"] = lambda _, ids: allowed(number, ids)
        given = {name: value for name, value in made.items() if value}
        # generate takes None in a configuration for "the model's own": here it means no end token
        return given if own.eos_token_id is not None else {**given, "eos_token_id": None}

    return rules


def _media(
    model: Any,
    modality: str,
    prompts: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    given: dict[str, Any],
) -> list[dict[str, Any]]:
    """Each prompt's own images or videos, which are removed from ``given``."""
    encode = getattr(model.base_model, f"get_{modality}_features", None)
    if encode is None:
        return [{} for _ in prompts]
    known = [name for name in inspect.signature(encode).parameters if name in given]
    media = {name: given.pop(name) for name in (*known, *_UNENCODED[modality]) if name in given}
    if not any(name.startswith("pixel_values") for name in media):
        return [{} for _ in prompts]
    outputs = (arguments.get("mm_encoder_outputs") or {}).get(modality)
    if outputs is None:
        outputs = encode(**{name: media[name] for name in known}, return_dict=True)
    sizes = [len(features) for features in outputs.pooler_output]
    mark = _PLACEHOLDERS[modality]
    asked = [int(visual_mask(model.config, p["input_ids"], [mark]).sum()) for p in prompts]
    owned = _owned(sizes, asked, modality)
    parts = {name: _parts(name, value, media, len(sizes)) for name, value in media.items()}
    return [
        {name: part(start, end) for name, part in parts.items()} if end > start else {}
        for start, end in owned
    ]


def _owned(sizes: Sequence[int], asked: Sequence[int], what: str) -> list[tuple[int, int]]:
    """Each prompt's images, as the first and the end.

    ``sizes`` are the tokens of each image, ``asked`` the placeholders of each prompt.
    """
    index = {total: i for i, total in enumerate(accumulate(sizes), 1)} | {0: 0}
    bounds = [index[total] for total in (0, *accumulate(asked)) if total in index]
    if len(bounds) <= len(asked) or sum(sizes) != sum(asked):
        raise UnsupportedError(
            f"the prompts have {', '.join(map(str, asked))} {what} tokens, and the {what}s "
            f"{', '.join(map(str, sizes))}: {_ONE_BY_ONE}"
        )
    return list(pairwise(bounds))


def _parts(
    name: str, value: Any, media: Mapping[str, Any], count: int
) -> Callable[[int, int], Tensor]:
    """A function that returns the part of a tensor that is of images ``start`` to ``end``."""
    value = torch.as_tensor(value)
    bounds = [-1]
    grid = media.get("image_grid_thw" if name == "pixel_values" else "video_grid_thw")
    if name.startswith("pixel_values") and grid is not None:  # patches of all images
        bounds = [0, *accumulate(grid.prod(dim=-1).tolist())]
    elif name == "batch_num_images":  # images per sample of the processor
        groups = {total: i for i, total in enumerate([0, *accumulate(value.tolist())])}
        bounds = [groups.get(index, -1) for index in range(count + 1)]
    elif len(value) == count:
        bounds = list(range(count + 1))
    if bounds[-1] != len(value):
        raise UnsupportedError(f"{name} of several prompts cannot be split: {_ONE_BY_ONE}")

    def part(start: int, end: int) -> Tensor:
        if min(bounds[start], bounds[end]) < 0:
            raise UnsupportedError(f"{name} joins images of two prompts: {_ONE_BY_ONE}")
        return value[bounds[start] : bounds[end]]

    return part


def _stacked(
    records: Sequence[tuple[Tensor, ...] | None], longest: int
) -> tuple[Tensor, ...] | None:
    """(1, vocabulary) for each token of each text -> (B, vocabulary) for each step."""
    kept = [record for record in records if record is not None]
    if not kept:
        return None
    nothing = torch.zeros_like(kept[0][0])
    return tuple(
        torch.cat([record[step] if step < len(record) else nothing for record in kept])
        for step in range(longest)
    )
