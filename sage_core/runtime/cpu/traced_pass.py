"""Passes without the Python around them: what a pass calls is noted, and later called again.

A pass of a small model spends a third of its time between operators: modules that call modules,
configurations that are looked up, wrappers. So the torch functions of two eager passes are noted,
of other tokens behind another text, and held against each other. What is the same in both belongs
to the model; a number that is the row count in both is the row count; anything else, and any
function that is not known to depend on shapes alone, makes a model whose passes stay as they are.
The rest is a function of the pass's inputs which calls the same operators on the same weights in
the same order: its results are those of the eager pass to the last bit.

Attention and the writing of keys and values depend on the length of the text, so they are called
as a whole, as the model would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sage_core.runtime.attention.swap import attending_by
from sage_core.runtime.cpu.op_trace import OpTrace, UntraceableError, compiled, merged

if TYPE_CHECKING:
    from sage_core.runtime.kv_cache import TreeCache

TAPED_ATTENTION = "sage_taped"
"""The name in transformers' `AttentionInterface`."""
TAPE_ARGUMENT = "sage_tape"

_RESTING = "transformers.utils.output_capturing"
Pass = Callable[..., Tensor]
"""An eager pass of inputs by name, and of further arguments for the decoder."""


class TracedPasses:
    """The repeatable passes of one model: over one row, and over any greater number of rows.

    Args:
        config: of the decoder that passes go through, which says how it attends.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._own: dict[int, Tensor] = {}
        self._noted: dict[tuple[Any, ...], OpTrace] = {}
        self._repeat: dict[tuple[Any, ...], Callable[..., Tensor]] = {}
        self._never = self.why = ""
        """Why passes run as they are, if they do."""

    def refresh(self, model: nn.Module, copies: Sequence[Tensor] = ()) -> None:
        """Forget what was noted if the model is another by now. For before a text's first pass.

        Args:
            model: its parameters and buffers are what passes use. It is not held.
            copies: further tensors that are the model's, such as packed weights.
        """
        own = {id(one): one for one in (*model.parameters(), *model.buffers(), *copies)}
        if own.keys() != self._own.keys():
            self._own = own  # held: an id stays that of its tensor
            self._noted, self._repeat, self._never = {}, {}, ""
        self.why = self._never or _why_not(model, self._config)

    def run(self, rows: int, inputs: Mapping[str, Any], cache: TreeCache, eager: Pass) -> Tensor:
        """One pass over ``rows`` tokens: ``eager``, or the same from a tape.

        Args:
            rows: n.
            inputs: all tensors that the pass uses besides the model's own, by name.
            cache: what it writes keys and values to.
            eager: the pass itself.
        """
        if self.why or torch.is_autocast_enabled("cpu"):
            return eager(**inputs)
        kind = rows == 1, *inputs
        if kind in self._repeat:
            return self._repeat[kind](rows, cache, *inputs.values())
        before = self._noted.get(kind)
        if before is not None and not before.differs(rows, cache.length):
            return eager(**inputs)
        tape = OpTrace({"cache": cache, **inputs}, rows, cache.length)
        by_tape = attending_by(self._config, TAPED_ATTENTION, _attend)
        with by_tape, _writing(cache, tape), tape:
            out = eager(**inputs, **{TAPE_ARGUMENT: tape})
        try:
            if tape.why:
                raise UntraceableError(tape.why)
            if before is None:
                self._noted[kind] = tape
                return out
            calls = merged(before, tape, self._own)
            self._repeat[kind] = compiled(calls, list(inputs), tape.slot(out))
        except UntraceableError as reason:
            self._never = self.why = str(reason)
        self._noted.pop(kind, None)
        return out


def _why_not(model: nn.Module, config: Any) -> str:
    """Why a model's passes are not taped, as it is now."""
    if any(weight.device.type != "cpu" for weight in model.parameters()):
        return "it is not on the CPU"
    if str(config._attn_implementation) != "sdpa":
        return "it does not attend by PyTorch's own attention"
    for module in model.modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # Transformers leaves its own where outputs of layers were asked for once; they rest.
        if module.training or any(getattr(hook, "__module__", "") != _RESTING for hook in hooks):
            return "someone watches its modules, or trains them"
        if "forward" in module.__dict__:
            return "one of its modules has a forward of its own"
    return ""


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> Any:
    """What transformers calls in each layer while a pass is taped."""
    tape = kwargs.pop(TAPE_ARGUMENT, None)
    if tape is None:
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    return tape.whole(sdpa_attention_forward, module, query, key, value, mask, **kwargs)


@contextmanager
def _writing(cache: TreeCache, tape: OpTrace) -> Iterator[None]:
    def update(keys: Tensor, values: Tensor, index: int, *_args: Any, **_kwargs: Any) -> Any:
        return tape.whole(_write, cache, index, keys, values)

    cache.__dict__["update"] = update
    try:
        yield
    finally:
        del cache.__dict__["update"]


def _write(cache: TreeCache, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    layer: Any = cache.layers[index]
    return layer.update(keys, values)
