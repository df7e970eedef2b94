"""What passes through transformer layers cost: arithmetic, and what is kept for gradients.

Everything follows from sizes. A multiplication with its addition counts as two operations. What
is small beside a product with weights (norms, activations, rotations) is not counted as arithmetic,
but is as memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["Format", "Layer", "Tower", "Work"]


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a pass."""

    products: float = 0.0
    """Of rows with weights."""
    attention: float = 0.0
    """Of queries with keys, and of their weights with values."""

    @property
    def total(self) -> float:
        return self.products + self.attention

    @property
    def backward(self) -> float:
        """Of gradients of rows and weights: two products for one; attention is computed anew."""
        return 2 * self.products + 2.5 * self.attention

    def __add__(self, other: Work) -> Work:
        return Work(self.products + other.products, self.attention + other.attention)

    def __mul__(self, times: float) -> Work:
        return Work(times * self.products, times * self.attention)


@dataclass(frozen=True)
class Format:
    """Bytes of a number, by where it stands."""

    mixed: bool
    """Weights are float32 and products run in bfloat16, as under autocast on a GPU; else all is
    float32."""
    residual: int = 4
    """Of what passes from layer to layer."""

    @property
    def low(self) -> int:
        """What a product takes and gives."""
        return 2 if self.mixed else 4

    def inputs(self, products: int) -> int:
        """A number that so many products read: under autocast each makes a copy of its own."""
        return self.low * (products if self.mixed else 1)

    @property
    def norm(self) -> int:
        """A number that a norm keeps: as it came, in float32, and normed."""
        return 4 + self.residual


@dataclass(frozen=True)
class Layer:
    """One decoder layer: attention and a gated feed-forward network, or experts of such."""

    size: int
    query: int
    """Width of all heads' queries."""
    key: int
    """Width of all heads' keys."""
    heads: int
    inner: int
    """Width of the feed-forward network, or of one expert."""
    experts: int = 1
    """Experts that a row goes to."""
    choices: int = 0
    """Experts that a router chooses from; 0 without one."""
    normed_heads: bool = False
    """Queries and keys have norms of their own."""

    @classmethod
    def of(cls, text: Any) -> Layer:
        """From the text part of a transformers configuration."""
        heads = int(text.num_attention_heads)
        width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
        groups = int(getattr(text, "num_key_value_heads", None) or heads)
        own = getattr(text, "moe_intermediate_size", None)
        return cls(
            size=int(text.hidden_size),
            query=heads * width,
            key=groups * width,
            heads=heads,
            inner=int(own or text.intermediate_size),
            experts=int(text.num_experts_per_tok) if own else 1,
            choices=int(text.num_experts) if own else 0,
            normed_heads="qwen3" in text.model_type,
        )

    @property
    def weights(self) -> int:
        """That one row is multiplied with."""
        attention = 2 * self.size * (self.query + self.key)
        return attention + self.size * (3 * self.inner * self.experts + self.choices)

    def work(self, rows: int, columns: int) -> Work:
        """Of ``rows`` that each see ``columns``, those that a mask hides included."""
        return Work(2.0 * rows * self.weights, 4.0 * rows * columns * self.query)

    def last(self, rows: int) -> Work:
        """The part of `work` that is its last product."""
        return Work(2.0 * rows * self.size * self.inner * self.experts)

    def passing_back(self, rows: int, form: Format) -> int:
        """Bytes of gradients that pass through it at their most, where it is widest."""
        return 3 * rows * self.inner * self.experts * form.low

    def kept(self, rows: int, columns: int, form: Format, *, masked: bool) -> int:
        """Bytes that a pass leaves for the gradients.

        Args:
            rows: that pass.
            columns: keys that they see.
            form: of the numbers.
            masked: a mask is given: keys are then repeated for all heads that share them.
        """
        norms = 2 * self.size * form.norm
        if self.normed_heads:
            norms += (self.query + self.key) * form.norm
        inputs = self.size * (form.inputs(3) + form.inputs(2))
        attended = 2 * self.query * form.low + 4 * self.heads
        forward = 4 * self.inner * form.low * self.experts
        if self.choices:  # each expert gathers its rows and weighs what it gives
            forward += 2 * self.size * form.low * self.experts + 8 * self.choices
        keys = 2 * columns * form.low * (self.query if masked else self.key)
        return rows * (norms + inputs + attended + forward) + keys


@dataclass(frozen=True)
class Tower:
    """What encodes pictures, with what fits its output to the decoder; nothing without eyes."""

    weights: float = 0.0
    """That one patch is multiplied with."""
    trained: float = 0.0
    """Those of them that ask for gradients."""
    layers: int = 0
    size: int = 0
    inner: int = 0
    gated: bool = False
    tile: int | None = None
    """Patches of a picture that see each other; None for all of it."""
    window: int | None = None
    """The same in layers that see less."""
    whole: int = 0
    """Layers that see ``tile``, where there is a ``window``."""

    @classmethod
    def of(cls, model: Any) -> Tower:
        """Of a transformers model, which may be without memory for its weights."""
        vision = getattr(model.config, "vision_config", None)
        if vision is None:
            return cls()
        size = int(getattr(vision, "embed_dim", None) or vision.hidden_size)
        inner = getattr(vision, "intermediate_size", None) or size * vision.mlp_ratio
        side = getattr(vision, "image_size", None)
        window = getattr(vision, "window_size", None)
        weights, trained = _vision_weights(model, getattr(vision, "spatial_merge_size", 1) ** 2)
        return cls(
            weights=weights,
            trained=trained,
            layers=int(getattr(vision, "num_hidden_layers", None) or vision.depth),
            size=size,
            inner=int(inner),
            gated=window is not None,
            tile=(side // vision.patch_size) ** 2 if side else None,
            window=(window // vision.patch_size) ** 2 if window else None,
            whole=len(getattr(vision, "fullatt_block_indexes", None) or ()),
        )

    def work(self, patches: int) -> Work:
        """Of so many patches, taken as one picture where there are no tiles."""
        seen = min(patches, self.tile or patches)
        columns = self.layers * seen
        if self.window:
            columns = self.whole * seen + (self.layers - self.whole) * min(seen, self.window)
        return Work(2.0 * patches * self.weights, 4.0 * patches * columns * self.size)

    def learning(self, patches: int) -> Work:
        """The part of `work` that asks for gradients."""
        if not self.trains:
            return Work(2.0 * patches * self.trained)
        return self.work(patches)

    @property
    def trains(self) -> bool:
        """Whether it is trained itself, not only what fits its output to the decoder."""
        return self.trained > self.weights / 2

    def kept(self, patches: int, out: int, form: Format) -> int:
        """Bytes that a pass leaves for the gradients, about; ``out``: the decoder's size."""
        fitting = patches * 3 * out * form.low if self.trained else 0
        if not self.trains:
            return fitting
        values = 6 * self.size + (4 if self.gated else 2) * self.inner
        return fitting + self.layers * patches * (2 * self.size * form.norm + values * form.low)


def _vision_weights(model: Any, merged: int) -> tuple[float, float]:
    """Weights for one patch, outside of decoder and head: all, and those that are trained.

    ``merged`` patches make one token, and what merges them passes tokens.
    """
    text = {id(module) for module in model.get_decoder().modules()}
    text.add(id(model.get_output_embeddings()))
    kinds = (nn.Linear, nn.Conv2d, nn.Conv3d)
    every = trained = 0.0
    for name, module in model.named_modules():
        if isinstance(module, kinds) and id(module) not in text:
            count = module.weight.numel() / (merged if "merger" in name else 1)
            every += count
            trained += count if module.weight.requires_grad else 0
    return every, trained


def total(works: Iterable[Work]) -> Work:
    """Their sum."""
    return sum(works, Work())
