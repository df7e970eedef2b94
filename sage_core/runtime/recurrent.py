"""Layers with a state instead of keys and values: short convolutions and gated delta rules.

A state holds all of the text before it, so a rejected token cannot be cut off afterwards. In a pass
over a tree each node is computed from its parent's state by the model's own function for one token,
the one that `generate` decodes with. The inputs of the nodes are kept; `RecurrentLayer.keep`
replays those of the accepted path on the state of the committed text.

The model's modules run unchanged. They call a convolution and a rule by names of their own Python
module; while `StateFunctions.exchanged` is open these names stand for functions that follow the
tree if they are called with its states, and call the model's own function otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import LinearAttentionLayer

from sage_core.errors import UnsupportedError
from sage_core.runtime.model_lock import ModelLock
from sage_core.runtime.tree_columns import TreeColumns

LOGGED = 64
"""Tokens after which the state is saved again; a text can be cut back by at least as many."""
CHUNK = 64
"""Tokens of a chain from which on the rule over chunks, of prompts, is used."""
_CONVOLUTION = "causal_conv1d_fn"
_CONVOLUTION_STEP = "causal_conv1d_update"
_RULE = "gated_delta_rule"
_LOCK = ModelLock()
"""Held while names are exchanged: they are the same for all models of a class."""


@dataclass(eq=False)
class _Saved:
    """A state at a slot, and the inputs of the slots from there on, which may be cut back."""

    slot: int
    convolution: Tensor
    state: Tensor | None
    inputs: list[Tensor] = field(default_factory=list)
    """Each (1, tokens, ...): of the convolution, then k, v, g and beta of the rule."""

    @property
    def end(self) -> int:
        return self.slot + (self.inputs[0].shape[1] if self.inputs else 0)


class RecurrentLayer(LinearAttentionLayer):
    """The states of one layer, and the inputs of the tree columns. A prompt fills it as
    transformers' own layer; `begin` follows."""

    conv_states: Any
    recurrent_states: Any

    def __init__(self) -> None:
        super().__init__()
        self.columns: TreeColumns | None = None
        """Of the current pass; None while a prompt is read."""
        self._slot = 0
        self._saved: list[_Saved] = []
        self._inputs: list[Tensor] = []
        """Of the tree columns, as `_Saved.inputs`."""
        self._rule: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        """For one token or a few, and by chunks."""
        self._kept: Tensor | None = None
        """The states after `TreeColumns.kept`."""

    def begin(self, committed: int) -> None:
        """The states are those after the first ``committed`` slots."""
        self._slot = committed
        self._save()

    def _save(self) -> None:
        one = _Saved(self._slot, self.conv_states[0], self.recurrent_states[0])
        # The first is at the end of the prompt, where a conversation may go on in another way.
        self._saved = [*self._saved[:1], *self._saved[1:][-1:], one]
        for earlier in self._saved[:-2]:
            earlier.inputs = []

    def update_conv_state(self, conv_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.columns is None:
            return super().update_conv_state(conv_states, *args, **kwargs)
        return TreeStates([self], conv_states)

    def update_recurrent_state(self, recurrent_states: Any, *args: Any, **kwargs: Any) -> Any:
        if self.columns is None:
            return super().update_recurrent_state(recurrent_states, *args, **kwargs)
        return recurrent_states  # known at the next commit

    def tree_state(self) -> TreeStates | None:
        """What stands for the recurrent state in a pass over a tree; None in a prompt."""
        return None if self.columns is None else TreeStates([self])

    def convolve(self, step: Callable[..., Tensor], inputs: Tensor, *args: Any) -> Tensor:
        """(1, channels, n) of the new columns, whose inputs are of that shape."""
        assert self.columns is not None
        new = inputs.transpose(1, 2)
        before = self.conv_states[0]
        old = [one[:, : self.columns.old] for one in self._inputs]
        columns = torch.cat([old[0], new], dim=1) if self.columns.old else new
        self._inputs = [columns, *old[1:]]
        size = before.shape[-1]
        text = torch.cat([before[0], columns[0].T.to(before.dtype)], dim=1)
        states = text[:, self.columns.windows(size, text.device)].permute(1, 0, 2).contiguous()
        return step(new[0].unsqueeze(-1), states, *args)[..., 0].T[None]

    def follow(
        self, step: Callable[..., Any], chunks: Callable[..., Any], query: Tensor, *new: Tensor
    ) -> Tensor:
        """(1, n, heads, size) outputs of the rule for the new columns.

        Args:
            step: the rule for one token.
            chunks: the rule for a long chain.
            query: (1, n, heads, size).
            new: k, v, g and beta of the new columns.
        """
        assert self.columns is not None
        self._rule = step, chunks
        old = self._inputs[1:] if self.columns.old else []
        inputs = [torch.cat([o, n], dim=1) for o, n in zip(old, new, strict=True)] if old else new
        self._inputs = [self._inputs[0], *inputs]
        # The queries of older columns do not matter: only states are taken from them.
        queries = torch.cat([inputs[0][:, : self.columns.old], query], dim=1)
        states = self.recurrent_states[0]
        if self.columns.old and self._kept is not None:
            states = torch.cat([states, self._kept])
        order = [column for level, _ in self.columns.levels for column in level]
        if self.columns.is_chain:
            path = [one[:, order] for one in (queries, *inputs)]
            outputs, self._kept = self._advance(states[self.columns.levels[0][1]], *path)
            return outputs[:, -self.columns.new :]
        parts, ends = [], []
        for columns, parents in self.columns.levels:
            nodes = [one[0, columns].unsqueeze(1) for one in (queries, *inputs)]
            outputs, states = _call(step, states[parents], *nodes)
            parts.append(outputs[:, 0])
            ends += [states] if self.columns.kept else []
        where = [order.index(one) for one in range(self.columns.old, len(self.columns.paths))]
        self._kept = torch.cat(ends)[where] if self.columns.kept else None
        return torch.cat(parts)[where][None]

    def _advance(self, state: Tensor, *path: Tensor) -> Any:
        """Outputs along a path, and the state after it."""
        assert self._rule is not None
        return _call(self._rule[path[0].shape[1] >= CHUNK], state, *path)

    def keep(self, committed: int, columns: Sequence[int]) -> None:
        """Cut the text back to ``committed`` slots, and append the tree columns given.

        Raises:
            ValueError: the state cannot go back so far; see `restorable`.
        """
        if committed < self._slot:
            self._restore(committed)
        if columns:
            path = [one[:, list(columns)] for one in self._inputs]
            assert self.columns is not None
            known = self.columns.kept if self._kept is not None else []
            row = known.index(columns[-1]) if columns[-1] in known else None
            kept = None if self._kept is None or row is None else self._kept[row : row + 1]
            self._append(path, kept)
        self._inputs, self._kept = [], None
        if self._slot - self._saved[-1].slot >= LOGGED:
            self._save()

    def _append(self, path: list[Tensor], state: Tensor | None = None) -> None:
        before = self.conv_states[0]
        text = torch.cat([before, path[0].transpose(1, 2).to(before.dtype)], dim=-1)
        self.conv_states[0] = text[..., -before.shape[-1] :]
        if state is not None:
            self.recurrent_states[0] = state
        elif len(path) > 1:
            self.recurrent_states[0] = self._advance(self.recurrent_states[0], path[1], *path[1:])[
                1
            ]
        last = self._saved[-1]
        logged = zip(last.inputs, path, strict=True)
        last.inputs = [torch.cat(pair, dim=1) for pair in logged] if last.inputs else path
        self._slot += path[0].shape[1]

    def restorable(self, slot: int) -> int:
        """The last slot up to ``slot`` that `keep` can cut the text back to; 0 if there is none."""
        if slot == self._slot:
            return slot
        return max((min(slot, one.end) for one in self._saved if one.slot <= slot), default=0)

    def _restore(self, slot: int) -> None:
        if self.restorable(slot) != slot:
            raise ValueError(f"no state at slot {slot}")
        fit = [one for one in self._saved if one.slot <= slot <= one.end]
        saved, path = fit[-1], [one[:, : slot - fit[-1].slot] for one in fit[-1].inputs]
        self._saved = [one for one in self._saved if one.slot <= saved.slot]
        self._slot, saved.inputs = saved.slot, []
        self.conv_states[0], self.recurrent_states[0] = saved.convolution, saved.state
        if slot > saved.slot:
            self._append(path)


def _call(rule: Callable[..., Any], state: Tensor, *inputs: Tensor) -> Any:
    query, key, value, g, beta = inputs
    return rule(
        query,
        key,
        value,
        g=g,
        beta=beta,
        initial_state=state,
        output_final_state=True,
        use_qk_l2norm_in_kernel=True,
    )


@dataclass(frozen=True, eq=False)
class TreeStates:
    """What a module gets from the cache for states in a pass over a tree, or over several texts'
    trees behind one another."""

    layers: Sequence[RecurrentLayer]
    inputs: Tensor | None = None
    """(1, channels, n) of the convolution; None for the rule's state."""

    def _split(self, dim: int, *tensors: Tensor) -> Iterator[tuple[RecurrentLayer, list[Tensor]]]:
        sizes = [layer.columns.new for layer in self.layers if layer.columns is not None]
        parts = [one.split(sizes, dim) for one in tensors]
        for i, layer in enumerate(self.layers):
            yield layer, [one[i] for one in parts]

    def convolve(self, step: Callable[..., Tensor], *args: Any) -> Tensor:
        assert self.inputs is not None
        split = self._split(-1, self.inputs)
        return torch.cat([layer.convolve(step, *own, *args) for layer, own in split], dim=-1)

    def follow(self, step: Any, chunks: Any, *inputs: Tensor) -> Tensor:
        split = self._split(1, *inputs)
        return torch.cat([layer.follow(step, chunks, *own) for layer, own in split], dim=1)


@dataclass(frozen=True, eq=False)
class StateFunctions:
    """The functions that modules with a state call, in the Python modules that define them."""

    names: tuple[dict[str, Any], ...]
    """Global names of these Python modules."""

    @classmethod
    def of(cls, layers: Sequence[nn.Module]) -> StateFunctions:
        """Those of the decoder layers with a state.

        Raises:
            UnsupportedError: a module computes its state in another way.
        """
        kinds = {type(module) for layer in layers for module in layer.modules()}
        found: list[dict[str, Any]] = []
        for kind in kinds:
            forward = inspect.unwrap(kind.forward)
            used, names = forward.__code__.co_names, forward.__globals__
            if "update_conv_state" not in used and "update_recurrent_state" not in used:
                continue
            rules = [name for name in used if name.endswith(_RULE)]
            plain = _CONVOLUTION in used and _CONVOLUTION_STEP in used
            if not plain or len(rules) != 2 * ("update_recurrent_state" in used):
                raise UnsupportedError(
                    f"the state of {kind.__name__} is neither a short convolution nor a gated "
                    "delta rule"
                )
            if not any(names is one for one in found):
                found.append(names)
        if not found:
            raise UnsupportedError("its layers keep their state in a way that is not known")
        return cls(tuple(found))

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Passes over trees can be made while this is open."""
        with _LOCK:
            own = [{name: names[name] for name in _exchanged(names)} for names in self.names]
            try:
                for names, functions in zip(self.names, own, strict=True):
                    names.update(_following(functions))
                yield
            finally:
                for names, functions in zip(self.names, own, strict=True):
                    names.update(functions)


def _exchanged(names: dict[str, Any]) -> list[str]:
    return [name for name in names if name == _CONVOLUTION or name.endswith(_RULE)] + [
        _CONVOLUTION_STEP
    ]


def _following(own: dict[str, Any]) -> dict[str, Any]:
    """Functions in the place of ``own``, by name."""
    rules = sorted((name for name in own if name.endswith(_RULE)), key=lambda n: "chunk" in n)
    new: dict[str, Any] = {
        _CONVOLUTION: partial(_convolution, own[_CONVOLUTION], own[_CONVOLUTION_STEP])
    }
    if rules:
        step, chunks = (own[name] for name in rules)
        new |= {name: partial(_rule, own[name], step, chunks) for name in rules}
    return new


def _convolution(
    own: Any, step: Any, hidden_states: Any, weight: Any, bias: Any = None,
    activation: Any = None, **kwargs: Any,
) -> Any:  # fmt: skip
    if isinstance(hidden_states, TreeStates):
        return hidden_states.convolve(step, weight, bias, activation)
    return own(hidden_states, weight, bias, activation=activation, **kwargs)


def _rule(own: Any, step: Any, chunks: Any, *args: Any, **kwargs: Any) -> Any:
    states = kwargs.get("initial_state")
    if isinstance(states, TreeStates):
        inputs = [*args, kwargs["g"], kwargs["beta"]]
        return states.follow(step, chunks, *inputs), None
    return own(*args, **kwargs)
