"""Traced passes: the torch functions of a pass, called again without the Python around them.

A pass of a small model spends a third of its time in Python. So the torch functions of two eager
passes, over different tokens and contexts, are recorded and compared. Values that agree belong to
the model; a number that equals the token count in both is the token count. Any other difference,
and any function that is not known to depend on shapes only, disables tracing for the model. The
result is a function that calls the same operators on the same weights in the same order: it is
equal to the eager pass to the last bit.

Attention and cache writes depend on the context length, so they are recorded as single calls.
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
from sage_core.runtime.model_state import module_state
from sage_core.runtime.windows import LayerKinds

if TYPE_CHECKING:
    from sage_core.runtime.kv_cache import TreeCache

TRACED_ATTENTION = "sage_traced"
"""The name in transformers' `AttentionInterface`."""
TRACE_ARGUMENT = "sage_trace"

_HARMLESS_HOOKS = "transformers.utils.output_capturing"
Pass = Callable[..., Tensor]
"""An eager pass: takes inputs by name, and further arguments for the decoder."""


class TracedPasses:
    """The traced passes of one model: over one token, and over several.

    Args:
        config: of its decoder.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._own: dict[int, Tensor] = {}
        self._state: list[Any] = []
        self._traces: dict[tuple[Any, ...], OpTrace] = {}
        self._replays: dict[tuple[Any, ...], Callable[..., Tensor]] = {}
        self._untraceable = self.why_not = ""
        """Why passes run eagerly, if they do."""

    def refresh(
        self,
        model: nn.Module,
        copies: Sequence[Tensor] = (),
        modules: Sequence[nn.Module] | None = None,
    ) -> None:
        """Drop the traces if what they depend on has changed. Call it before each text.

        That is the model's tensors, as objects, and the attributes of its modules. The values of
        its tensors are read in each pass.

        Args:
            model: not held; its parameters and buffers are.
            copies: further tensors of the model, such as packed weights.
            modules: those of a pass; None: the model.
        """
        own = {id(one): one for one in (*model.parameters(), *model.buffers(), *copies)}
        state = module_state(modules or [model])
        if own.keys() != self._own.keys() or state != self._state:
            self._own, self._state = own, state  # held, so that ids stay valid
            self._traces, self._replays, self._untraceable = {}, {}, ""
        self.why_not = self._untraceable or _why_not(model, self._config)

    def run(self, tokens: int, inputs: Mapping[str, Any], cache: TreeCache, eager: Pass) -> Tensor:
        """One pass: ``eager``, or a replay of it.

        Args:
            tokens: their number.
            inputs: all tensors that the pass uses besides the model's own, by name.
            cache: where it writes keys and values.
            eager: the pass itself.
        """
        if self.why_not or torch.is_autocast_enabled("cpu"):
            return eager(**inputs)
        kind = tokens == 1, *inputs
        if kind in self._replays:
            return self._replays[kind](tokens, cache, *inputs.values())
        first = self._traces.get(kind)
        if first is not None and not first.differs(tokens, cache.length):
            return eager(**inputs)
        trace = OpTrace({"cache": cache, **inputs}, tokens, cache.length)
        traced_attention = attending_by(self._config, TRACED_ATTENTION, _attend)
        with traced_attention, _traced_writes(cache, trace), trace:
            out = eager(**inputs, **{TRACE_ARGUMENT: trace})
        try:
            if trace.why_not:
                raise UntraceableError(trace.why_not)
            if first is None:
                self._traces[kind] = trace
                return out
            calls = merged(first, trace, self._own)
            self._replays[kind] = compiled(calls, list(inputs), trace.slot(out))
        except UntraceableError as reason:
            self._untraceable = self.why_not = str(reason)
        self._traces.pop(kind, None)
        return out


def _why_not(model: nn.Module, config: Any) -> str:
    """Why a model's passes are not traced in its present state; empty if they are."""
    if any(weight.device.type != "cpu" for weight in model.parameters()):
        return "it is not on the CPU"
    if str(config._attn_implementation) != "sdpa":
        return "it does not use PyTorch's scaled dot-product attention"
    if LayerKinds.holding_states(config):
        return "its layers hold a state, whose pass depends on the tree"
    for module in model.modules():
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # Transformers leaves inactive hooks behind once outputs of layers were requested.
        if any(getattr(hook, "__module__", "") != _HARMLESS_HOOKS for hook in hooks):
            return "its modules have hooks"
        if module.training or "forward" in module.__dict__:
            return "one of its modules is in training mode or has its forward replaced"
    return ""


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> Any:
    """The attention function of each layer while a pass is traced; some layers call it by name."""
    trace = kwargs.pop(TRACE_ARGUMENT, None)
    if trace is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return trace.call(sdpa_attention_forward, module, query, key, value, attention_mask, **kwargs)


@contextmanager
def _traced_writes(cache: TreeCache, trace: OpTrace) -> Iterator[None]:
    def update(keys: Tensor, values: Tensor, index: int, *_args: Any, **_kwargs: Any) -> Any:
        return trace.call(_write, cache, index, keys, values)

    cache.__dict__["update"] = update
    try:
        yield
    finally:
        del cache.__dict__["update"]


def _write(cache: TreeCache, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    layer: Any = cache.layers[index]
    return layer.update(keys, values)
