"""Traces of the torch functions of a pass: recorded, two of them merged, compiled to a replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary
from transformers.cache_utils import Cache

_PURE = {
    "linear", "embedding", "matmul", "bmm", "mul", "add", "sub", "div", "neg", "pow", "rsqrt",
    "sqrt", "mean", "sum", "cos", "sin", "exp", "sigmoid", "silu", "gelu", "relu", "tanh",
    "softmax", "rms_norm", "layer_norm", "cat", "stack", "chunk", "split", "unbind", "view",
    "reshape", "flatten", "unflatten", "transpose", "permute", "unsqueeze", "squeeze",
    "expand", "contiguous", "to", "float", "type_as", "__getitem__", "clone", "narrow",
    "select", "_linear_pointwise",
}  # fmt: skip
"""Functions with new results or views, whose shapes depend on shapes only."""
_SHAPE_ONLY = {
    "_set_grad_enabled",
    "__get__",
    "size",
    "dim",
    "ndimension",
    "numel",
    "stride",
    "__len__",
}
"""Functions that return properties of shapes, or have no effect under inference mode."""


class UntraceableError(Exception):
    """Why passes of a model cannot be replayed."""


@dataclass(frozen=True)
class _Slot:
    """An input or the result of an earlier call."""

    number: int


class _TokenCount:
    """In place of the pass's number of tokens among the arguments of a call."""


TOKEN_COUNT = _TokenCount()


@dataclass(frozen=True)
class _Call:
    function: Any
    arguments: Any
    """(positional, by name), with `_Slot` for tensors and `TOKEN_COUNT` for the token count."""
    results: tuple[int | None, ...]
    """Slots; None for results that are not tensors."""
    is_sequence: bool
    """Whether the function returns a sequence."""


class OpTrace(TorchFunctionMode):
    """Records the torch functions that are called while it is open.

    Args:
        inputs: of the pass, by name.
        tokens: number of tokens of the pass.
        context: cached tokens before it.
    """

    def __init__(self, inputs: Mapping[str, Any], tokens: int, context: int) -> None:
        super().__init__()
        self.tokens = tokens
        self._context = context
        self.calls: list[_Call] = []
        self.why_not = ""
        self._paused = False
        # Weak keys: a traced pass takes no more memory than any other.
        self._slots: Any = WeakIdKeyDictionary()
        self._count = 0
        for value in inputs.values():
            self._new_slot(value)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._paused and not self.why_not:
            self._check_and_record(func, args, kwargs or {}, out)
        return out

    def differs(self, tokens: int, context: int) -> bool:
        """Whether another pass differs in all numbers that replays must not depend on."""
        return context != self._context and (tokens != self.tokens or tokens == 1)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function and record it as one call, whatever it calls."""
        self._paused = True
        try:
            out = function(*args, **kwargs)
        finally:
            self._paused = False
        self._record(function, args, kwargs, out)
        return out

    def slot(self, value: Any) -> int | None:
        """The slot of a tensor or a cache; None if it is neither input nor result."""
        found: int | None = self._slots.get(value)
        return found

    def _check_and_record(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        name = func.__name__
        if name in _SHAPE_ONLY and not _has_tensors(out):
            return
        item = name in ("__getitem__", "__setitem__")
        written = name == "__setitem__" and self.slot(args[0]) is not None
        known = name in _PURE and not kwargs.get("inplace") and "out" not in kwargs
        if not (known or written) or (item and _has_tensors(args[1])):
            self.why_not = f"{name} may depend on values in a tensor"
        elif not any(out is one for one in args):  # else it did nothing, such as a cast
            self._record(func, args, kwargs, out)

    def _record(self, function: Any, args: Any, kwargs: Any, out: Any) -> None:
        arguments = self._described((args, kwargs))
        is_sequence = isinstance(out, tuple | list)
        results = tuple(
            self._new_slot(one) if isinstance(one, Tensor) else None
            for one in (out if is_sequence else (out,))
        )
        self.calls.append(_Call(function, arguments, results, is_sequence))

    def _new_slot(self, value: Any) -> int:
        self._slots[value] = self._count
        self._count += 1
        return self._count - 1

    def _described(self, value: Any) -> Any:
        if isinstance(value, Tensor | Cache):
            slot = self.slot(value)
            return value if slot is None else _Slot(slot)
        if isinstance(value, tuple | list):
            return (list if isinstance(value, list) else tuple)(map(self._described, value))
        if isinstance(value, dict):
            return {name: self._described(one) for name, one in value.items()}
        if isinstance(value, slice):
            return slice(*map(self._described, (value.start, value.stop, value.step)))
        return value


def _has_tensors(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_has_tensors, value))
    return isinstance(value, Tensor)


def merged(first: OpTrace, second: OpTrace, own: Mapping[int, Tensor]) -> list[_Call]:
    """The calls of both, which may differ in the token count only, or `UntraceableError`.

    ``own`` are the model's tensors by `id`.
    """
    functions, others = ([(c.function, c.results) for c in t.calls] for t in (first, second))
    if functions != others:
        raise UntraceableError("passes of other lengths call other functions")
    counts = first.tokens, second.tokens
    return [
        replace(a, arguments=_common(a.arguments, b.arguments, counts, own))
        for a, b in zip(first.calls, second.calls, strict=True)
    ]


def _common(a: Any, b: Any, counts: tuple[int, int], own: Mapping[int, Tensor]) -> Any:
    if isinstance(a, Tensor):
        if a is not b or id(a) not in own:
            raise UntraceableError("a pass uses a tensor that is not the model's")
        return a
    if type(a) is not type(b):
        raise UntraceableError("arguments differ")
    if isinstance(a, tuple | list) and len(a) == len(b):
        return type(a)([_common(x, y, counts, own) for x, y in zip(a, b, strict=True)])
    if isinstance(a, dict) and list(a) == list(b):
        return {name: _common(a[name], b[name], counts, own) for name in a}
    if isinstance(a, slice):
        ends = ((a.start, b.start), (a.stop, b.stop), (a.step, b.step))
        return slice(*[_common(x, y, counts, own) for x, y in ends])
    if a is b or a == b:
        return a
    if (a, b) == counts and isinstance(a, int):
        return TOKEN_COUNT
    raise UntraceableError("a number depends on the length of the text")


def compiled(calls: list[_Call], inputs: list[str], result: int | None) -> Callable[..., Tensor]:
    """A Python function (tokens, cache, *inputs) that makes the calls, or `UntraceableError`.

    Results are deleted after their last use, so memory is that of the eager pass.
    """
    if result is None:
        raise UntraceableError("the result is not of a recorded call")
    parameters = ["cache", *inputs]
    writer = _Writer(parameters)
    writes = [i for i, call in enumerate(calls) if call.function is Tensor.__setitem__]
    last_write = max(writes, default=-1)
    lines: list[tuple[str, set[str]]] = []
    made_by: dict[str, _Call] = {}
    for number, call in enumerate(calls):
        text, used = writer.call(call)
        # Equal calls of all layers are made once, except before the last write into a tensor, when
        # equal results may differ later.
        same = made_by.setdefault(text, call) if number > last_write else call
        if same is call:
            lines.append((f"{writer.names_of(call)} = {text}", used))
        else:
            writer.share(call, same)
    name = writer.names[result]
    body = _with_deletions(lines, keep={name})
    source = "\n ".join([f"def replay(tokens, {', '.join(parameters)}):", *body, f"return {name}"])
    exec(compile(source, "<traced pass>", "exec"), writer.constants)  # no text is from outside
    return writer.constants["replay"]


class _Writer:
    """Writes calls as Python code; ``constants`` are the values that it uses, by name."""

    def __init__(self, inputs: list[str]) -> None:
        self.names = dict(enumerate(inputs))
        self.constants: dict[str, Any] = {}
        self._constant_names: dict[int, str] = {}

    def call(self, call: _Call) -> tuple[str, set[str]]:
        """The call, and the names that it uses."""
        used: set[str] = set()
        args, kwargs = call.arguments
        written = [self._expression(one, used) for one in args]
        written += [f"{name}={self._expression(one, used)}" for name, one in kwargs.items()]
        return f"{self._expression(call.function, used)}({', '.join(written)})", used

    def names_of(self, call: _Call) -> str:
        """New names for the call's results."""
        self.names |= {number: f"v{number}" for number in call.results if number is not None}
        names = ["_" if number is None else self.names[number] for number in call.results]
        return ", ".join(names) + "," * call.is_sequence

    def share(self, call: _Call, same: _Call) -> None:
        """Give the results of ``call`` the names of an equal call's."""
        for mine, theirs in zip(call.results, same.results, strict=True):
            if mine is not None and theirs is not None:
                self.names[mine] = self.names[theirs]

    def _expression(self, value: Any, used: set[str]) -> str:
        if isinstance(value, _Slot):
            used.add(self.names[value.number])
            return self.names[value.number]
        if value is TOKEN_COUNT:
            return "tokens"
        if isinstance(value, tuple | list):
            both = "()" if isinstance(value, tuple) else "[]"
            return both[0] + "".join(f"{self._expression(one, used)}, " for one in value) + both[1]
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return "slice(" + ", ".join(self._expression(one, used) for one in parts) + ")"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        name = self._constant_names.setdefault(id(value), f"k{len(self.constants)}")
        self.constants[name] = value
        return name


def _with_deletions(lines: list[tuple[str, set[str]]], keep: set[str]) -> list[str]:
    """The lines, with each result deleted after its last use."""
    body: list[str] = []
    seen = set(keep)
    for text, used in reversed(lines):
        last = sorted(used - seen)
        seen |= used
        if last:
            body.append(f"del {', '.join(last)}")
        body.append(text)
    return body[::-1]
