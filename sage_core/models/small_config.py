"""A configuration cut to a model that is built and run on a CPU within milliseconds.

What decides how attention works is kept: a layer of each kind, ratios of heads, rotary parameters,
and the order of all lengths (windows, chunks, rotary borders, the context), which become so short
that a text of a few dozen tokens crosses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

STEP = 8
"""Tokens between two lengths of a small configuration."""
VOCAB = 96
MAX_LAYERS = 8
HEAD = 16
WIDTH = 64

_LENGTH = re.compile(
    r"^(n_positions|n_ctx|(original_)?max_position_embeddings|max_seq\w*|seq_length|context_length"
    r"|\w*window|\w*window_size|window_length|\w*chunk_size|local_attention|block_size"
    r"|index_topk|floor_scale)$"
)
_PERIOD = re.compile(r"(step|interval|period|freq|pattern|every\w*|first_k_dense\w*)$")
_EXPERTS = re.compile(r"^((\w*_)?n(um)?_(local_|routed_)?experts)$")
_PER_TOKEN = re.compile(r"(experts_per_tok(en)?|top_k_experts|moe_top_?k|moe_k)$")
_INNER = re.compile(r"(intermediate_size|ffn_dim|ffn_hidden_size|n_inner|inner_size|ff_dim)$")
_VOCAB = re.compile(r"vocab_size")
_TOWER = re.compile(r"(hidden_size|embed_dim|d_model|projection_dim|hidden_dim|output_dim)$")
_LOW_RANK = (
    *("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
    *("qk_head_dim", "head_dim"),
)
_BY_FREQUENCY = ("short_factor", "long_factor", "mrope_section")


@dataclass(frozen=True)
class Border:
    """A length in a configuration."""

    name: str
    """The field."""
    tokens: int
    """Its value."""
    small: int
    """Its value in the small configuration."""


@dataclass(frozen=True, eq=False)
class SmallConfig:
    """A cut copy of a configuration, and the lengths that a trial must cross, ascending."""

    config: Any
    borders: tuple[Border, ...]

    @property
    def longest(self) -> int:
        return max((border.small for border in self.borders), default=0)


_RULES = ("heads", "widths", "vocabulary", "inner", "experts", "vision")
CUTS: tuple[tuple[str, ...], ...] = (
    _RULES,
    *(tuple(rule for rule in _RULES if rule != kept) for kept in _RULES),
    (),
)
"""What else is cut than layers and lengths, the smallest copy first; not every class can be built
with every cut."""


def text_config(config: Any) -> Any:
    """The part of a configuration that describes the text decoder."""
    return config.get_text_config(decoder=True)


def context_length(config: Any) -> int | None:
    """The longest text in tokens that a model was made for; None if its configuration says none.

    Rotary scaling lengthens it as in vLLM: yarn counts from the original length, linear scaling
    from the stated one; dynamic scaling, which changes with the text, is not counted.
    """
    text = text_config(config)
    names = ("max_position_embeddings", "max_seq_len", "n_positions")
    stated = next((value for n in names if _is_length(value := getattr(text, n, None))), None)
    if stated is None:
        return None
    rope = getattr(text, "rope_parameters", None)
    rope = rope if isinstance(rope, Mapping) else {}
    factor, kind = rope.get("factor"), rope.get("rope_type")
    if not isinstance(factor, int | float) or not factor > 1:
        return int(stated)
    original = rope.get("original_max_position_embeddings")
    base = {"yarn": original if _is_length(original) else stated, "linear": stated}.get(str(kind))
    return int(stated if base is None else max(stated, base * factor))


def lengths(config: Any) -> tuple[Border, ...]:
    """The lengths in a configuration, ascending."""
    return _cut_lengths(text_config(deepcopy(config)))


def cut(config: Any, rules: Sequence[str]) -> SmallConfig:
    """A cut copy; ``rules`` is one of `CUTS`."""
    small = deepcopy(config)
    for part in (small, text_config(small)):
        if getattr(part, "quantization_config", None) is not None:
            del part.quantization_config
    text = text_config(small)
    borders = _cut_lengths(text)  # first: a window may be as long as the model is wide
    _cut_layers(text)
    for name in {"vision_config": None, "audio_config": None, **type(small).sub_configs}:
        part = getattr(small, name, None)
        if hasattr(part, "to_dict") and part is not text and "vision" in rules:
            _cut_vision(part)
    if "experts" in rules:
        _cut_experts(text)
    if "inner" in rules:
        _replace(text, lambda name, value: WIDTH if _INNER.search(name) else value)
    if "vocabulary" in rules:
        _cut_vocabulary(small, text)
    if "widths" in rules:
        _cut_widths(text, HEAD if "heads" in rules else None)
    return SmallConfig(small, borders)


def _cut_layers(text: Any) -> None:
    """Keep the first layer of each kind, two at least."""
    count = int(text.num_hidden_layers)
    listed = {
        name: value
        for name, value in vars(text).items()
        if isinstance(value, list | tuple) and len(value) == count
    }
    periods = [v for n, v in _integers(text) if _PERIOD.search(n) and 1 < v <= MAX_LAYERS]
    least = min(count, max([2, *(period + 1 for period in periods)]))
    shared = getattr(text, "num_kv_shared_layers", None) or 0  # the last ones have no own cache
    kinds = [
        repr((*row, i >= count - shared))
        for i, row in enumerate(zip(*listed.values(), strict=True))
    ]
    chosen = {i for i, kind in enumerate(kinds) if kind not in kinds[:i]}
    if len(chosen) > MAX_LAYERS:
        types = [str(kind) for kind in getattr(text, "layer_types", None) or kinds]
        chosen = {i for i, kind in enumerate(types) if kind not in types[:i]}
    more = (i for i in range(count) if i not in chosen)
    while len(chosen) < least:
        chosen.add(next(more))
    for name, value in listed.items():
        setattr(text, name, type(value)(value[i] for i in sorted(chosen)))
    text.num_hidden_layers = len(chosen)
    if shared:
        text.num_kv_shared_layers = sum(i >= count - shared for i in chosen)


def _cut_vision(part: Any) -> None:
    """A tower is built, but sees nothing."""

    def smaller(name: str, value: int) -> int:
        if re.search(r"(^depth|layers)$", name):
            return 2
        if re.search(r"heads$", name):
            return 2
        return WIDTH if _INNER.search(name) or _TOWER.search(name) else value

    _replace(part, smaller)


def _cut_experts(text: Any) -> None:
    def smaller(name: str, value: int) -> int:
        if _EXPERTS.match(name):
            return min(value, 4)
        if _PER_TOKEN.search(name):
            return min(value, 2)
        return 1 if name in ("n_group", "topk_group") else value

    _replace(text, smaller)


def _cut_vocabulary(config: Any, text: Any) -> None:
    old = text.vocab_size
    for part in (config, text):
        _replace(part, lambda name, value: VOCAB if value == old or _VOCAB.match(name) else value)
        pad = getattr(part, "pad_token_id", None)
        if isinstance(pad, int) and pad >= VOCAB:
            part.pad_token_id = 0


def _cut_widths(text: Any, wanted: int | None) -> None:
    """Fewer heads in the same ratios, of the ``wanted`` size; None: of the size they have."""
    hidden: Any = text.hidden_size
    heads: Any = getattr(text, "num_attention_heads", None)
    shared = [name for name in ("num_key_value_heads", "num_kv_heads") if name in vars(text)]
    groups: Any = next((value for name in shared if (value := getattr(text, name))), heads)
    given: Any = getattr(text, "head_dim", None)
    if not all(isinstance(value, int) for value in (hidden, heads, groups)):
        return
    if getattr(text, "kv_lora_rank", None):  # latent attention: all widths by one factor
        sizes = {name: value for name, value in _integers(text) if name in _LOW_RANK}
        if all(value % 8 == 0 for value in sizes.values()):
            for name, value in sizes.items():
                setattr(text, name, value // 8)
            _scale_frequencies(text, 8)
        few, new = min(heads, 4), min(hidden, WIDTH)
    else:
        head = given or hidden // heads
        size = wanted if wanted and head % wanted == 0 else head
        kv = min(groups, 2)
        few = kv * min(2, heads // groups)
        new = few * size if head * heads == hidden else min(hidden, WIDTH)
        if "head_dim" in vars(text):
            text.head_dim = size
        _scale_frequencies(text, head // size)
    _replace(text, lambda _name, value: new if value == hidden and value > VOCAB else value)
    text.hidden_size = new
    for name in shared:
        setattr(text, name, few if groups == heads else min(groups, 2))
    text.num_attention_heads = few


def _scale_frequencies(text: Any, factor: int) -> None:
    """Shorten what counts rotary frequencies, for heads smaller by ``factor``."""
    if isinstance(getattr(text, "rotary_dim", None), int):
        text.rotary_dim = max(2, text.rotary_dim // factor)
    for rope in _dicts(text):
        for name in _BY_FREQUENCY:
            values = rope.get(name)
            if not isinstance(values, list | tuple) or factor == 1:
                continue
            if name != "mrope_section":
                rope[name] = list(values[: max(1, len(values) // factor)])
                continue
            parts = [max(1, value // factor) for value in values]
            parts[0] += sum(values) // factor - sum(parts)
            rope[name] = parts


def _cut_lengths(text: Any) -> tuple[Border, ...]:
    """Replace all lengths by multiples of `STEP`, from the second on, in the same order."""
    found: list[tuple[Any, str, int]] = []
    for owner in (vars(text), *_dicts(text)):
        found += [
            (owner, name, value)
            for name, value in owner.items()
            if _LENGTH.match(name) and _is_length(value)
        ]
    ranks = {value: STEP * (i + 2) for i, value in enumerate(sorted({v for _, _, v in found}))}
    for owner, name, value in found:
        owner[name] = ranks[value]
    borders = {(name, value): Border(name, value, ranks[value]) for _, name, value in found}
    return tuple(sorted(borders.values(), key=lambda border: border.small))


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _integers(part: Any) -> list[tuple[str, int]]:
    return [
        (name, value)
        for name, value in vars(part).items()
        if isinstance(value, int) and not isinstance(value, bool) and not name.startswith("_")
    ]


def _replace(part: Any, rule: Any) -> None:
    """Replace integer fields by ``rule(name, value)``, if that is smaller."""
    for name, value in _integers(part):
        new = rule(name, value)
        if new < value:
            setattr(part, name, new)


def _dicts(part: Any) -> Iterator[dict[str, Any]]:
    """The dictionaries of rotary parameters, also those by layer type."""
    for name in ("rope_parameters", "rope_scaling"):
        value = vars(part).get(name)
        if isinstance(value, dict):
            yield value
            yield from (inner for inner in value.values() if isinstance(inner, dict))
