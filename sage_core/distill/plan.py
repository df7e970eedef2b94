"""What a run of distilling will need, told before any weights are read: memory, arithmetic, time.

The models are built without memory for their weights, so that parameters are counted and not
estimated; all else follows from their sizes by the formulas of `arithmetic`. docs/distill.md says
how far these hold.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import torch
from torch import nn

from sage_core.distill.arithmetic import Format, Layer, Tower, Work, total
from sage_core.distill.options import DistillOptions
from sage_core.distill.teacher import KEPT
from sage_core.drafts.head.config import HeadConfig
from sage_core.errors import OptionError
from sage_core.models.memory_needs import DTYPE_BYTES, Size, auto_class, measure
from sage_core.models.placement import MARGIN
from sage_core.models.quantization import Method

__all__ = ["DraftCost", "Machine", "Plan", "Shape", "Target", "draft_cost", "make_plan"]

_STEP_BYTES = 28
"""Read and written by AdamW for a weight: the weight and two moments both ways, a gradient."""


@dataclass(frozen=True)
class Shape:
    """One sample in tokens; checks itself."""

    prompt: int
    """Tokens of the prompt, those that stand for pictures included."""
    visual: int = 0
    """Those of them that stand for pictures."""
    patches: int = 0
    """That the vision tower reads."""
    answer: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.visual < self.prompt or self.patches < 0 or self.answer < 2:
            raise OptionError(f"no sample has this shape: {self}")

    @property
    def rows(self) -> int:
        """Positions of the answer that are learned from: its last token teaches nothing."""
        return self.answer - 1

    @property
    def tokens(self) -> int:
        """That the target reads, answer included."""
        return self.prompt + self.rows


@dataclass(frozen=True)
class Machine:
    """How fast a device computes; by default an H200 in bfloat16. Checks itself."""

    flops: float = 989e12
    """Operations a second at its peak, without sparsity."""
    use: float = 0.4
    """The share of the peak that training reaches."""
    bandwidth: float = 4.3e12
    """Bytes a second from its memory, as measured by a copy."""
    gpu: bool = True
    """The draft trains in mixed precision; on a CPU it trains in float32."""

    def __post_init__(self) -> None:
        if not (self.flops > 0 and 0 < self.use <= 1 and self.bandwidth > 0):
            raise OptionError(f"no machine is like this: {self}")


@dataclass(frozen=True, eq=False)
class Target:
    """A target without weights."""

    name: str
    model: Any
    """On the meta device."""
    size: Size
    dtype: str
    """Of its weights in memory."""
    method: Method | None = None

    @classmethod
    def of(cls, name: str, config: Any, dtype: str, method: Method | None = None) -> Target:
        """The target that ``config`` describes, see `models.sizes.measure`.

        Raises:
            ModelError: the configuration describes no model that writes text.
        """
        size = measure(name, config)
        with torch.device("meta"):
            model = auto_class(config).from_config(deepcopy(config), dtype=torch.float32)
        return cls(name, model.requires_grad_(False), size, dtype, method)

    @property
    def text(self) -> Any:
        return self.model.get_decoder().config

    @property
    def head_weights(self) -> int:
        return int(self.model.get_output_embeddings().weight.numel())

    def reading(self, rows: int, patches: int, scored: int) -> Work:
        """One pass without gradients over ``rows`` tokens, of which ``scored`` get logits."""
        layers = Layer.of(self.text).work(rows, rows) * self.text.num_hidden_layers
        return total(
            [Tower.of(self.model).work(patches), layers, Work(2.0 * scored * self.head_weights)]
        )


@dataclass(frozen=True)
class DraftCost:
    """The draft's part of one lesson."""

    parameters: int
    """That are trained."""
    frozen: int
    """That the draft holds besides: a vision tower as it is in the target."""
    forward: float
    backward: float
    """Floating-point operations; with what is computed again."""
    kept: int
    """Bytes that wait for the gradients when the loss is there."""
    peak: int
    """Most bytes at once of all that comes and goes, those included."""


def draft_cost(
    target: Target, shape: Shape, options: DistillOptions, *, mixed: bool = True
) -> DraftCost:
    """What the loss of one lesson and its gradients take.

    Args:
        target: the target.
        shape: of the lesson.
        options: of the run.
        mixed: in mixed precision, as on a GPU; else in float32.

    Raises:
        OptionError, ModelError: as the draft itself would.
    """
    if options.kind == "model":
        return _model_cost(target, shape, options, Format(mixed))
    # A head's rows come from a product, a model's from an embedding, which is in float32.
    return _head_cost(target, shape, options, Format(mixed, residual=2 if mixed else 4))


def _head_cost(target: Target, shape: Shape, options: DistillOptions, form: Format) -> DraftCost:
    from sage_core.drafts.head.init import new_head

    with torch.device("meta"):
        head = new_head(
            target.model,
            name=target.name,
            kind=options.kind,
            mode=options.mode,
            ratio=options.ratio,
            queries=options.queries,
        )
    layer = Layer.of(target.text)
    size, given = layer.size, shape.tokens - 1
    left = visual_left(head.config, shape.visual)
    scored = [shape.rows - step for step in range(min(options.depths, shape.rows))]
    passed = [given - shape.visual + left, *scored[1:]]
    compressing, body = _compression(head.config, layer, shape.visual, left, form)
    works, columns = [compressing], 0
    for rows in passed:
        columns += rows
        works.append(layer.work(rows, columns))
        body += layer.kept(rows, columns, form, masked=True) + rows * columns * form.low
        body += rows * size * (form.norm + 4)  # the final norm, and what it gives
    for rows in (given, *scored[1:]):  # a feature and an embedding, both normed, make a row
        works.append(Work(4.0 * rows * size * size))
        body += rows * size * 2 * (4 + form.low)
    body += sum(scored) * size * (4 if form.mixed else 0) + _copies(head, form)
    logits = 2.0 * sum(scored) * target.head_weights
    own, loss = total(works), _LogitLoss(options.loss, target.size.head_values, form)
    again = options.recompute
    kept = body + (0 if again else loss.kept(sum(scored)))
    # Gradients of weights that several steps use wait for the last of them.
    gradients = _multiplied(head) * form.low + layer.passing_back(passed[0], form)
    return DraftCost(
        parameters=_count(head),
        frozen=0,
        forward=own.total + logits,
        # The output head is the target's: gradients pass through it, and it has none.
        backward=own.backward + logits * (2 if again else 1),
        kept=kept,
        peak=max(
            kept + loss.passing(shape.rows) + (loss.kept(shape.rows) if again else 0),
            body + gradients,
        ),
    )


@dataclass(frozen=True)
class Plan:
    """What a run needs on one device."""

    target_parameters: int
    dtype: str
    """Of the target's weights."""
    cost: DraftCost
    memory: dict[str, int]
    """Bytes by what they are for, but for ``passes``."""
    passes: dict[str, int]
    """Most bytes that come and go in the phases of a step, one after the other."""
    flops: dict[str, float]
    """Operations of one lesson: ``read`` by the target, ``learn`` by the draft; ``write``: of the
    target writing its answer, once for each sample."""
    seconds: dict[str, float]
    """The same; ``step``: of one step whose answers are written, ``first``: of one whose are
    not."""

    @property
    def peak(self) -> int:
        """Bytes at the worst moment."""
        return sum(self.memory.values()) + max(self.passes.values())

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "peak": self.peak}


def make_plan(target: Target, shape: Shape, options: DistillOptions, machine: Machine) -> Plan:
    """What distilling takes of a device when every sample has ``shape``.

    Raises:
        OptionError, ModelError: the draft cannot be made.
    """
    cost = draft_cost(target, shape, options, mixed=machine.gpu)
    size, width = target.size, DTYPE_BYTES[target.dtype]
    weights = size.need(target.dtype, target.method).weights
    cache = size.cache_values * shape.tokens * width
    logits = shape.rows * size.head_values * width
    example = 2 * shape.tokens * int(target.text.hidden_size) * width + logits
    memory = {
        "target": weights,
        "draft": 4 * (cost.parameters + cost.frozen),
        "gradients": 4 * cost.parameters,
        "moments": 8 * cost.parameters,
        "lessons": example + KEPT,
        "margin": MARGIN["gpu" if machine.gpu else "cpu"],
    }
    passes = {
        "target": size.work_values * shape.tokens * width + cache + logits,
        "draft": cost.peak,
        "optimizer": 4 * cost.parameters,
    }
    prefill = target.reading(shape.prompt, shape.patches, 1).total
    row = target.reading(1, 0, 1).products
    flops = {
        "write": prefill + shape.answer * row,
        "read": target.reading(shape.tokens, shape.patches, shape.rows).total,
        "learn": cost.forward + cost.backward,
    }
    speed = machine.flops * machine.use
    seconds = {
        # A token is written by a pass that reads all weights and does little with them.
        "write": prefill / speed
        + shape.answer * max((weights + cache) / machine.bandwidth, row / speed),
        "read": flops["read"] / speed,
        "learn": flops["learn"] / speed,
    }
    seconds["step"] = options.batch * (seconds["read"] + seconds["learn"])
    seconds["step"] += _STEP_BYTES * cost.parameters / machine.bandwidth
    seconds["first"] = seconds["step"] + options.batch * seconds["write"]
    parameters = size.linear + size.others
    return Plan(parameters, target.dtype, cost, memory, passes, flops, seconds)


@dataclass(frozen=True)
class _LogitLoss:
    """Bytes of the loss of so many rows of logits."""

    name: str
    vocabulary: int
    form: Format

    def kept(self, rows: int) -> int:
        """Log-probabilities, and in a cross-entropy the distribution that is wanted."""
        return rows * self.vocabulary * (4 if self.name == "acceptance" else 8)

    def passing(self, rows: int) -> int:
        """Besides: the logits, and what is made of them on the way."""
        return rows * self.vocabulary * (self.form.low + (8 if self.name == "acceptance" else 4))


def visual_left(config: HeadConfig, visual: int) -> int:
    """Rows that a head makes of a picture's; of ``select``, where it chooses the most."""
    if config.kind == "head" or not visual:
        return visual
    if config.kind == "vispec":
        return config.queries
    counts = [_branch_rows(config, name, visual) for name in config.branches]
    several = sum(counts) if config.mode == "concat" else max(counts)
    return min(visual, several)


def _branch_rows(config: HeadConfig, branch: str, visual: int) -> int:
    if branch in ("text", "resampler"):
        return config.queries if branch == "resampler" else 0
    return ceil(visual / config.ratio_of(branch))


def _compression(
    config: HeadConfig, layer: Layer, visual: int, left: int, form: Format
) -> tuple[Work, int]:
    """Arithmetic, and bytes kept, of what makes few rows of a picture's."""
    square = 2.0 * layer.size * layer.size
    works, kept = [], 0
    branches = ("resampler",) if config.kind == "vispec" else config.branches
    for branch in branches if visual else ():
        if branch == "convolution":
            works.append(Work(square * visual))
            kept += visual * layer.size * form.low
        elif branch == "resampler":
            products = square * 2 * (visual + config.queries)
            works.append(Work(products, 4.0 * config.queries * visual * layer.size))
            kept += visual * layer.size * (8 + 4 * form.low)
        kept += left * layer.size * 4
    return total(works), kept


def _model_cost(target: Target, shape: Shape, options: DistillOptions, form: Format) -> DraftCost:
    from sage_core.distill.model_student import new_model

    with torch.device("meta"):
        model = new_model(target.model, options.layers, options.hidden)
    text = model.get_decoder().config
    layer, tower, count = Layer.of(text), Tower.of(model), int(text.num_hidden_layers)
    head = int(model.get_output_embeddings().weight.numel())
    rows, tokens, again = shape.rows, shape.tokens, options.recompute
    layers, logits = layer.work(tokens, tokens) * count, Work(2.0 * rows * head)
    learning = total([layers, logits, tower.learning(shape.patches)])
    # Computing again stops where nothing more is asked for: before a layer's last product.
    twice = (layers + layer.last(tokens) * -count).total if again else 0.0
    one = layer.kept(tokens, tokens, form, masked=False)
    body = count * (tokens * layer.size * 4 if again else one)
    body += (2 * head if form.mixed else 0) if again else _copies(model, form)
    body += tokens * layer.size * (form.norm + 4) + tower.kept(shape.patches, layer.size, form)
    # Autocast holds its copies of weights until the loss is there.
    copies = _copies(model, form) - 2 * head if form.mixed and again else 0
    loss = _LogitLoss(options.loss, target.size.head_values, form)
    kept = body + loss.kept(rows)
    return DraftCost(
        parameters=_count(model),
        frozen=sum(p.numel() for p in model.parameters() if not p.requires_grad),
        forward=total([layers, logits, tower.work(shape.patches)]).total,
        backward=learning.backward + twice,
        kept=kept,
        peak=max(
            kept + loss.passing(rows) + copies,
            body + rows * target.size.head_values * form.low + 4 * head,  # the head's gradient
            body + (one if again else 0) + layer.passing_back(tokens, form),
        ),
    )


def _count(module: nn.Module) -> int:
    """Numbers in what is trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def _copies(module: nn.Module, form: Format) -> int:
    """Bytes of the bfloat16 copies of its weights that autocast makes."""
    return 2 * _multiplied(module) if form.mixed else 0


def _multiplied(module: nn.Module) -> int:
    """Weights of products."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, kinds))
