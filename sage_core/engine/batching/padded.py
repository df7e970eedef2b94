"""A padded batch of `generate` as prompts of their own, and their texts as one batch again.

`generate` hands a decoding function one tensor of ids, padded on the left, and the pictures of all
prompts one after another. Here each prompt gets its own: ids without padding, and as many pictures
as its placeholders ask for. How many tokens a picture has is what the target's own encoder says.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from sage_core.engine.results import DecodeOutput
from sage_core.errors import OptionError, UnsupportedError
from sage_core.generation.prepare import refuse_config
from sage_core.generation.sequence import follows_paths
from sage_core.models.inputs import visual_mask

__all__ = ["is_padded", "joined", "rows"]

_MARKS = {"image": "image_token_id", "video": "video_token_id"}
_BESIDE = {"image": (), "video": ("second_per_grid_ts",)}
"""What belongs to pictures or clips and is not read by the encoder."""
_ONE_BY_ONE = "pass the prompts one by one"


def is_padded(input_ids: Tensor, arguments: Mapping[str, Any]) -> bool:
    """Whether these are several prompts, or one with padding."""
    mask = arguments.get("attention_mask")
    return len(input_ids) > 1 or (mask is not None and not bool(mask.all()))


def rows(
    model: Any, input_ids: Tensor, arguments: Mapping[str, Any], call: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What `SpeculativeDecoder.generate` takes, for each prompt of a batch.

    Args:
        model: the target.
        input_ids: (B, n), padded on the left.
        arguments: what `generate` calls a decoding function with.
        call: the arguments of that `generate`.

    Raises:
        OptionError: padding that is not on the left, or nothing else in a row.
        UnsupportedError: called by something else than `generate`, or what cannot be told apart.
    """
    refuse_config(arguments["generation_config"])
    if "kwargs" not in call:
        raise UnsupportedError(
            f"several prompts at once are decoded within generate only: {_ONE_BY_ONE}"
        )
    given = {k: v for k, v in call["kwargs"].items() if v is not None and k != "input_ids"}
    mask = arguments.get("attention_mask")
    kept = torch.ones_like(input_ids).bool() if mask is None else mask.bool()
    _check_padding(kept)
    given.pop("attention_mask", None)
    split: list[dict[str, Any]] = [
        {"input_ids": ids[keep][None], "attention_mask": torch.ones_like(ids[keep][None])}
        for ids, keep in zip(input_ids, kept, strict=True)
    ]
    for modality in _MARKS:
        for row, media in zip(split, _media(model, modality, split, arguments, given), strict=True):
            row.update(media)
    for name, value in _rest(given, arguments["generation_config"]):
        if not isinstance(value, Tensor) or value.shape[:2] != input_ids.shape:
            raise UnsupportedError(f"{name} of several prompts cannot be told apart: {_ONE_BY_ONE}")
        for row, own, keep in zip(split, value, kept, strict=True):
            row[name] = own[keep][None]
    rules = _rules(arguments["generation_config"], input_ids.shape[1], call)
    return [{**row, **rules(number)} for number, row in enumerate(split)]


def joined(
    outputs: Sequence[DecodeOutput], input_ids: Tensor, config: Any
) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
    """Texts of one batch as `generate` gives them: ids, scores and logits, None if not asked for.

    ``input_ids`` (B, n) stay as they were; new tokens are padded on the right to the longest text.
    Of a text that has ended scores and logits are 0.

    Raises:
        OptionError: there is no token to pad with.
    """
    width = int(input_ids.shape[1])
    prompts = [int(output.stats.prompt_tokens) for output in outputs]
    news = [o.sequences[0, n:] for o, n in zip(outputs, prompts, strict=True)]
    longest = max(len(new) for new in news)
    pad = config.pad_token_id
    if pad is None and any(len(new) < longest for new in news):
        raise OptionError("texts of several lengths need a pad_token_id: pass one")
    ids = input_ids.new_full((len(news), width + longest), 0 if pad is None else int(pad))
    ids[:, :width] = input_ids
    for row, new in zip(ids, news, strict=True):
        row[width : width + len(new)] = new
    return (
        ids,
        _stacked([o.scores for o in outputs], longest),
        _stacked([o.logits for o in outputs], longest),
    )


def _check_padding(kept: Tensor) -> None:
    """(B, n) bool: each row must end with what is kept, and have something."""
    if not bool(kept.any(dim=1).all()):
        raise OptionError("a prompt is padding and nothing else: leave it out")
    if bool((kept[:, :-1] & ~kept[:, 1:]).any()):
        raise OptionError("prompts must be padded on the left: set tokenizer.padding_side='left'")


def _rules(config: Any, width: int, call: Mapping[str, Any]) -> Callable[[int], dict[str, Any]]:
    """How each row's text goes on and ends: as the batch's, whose lengths count the padding."""
    given = call.get("logits_processor") or []
    for processor in given:
        if not follows_paths(processor):
            raise UnsupportedError(
                f"the logits processor {type(processor).__name__} is asked about one prompt at a "
                "time here, and may keep a state: say that it keeps none by an attribute "
                f"stateless = True, or {_ONE_BY_ONE}"
            )
    own = copy.deepcopy(config)
    own.max_new_tokens = int(config.max_length) - width
    own.min_new_tokens = max(0, int(config.min_length or 0) - width) or config.min_new_tokens
    own.max_length, own.min_length = None, 0
    allowed = call.get("prefix_allowed_tokens_fn")

    def rules(number: int) -> dict[str, Any]:
        made: dict[str, Any] = {"generation_config": own, "logits_processor": given}
        made["stopping_criteria"] = call.get("stopping_criteria")
        if allowed is not None:  # it is told which row it is asked about
            made["prefix_allowed_tokens_fn"] = lambda _, ids: allowed(number, ids)
        return {name: value for name, value in made.items() if value}

    return rules


def _rest(given: Mapping[str, Any], config: Any) -> Iterator[tuple[str, Any]]:
    """What describes prompts and is no picture: neither settings nor single values."""
    for name, value in given.items():
        if not hasattr(config, name) and not isinstance(value, bool | int | float | str):
            yield name, value


def _media(
    model: Any,
    modality: str,
    split: Sequence[Mapping[str, Any]],
    arguments: Mapping[str, Any],
    given: dict[str, Any],
) -> list[dict[str, Any]]:
    """Each row's own pictures or clips; they are taken out of ``given``."""
    encode = getattr(model.base_model, f"get_{modality}_features", None)
    if encode is None:
        return [{} for _ in split]
    known = [name for name in inspect.signature(encode).parameters if name in given]
    media = {name: given.pop(name) for name in (*known, *_BESIDE[modality]) if name in given}
    pixels = next((name for name in media if name.startswith("pixel_values")), None)
    if pixels is None:
        return [{} for _ in split]
    outputs = (arguments.get("mm_encoder_outputs") or {}).get(modality)
    if outputs is None:
        seen = {name: media[name] for name in known}
        outputs = encode(**seen, return_dict=True)
    sizes = [len(features) for features in outputs.pooler_output]
    mark = _MARKS[modality]
    asked = [int(visual_mask(model.config, row["input_ids"], [mark]).sum()) for row in split]
    owned = _owned(sizes, asked, modality)
    parts = {name: _parts(name, value, media, len(sizes)) for name, value in media.items()}
    return [
        {name: part(start, end) for name, part in parts.items()} if end > start else {}
        for start, end in owned
    ]


def _owned(sizes: Sequence[int], asked: Sequence[int], what: str) -> list[tuple[int, int]]:
    """Which pictures each prompt has, first and behind the last.

    ``sizes`` are tokens of each picture, ``asked`` placeholders of each prompt.
    """
    place = {**{total: i for i, total in enumerate(accumulate(sizes), 1)}, 0: 0}
    bounds = [place.get(total) for total in (0, *accumulate(asked))]
    if None in bounds or sum(sizes) != sum(asked):
        raise UnsupportedError(
            f"the prompts ask for {', '.join(map(str, asked))} {what} tokens, and the {what}s have "
            f"{', '.join(map(str, sizes))}: {_ONE_BY_ONE}"
        )
    found = [bound for bound in bounds if bound is not None]
    return list(pairwise(found))


def _parts(
    name: str, value: Any, media: Mapping[str, Any], count: int
) -> Callable[[int, int], Tensor]:
    """What gives the part of a tensor that belongs to pictures ``start`` to ``end``."""
    value = torch.as_tensor(value)
    bounds: list[int] | None = None
    grid = media.get("image_grid_thw" if name == "pixel_values" else "video_grid_thw")
    if name.startswith("pixel_values") and grid is not None:  # patches of all pictures in a row
        bounds = [0, *accumulate(grid.prod(dim=-1).tolist())]
    elif name == "batch_num_images":  # pictures that are seen together
        groups = {total: i for i, total in enumerate([0, *accumulate(value.tolist())])}
        bounds = [groups.get(index, -1) for index in range(count + 1)]
    elif len(value) == count:
        bounds = list(range(count + 1))
    if bounds is None or bounds[-1] != len(value):
        raise UnsupportedError(f"{name} of several prompts cannot be told apart: {_ONE_BY_ONE}")
    places = bounds

    def part(start: int, end: int) -> Tensor:
        if min(places[start], places[end]) < 0:
            raise UnsupportedError(f"{name} joins pictures of two prompts: {_ONE_BY_ONE}")
        return value[places[start] : places[end]]

    return part


def _stacked(
    records: Sequence[tuple[Tensor, ...] | None], longest: int
) -> tuple[Tensor, ...] | None:
    """Records of (1, vocabulary) a token as (B, vocabulary) a step."""
    kept = [record for record in records if record is not None]
    if not kept:
        return None
    nothing = torch.zeros_like(kept[0][0])
    return tuple(
        torch.cat([record[step] if step < len(record) else nothing for record in kept])
        for step in range(longest)
    )
