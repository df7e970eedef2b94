"""What a training step really does: operations, bytes kept for gradients, bytes at its peak.

A lesson's loss is computed by the very code that trains, on tensors that have values (small
shapes) or none (`hollow`: any shape, at no cost), under counters of PyTorch's own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM

from sage_core.distill.options import DistillOptions
from sage_core.distill.plan import Shape
from sage_core.distill.run import new_student
from sage_core.distill.teacher import Example

_ATEN = torch.ops.aten


def _attention(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def _attention_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, q, k, v))


def _grouped(rows: Any, weights: Any, *_: Any, **__: Any) -> int:
    """Rows by the weights of the expert that each goes to, or the gradient of those."""
    return int(2 * rows[0] * rows[1] * weights[-1])


_MORE = {  # which PyTorch does not count: attention on CPUs, experts
    _ATEN._grouped_mm: _grouped,
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True)
class Counts:
    """Of one lesson."""

    forward: float
    """Floating-point operations of the loss."""
    backward: float
    """Of its gradients."""
    kept: int
    """Bytes that wait for the gradients when the loss is there; weights and the lesson's own are
    left out."""
    peak: int
    """Most bytes at once of all that is made."""


class Alive(TorchDispatchMode):
    """Counts bytes of tensors as they are made and dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        before = {_storage(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _storage(tensor) not in before | self._seen:
                self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self.now -= size
            self._seen.discard(key)

        weakref.finalize(storage, gone)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def count(lose: Callable[[], Tensor], given: Iterable[Tensor], *, mixed: bool = False) -> Counts:
    """Compute a loss and its gradients under counters.

    Args:
        lose: gives the loss.
        given: weights and the lesson's own tensors, which are not counted.
        mixed: under autocast to bfloat16.
    """
    own = {_storage(tensor) for tensor in given}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    flops = FlopCounterMode(display=False, custom_mapping=_MORE)
    with flops:
        with _computing(mixed), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = lose()
        forward = flops.get_total_flops()
        waiting = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        kept.clear()
        loss.backward()
    backward = flops.get_total_flops() - forward
    del loss
    # Again without hooks, which keep what is computed again. Gradients of weights are there now,
    # as in all lessons of a step but the first.
    alive = Alive()
    with alive:
        with _computing(mixed):
            loss = lose()
        loss.backward()
    return Counts(float(forward), float(backward), waiting, alive.peak)


def _computing(mixed: bool) -> AbstractContextManager[object]:
    return torch.autocast("cpu", torch.bfloat16) if mixed else nullcontext()


def hollow(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Give a module on the meta device weights that behave as if on the CPU, without memory."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, tensor in held.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _hollow(tensor, mode)
                held[name] = made[id(tensor)]  # type: ignore[assignment]
    return module


def _hollow(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def hollow_lesson(target: Any, shape: Shape, mode: FakeTensorMode) -> Example:
    """A lesson of that shape for a text-only target."""
    config, dtype, tokens = target.get_decoder().config, target.dtype, shape.tokens
    visual = torch.zeros(tokens, dtype=torch.bool)
    visual[1 : 1 + shape.visual] = True
    with mode:
        return Example(
            inputs={"input_ids": torch.zeros(1, tokens, dtype=torch.int64)},
            prompt_tokens=shape.prompt,
            features=torch.zeros(1, tokens, config.hidden_size, dtype=dtype),
            embeds=torch.zeros(1, tokens, config.hidden_size, dtype=dtype),
            visual=visual,
            positions=torch.arange(tokens)[None],
            logits=torch.zeros(shape.rows, config.vocab_size, dtype=dtype),
        )


@dataclass(frozen=True)
class _Absent:
    """What a student asks of its teacher, without one."""

    target: Any

    @property
    def pair(self) -> Any:
        return SimpleNamespace(target_id="absent")

    def logits(self, features: Tensor) -> Tensor:
        head = self.target.get_output_embeddings()
        logits: Tensor = head(features.to(head.weight.dtype))
        return logits


def count_hollow(config: Any, shape: Shape, options: DistillOptions, *, mixed: bool) -> Counts:
    """The counts of a text-only target of any size, whose prompt may pretend to hold a picture."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    dtype = torch.bfloat16 if mixed else torch.float32
    with torch.device("meta"):
        target = AutoModelForCausalLM.from_config(config, dtype=dtype).requires_grad_(False)
        student = new_student(_Absent(target.eval()), options)  # type: ignore[arg-type]
    for module in (target, student.module):
        hollow(module, mode)
    example = hollow_lesson(target, shape, mode)
    return count_lesson(target, student, example, mixed=mixed)


def count_lesson(target: Any, student: Any, example: Example, *, mixed: bool = False) -> Counts:
    """The counts of one lesson."""
    given = [*target.parameters(), *student.module.parameters(), example.features, example.embeds]
    given += [example.logits, *(t for t in example.inputs.values() if isinstance(t, Tensor))]
    return count(lambda: student.compute_loss(example).loss, given, mixed=mixed)
