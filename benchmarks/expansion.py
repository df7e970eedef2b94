"""Models of published shapes that compute the bundled pair's function, at their own cost.

    python -m benchmarks.expansion                     sizes and floors of the three pairs

A speed-up needs real acceptance and real cost; weights of published models are not available
everywhere. So the bundled pair is written into larger matrices such that logits stay the same:

- The small model's hidden entries are the first of the large one's; the others stay zero. Weights
  that read them, and every head, unit and layer that the small model lacks, are random; weights
  that write to them, and the outputs of those heads, units and layers, are zero.
- RMSNorm divides by the mean over more entries, so its weights are multiplied by
  sqrt(small / large hidden size) and its epsilon by small / large hidden size.
- Rotary pair j of a head of d entries turns by theta^(-2j/d). In a head of r*d entries, pair r*j
  turns by the same, so pair j is put there; theta stays the small model's. The pairs between are
  random in the keys and zero in the queries.
- Scores are divided by the square root of the head size, so queries are multiplied by sqrt(r).
- A key/value head of the small model is one of the large model's; its query heads are the first of
  that head's group. A shape with too few key/value heads gets as many as the small model has, and
  query heads to match; the report says so.
- A token beyond the small vocabulary must never be likely. The last extra layer puts a small
  constant into an unused hidden entry (an attention whose values are constant gives that constant),
  and the head turns it into a very negative logit for those tokens.

The vision tower stays small: it takes no part in decoding.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import number, table
from benchmarks.pairs import measured_pair

BANDWIDTH = 4.3e12
"""Bytes a second that an H200 reads, as measured."""
CONTEXTS = (1024, 4096, 32768)
FLAG = 2.0**-7
"""The constant that marks unlikely tokens: too small to change the last norm."""
UNLIKELY = -1e6
"""The head's weight for it; the logit is this times the flag over the hidden states' norm."""


@dataclass(frozen=True)
class Shape:
    """A language model's shape. ``tied``: the head is the embedding."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    mlp: int
    vocab: int
    tied: bool

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.name}: {self.heads} heads do not share {self.kv_heads} keys")

    @property
    def kv_bytes(self) -> int:
        """Keys and values of one token, in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_size


QWEN_7B = Shape("Qwen2.5-VL-7B", 28, 3584, 28, 4, 128, 18944, 152064, False)
QWEN_32B = Shape("Qwen2.5-VL-32B", 64, 5120, 40, 8, 128, 27648, 152064, False)
QWEN_3B = Shape("Qwen2.5-VL-3B", 36, 2048, 16, 2, 128, 11008, 151936, True)
QWEN_HALF_B = Shape("Qwen2.5-0.5B", 24, 896, 14, 2, 64, 4864, 151936, True)
LLAVA_7B = Shape("LLaVA-OneVision-7B", 28, 3584, 28, 4, 128, 18944, 152000, False)
LLAVA_HALF_B = Shape("LLaVA-OneVision-0.5B", 24, 896, 14, 2, 64, 4864, 152000, True)

PAIRS: dict[str, tuple[Shape, Shape]] = {
    "qwen-7b": (QWEN_7B, QWEN_HALF_B),
    "qwen-32b": (QWEN_32B, QWEN_3B),
    "llava-7b": (LLAVA_7B, LLAVA_HALF_B),
}
"""Target and draft, as published; `fitted` makes room for the bundled pair."""


def fitted(shape: Shape, text: Any) -> Shape:
    """``shape`` with enough key/value heads to hold a small model of configuration ``text``.

    Raises:
        ValueError: the small model does not fit, and more heads would not help.
    """
    size = _head_size(text)
    for name, small, large in (
        ("layers", text.num_hidden_layers, shape.layers - (shape.vocab > text.vocab_size)),
        ("hidden entries", text.hidden_size, shape.hidden - (shape.vocab > text.vocab_size)),
        ("MLP units", text.intermediate_size, shape.mlp),
        ("tokens", text.vocab_size, shape.vocab),
        ("entries a head", size, shape.head_size),
    ):
        if small > large:
            raise ValueError(f"{shape.name} has room for {large} {name}, not {small}")
    if shape.head_size % size:
        raise ValueError(f"{shape.name}: heads of {shape.head_size} are no multiple of {size}")
    kv_heads = max(shape.kv_heads, text.num_key_value_heads)
    group = max(
        math.ceil(shape.heads / kv_heads), text.num_attention_heads // text.num_key_value_heads
    )
    return replace(shape, kv_heads=kv_heads, heads=kv_heads * group)


def config_of(small: Any, shape: Shape) -> Any:
    """The configuration of a LLaVA-OneVision model ``small`` with a language model of ``shape``."""
    text = small.config.text_config
    if text.model_type != "qwen2":
        raise ValueError(f"expansion supports Qwen2 language models, not {text.model_type}")
    shape = fitted(shape, text)
    config = copy.deepcopy(small.config)
    wide = config.text_config
    wide.num_hidden_layers = shape.layers
    wide.layer_types = ["full_attention"] * shape.layers
    wide.hidden_size = shape.hidden
    wide.num_attention_heads = shape.heads
    wide.num_key_value_heads = shape.kv_heads
    wide.head_dim = shape.head_size
    wide.intermediate_size = shape.mlp
    wide.vocab_size = shape.vocab
    wide.rms_norm_eps = text.rms_norm_eps * text.hidden_size / shape.hidden
    wide.max_position_embeddings = 131072
    config.tie_word_embeddings = wide.tie_word_embeddings = shape.tied
    return config


@torch.no_grad()
def expand(small: Any, shape: Shape, device: str = "cpu", dtype: torch.dtype | None = None) -> Any:
    """A model of ``shape`` that gives the logits of ``small``, and unlikely ones beyond them.

    Args:
        small: a LLaVA-OneVision model with a Qwen2 language model.
        shape: the larger language model; `fitted` to the small one first.
        device: where to build it; random weights come from that device's generator.
        dtype: of the weights, by default the small model's.

    Raises:
        ValueError: the small model does not fit the shape.
    """
    dtype = dtype or small.dtype
    with torch.device(device):
        large = type(small)._from_config(config_of(small, shape), dtype=dtype)
    for name in ("vision_tower", "multi_modal_projector"):
        source, target = getattr(small.model, name), getattr(large.model, name)
        if name == "vision_tower":
            target.load_state_dict(source.state_dict())
        else:
            _project(source, target)
    _pad(large.model.image_newline, small.model.image_newline)
    _decoder(small, large)
    large.generation_config = copy.deepcopy(small.generation_config)
    return large.eval()


def _decoder(small: Any, large: Any) -> None:
    narrow, wide = small.get_decoder(), large.get_decoder()
    places = _Places.of(narrow.config, wide.config)
    for index, layer in enumerate(wide.layers):
        _silence(layer)
        if index < len(narrow.layers):
            _layer(narrow.layers[index], layer, places)
    _norm(wide.norm, narrow.norm, places)
    small_rows = narrow.embed_tokens.weight
    h, known = places.hidden, small_rows.shape[0]
    embedding, head = wide.embed_tokens.weight, large.get_output_embeddings().weight
    embedding[:known] = 0
    embedding[:known, :h] = small_rows.to(embedding)
    head[:known, :h] = small.get_output_embeddings().weight.to(head)
    if head.shape[0] == known:
        return
    # Entry h is the flag; behind it the last norm gives zeros, whatever the head holds.
    head[:, h] = 0
    head[known:, :h] = 0
    head[known:, h] = UNLIKELY
    wide.norm.weight[h] = places.norm_scale
    flag = wide.layers[-1].self_attn
    flag.v_proj.weight[0] = 0
    flag.v_proj.bias[0] = 1
    flag.o_proj.weight[h, 0] = FLAG


def _silence(layer: Any) -> None:
    """The layer adds nothing to the hidden states; its other weights stay random."""
    layer.self_attn.o_proj.weight.zero_()
    layer.mlp.down_proj.weight.zero_()


def _layer(small: Any, large: Any, places: _Places) -> None:
    h = places.hidden
    _norm(large.input_layernorm, small.input_layernorm, places)
    _norm(large.post_attention_layernorm, small.post_attention_layernorm, places)
    ours, theirs = large.self_attn, small.self_attn
    # In the heads that are used, queries are zero wherever the small model has no entry.
    filler = ours.q_proj.weight[places.query, h:].clone()
    ours.q_proj.weight[places.used] = 0
    ours.q_proj.weight[places.query, h:] = filler
    _rows(ours.q_proj, theirs.q_proj, places.query, h, places.query_scale)
    _rows(ours.k_proj, theirs.k_proj, places.key, h)
    _rows(ours.v_proj, theirs.v_proj, places.key, h)
    weight = ours.o_proj.weight
    weight[:h, places.query] = theirs.o_proj.weight.to(weight)
    units = small.mlp.gate_proj.weight.shape[0]
    for name in ("gate_proj", "up_proj"):
        weight = getattr(large.mlp, name).weight
        weight[:units, :h] = getattr(small.mlp, name).weight.to(weight)
    weight = large.mlp.down_proj.weight
    weight[:h, :units] = small.mlp.down_proj.weight.to(weight)


@dataclass(frozen=True, eq=False)
class _Places:
    """Positions of the small model's entries in the large one's."""

    hidden: int
    norm_scale: float
    query_scale: float
    query: Tensor
    """Rows of q_proj (and columns of o_proj) by the small model's."""
    key: Tensor
    """Rows of k_proj and v_proj."""
    used: Tensor
    """All rows of the query heads that stand for one of the small model's."""

    @classmethod
    def of(cls, narrow: Any, wide: Any) -> _Places:
        size, large_size = _head_size(narrow), _head_size(wide)
        ratio = large_size // size
        half = torch.arange(size // 2) * ratio
        entries = torch.cat([half, half + large_size // 2])
        kv_heads = torch.arange(narrow.num_key_value_heads)
        small_group = narrow.num_attention_heads // narrow.num_key_value_heads
        group = wide.num_attention_heads // wide.num_key_value_heads
        heads = (kv_heads[:, None] * group + torch.arange(small_group)).flatten()
        return cls(
            hidden=narrow.hidden_size,
            norm_scale=math.sqrt(narrow.hidden_size / wide.hidden_size),
            query_scale=math.sqrt(ratio),
            query=(heads[:, None] * large_size + entries).flatten(),
            key=(kv_heads[:, None] * large_size + entries).flatten(),
            used=(heads[:, None] * large_size + torch.arange(large_size)).flatten(),
        )


def _rows(large: nn.Linear, small: nn.Linear, rows: Tensor, h: int, scale: float = 1.0) -> None:
    large.weight[rows, :h] = (small.weight.float() * scale).to(large.weight)
    large.bias[rows] = (small.bias.float() * scale).to(large.bias)


def _norm(large: Any, small: Any, places: _Places) -> None:
    scaled = small.weight.float() * places.norm_scale
    large.weight[: places.hidden] = scaled.to(large.weight)


def _pad(large: Tensor, small: Tensor) -> None:
    large.zero_()
    large[tuple(slice(n) for n in small.shape)] = small.to(large)


def _project(small: Any, large: Any) -> None:
    """Visual features become the small hidden entries, followed by zeros."""
    for name in ("linear_1", "linear_2"):
        theirs, ours = getattr(small, name), getattr(large, name)
        _pad(ours.weight, theirs.weight)
        if theirs.bias is not None:
            _pad(ours.bias, theirs.bias)


def _head_size(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


@dataclass(frozen=True)
class Floor:
    """The least bytes that one pass of a model reads, and how long that takes."""

    shape: Shape
    parameters: int
    """Of the language model with its head."""
    pass_bytes: int
    """Weights that every pass reads, in 16 bits: all but an embedding that is not the head."""

    def milliseconds(self, context: int = 0, bandwidth: float = BANDWIDTH) -> float:
        """The floor of a pass over few nodes behind ``context`` tokens."""
        return 1000 * (self.pass_bytes + context * self.shape.kv_bytes) / bandwidth


def floor(small: Any, shape: Shape) -> Floor:
    """Counted on the model itself, built on the meta device."""
    with torch.device("meta"):
        large = type(small)._from_config(config_of(small, shape), dtype=torch.bfloat16)
    return floor_of(large, fitted(shape, small.config.text_config))


def floor_of(model: Any, shape: Shape) -> Floor:
    """The floor of a loaded model."""
    held = [*model.get_decoder().parameters(), model.get_output_embeddings().weight]
    parameters = sum(p.numel() for p in {id(p): p for p in held}.values())
    embedding = 0 if shape.tied else shape.vocab * shape.hidden
    return Floor(shape, parameters, 2 * (parameters - embedding))


def floors_table(
    pairs: Sequence[tuple[str, Floor, Floor]], bandwidth: float = BANDWIDTH
) -> list[str]:
    """Markdown: parameters, bytes and floors by context, two lines a pair."""
    head = ["pair", "model", "layers x hidden", "heads / kv", "parameters", "GB a pass"]
    head += ["KB a token", *(f"ms at {context:,}" for context in CONTEXTS)]
    rows = []
    for name, *found in pairs:
        for role, of in zip(("target", "draft"), found, strict=True):
            shape = of.shape
            rows.append(
                [
                    *(name, f"{role}: {shape.name}", f"{shape.layers} x {shape.hidden}"),
                    *(f"{shape.heads} / {shape.kv_heads}", f"{of.parameters / 1e9:.2f} B"),
                    *(number(of.pass_bytes / 1e9), number(shape.kv_bytes / 1e3, 0)),
                    *(number(of.milliseconds(n, bandwidth)) for n in CONTEXTS),
                ]
            )
    title = f"Floors at {bandwidth / 1e12:.2f} TB/s: the bytes that one pass must read, over that."
    return [title, "", *table(head, rows)]


def bundled_floors(
    pair: Any, shapes: Mapping[str, tuple[Shape, Shape]]
) -> list[tuple[str, Floor, Floor]]:
    """The floors of some target and draft shapes by name, expanded from a loaded pair."""
    return [
        (name, floor(pair.target, target), floor(pair.draft, draft))
        for name, (target, draft) in shapes.items()
    ]


def differences(
    shapes: Mapping[str, tuple[Shape, Shape]], floors: Sequence[tuple[str, Floor, Floor]]
) -> list[str]:
    """Where the bundled pair needed another shape than the published one, a line each."""
    lines = []
    for name, *found in floors:
        for published, of in zip(shapes[name], found, strict=True):
            if of.shape != published:
                lines.append(
                    f"- {published.name} has {of.shape.heads} heads over {of.shape.kv_heads} keys, "
                    f"not {published.heads} over {published.kv_heads}: the bundled model's "
                    f"key/value heads would not fit."
                )
    return list(dict.fromkeys(lines))


def main(argv: list[str] | None = None) -> int:
    """Print sizes and floors; nothing large is allocated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bandwidth", type=float, default=BANDWIDTH, help="bytes a second")
    bandwidth = parser.parse_args(argv).bandwidth
    floors = bundled_floors(measured_pair(), PAIRS)
    print("\n".join([*floors_table(floors, bandwidth), "", *differences(PAIRS, floors)]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
