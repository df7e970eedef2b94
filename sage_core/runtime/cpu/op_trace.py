"""What one pass calls, noted; two such notes merged; and a function written that repeats them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
"""Functions whose results are new, or views, and whose shapes follow from shapes."""
_IDLE = {"_set_grad_enabled", "__get__", "size", "dim", "ndimension", "numel", "stride", "__len__"}
"""What tells of a tensor's form and not of what is in it, or has no say under inference mode."""


class UntraceableError(Exception):
    """Why passes of a model cannot be repeated from a tape."""


@dataclass(frozen=True)
class _Slot:
    """What an input or an earlier call gave."""

    number: int


class _Rows:
    """Stands for the row count among the arguments of a call."""


ROWS = _Rows()


@dataclass(frozen=True)
class _Call:
    function: Any
    arguments: Any
    """(positional, by name), with `_Slot` for tensors and `ROWS` for the row count."""
    results: tuple[int | None, ...]
    """Slots; None for what is no tensor."""
    several: bool
    """Whether the function gives a sequence."""


class OpTrace(TorchFunctionMode):
    """Notes what is called while it is open.

    Args:
        inputs: what the pass is given, by name.
        rows: n.
        behind: length of the text that it is behind.
    """

    def __init__(self, inputs: Mapping[str, Any], rows: int, behind: int) -> None:
        super().__init__()
        self.rows = rows
        self._behind = behind
        self.calls: list[_Call] = []
        self.why = ""
        self._apart = False
        # Nothing is kept alive: a pass that is noted takes the memory of any other.
        self._slots: Any = WeakIdKeyDictionary()
        self._count = 0
        for value in inputs.values():
            self._place(value)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._apart and not self.why:
            self._take(func, args, kwargs or {}, out)
        return out

    def differs(self, rows: int, behind: int) -> bool:
        """Whether another pass differs in all that the tapes must not depend on."""
        return behind != self._behind and (rows != self.rows or rows == 1)

    def whole(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function as one piece, whatever it calls."""
        self._apart = True
        try:
            out = function(*args, **kwargs)
        finally:
            self._apart = False
        self._note(function, args, kwargs, out)
        return out

    def slot(self, value: Any) -> int | None:
        """Where a tensor or a cache comes from; None if it is no input and no result."""
        found: int | None = self._slots.get(value)
        return found

    def _take(self, func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
        name = func.__name__
        tensors = isinstance(out, Tensor) or _holds_tensors(out)
        if name in _IDLE and not tensors:
            return
        item = name in ("__getitem__", "__setitem__")
        written = name == "__setitem__" and self.slot(args[0]) is not None
        known = name in _PURE and not kwargs.get("inplace") and "out" not in kwargs
        if not (known or written) or (item and _holds_tensors(args[1])):
            self.why = f"{name} may depend on what is in a tensor"
        elif not any(out is one for one in args):  # else it had nothing to do, such as a cast
            self._note(func, args, kwargs, out)

    def _note(self, function: Any, args: Any, kwargs: Any, out: Any) -> None:
        arguments = self._described((args, kwargs))
        several = isinstance(out, tuple | list)
        results = tuple(
            self._place(one) if isinstance(one, Tensor) else None
            for one in (out if several else (out,))
        )
        self.calls.append(_Call(function, arguments, results, several))

    def _place(self, value: Any) -> int:
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


def _holds_tensors(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_holds_tensors, value))
    return isinstance(value, Tensor)


def merged(first: OpTrace, second: OpTrace, own: Mapping[int, Tensor]) -> list[_Call]:
    """The calls of both, where they agree. Raises `UntraceableError` where they do not."""
    calls = []
    if len(first.calls) != len(second.calls):
        raise UntraceableError("passes of other lengths call other functions")
    for a, b in zip(first.calls, second.calls, strict=True):
        if a.function != b.function or a.results != b.results:
            raise UntraceableError("passes of other lengths call other functions")
        arguments = _same(a.arguments, b.arguments, (first.rows, second.rows), own)
        calls.append(_Call(a.function, arguments, a.results, a.several))
    return calls


def _same(a: Any, b: Any, rows: tuple[int, int], own: Mapping[int, Tensor]) -> Any:
    if isinstance(a, Tensor):
        if a is not b or id(a) not in own:
            raise UntraceableError("a pass uses a tensor that is not the model's")
        return a
    if type(a) is not type(b):
        raise UntraceableError("arguments differ")
    if isinstance(a, tuple | list) and len(a) == len(b):
        return type(a)([_same(x, y, rows, own) for x, y in zip(a, b, strict=True)])
    if isinstance(a, dict) and list(a) == list(b):
        return {name: _same(a[name], b[name], rows, own) for name in a}
    if isinstance(a, slice):
        ends = ((a.start, b.start), (a.stop, b.stop), (a.step, b.step))
        return slice(*[_same(x, y, rows, own) for x, y in ends])
    if a is b or a == b:
        return a
    if (a, b) == rows and isinstance(a, int):
        return ROWS
    raise UntraceableError("a number depends on the length of the text")


def compiled(calls: list[_Call], inputs: list[str], result: int | None) -> Callable[..., Tensor]:
    """A Python function (rows, cache, *inputs) that makes the calls; results are let go at once."""
    if result is None:
        raise UntraceableError("the result comes from nowhere")
    given = ["cache", *inputs]
    writer = _Writer(given)
    writes = [i for i, call in enumerate(calls) if call.function is Tensor.__setitem__]
    last_write = max(writes, default=-1)
    lines: list[tuple[str, set[str]]] = []
    made_by: dict[str, _Call] = {}
    for number, call in enumerate(calls):
        text, used = writer.call(call)
        # What every layer computes alike, such as the shape of a rotation, is computed once. Not
        # before anything is written into: two equal results may be different ones later.
        same = made_by.setdefault(text, call) if number > last_write else call
        if same is call:
            lines.append((f"{writer.names_of(call)} = {text}", used))
        else:
            writer.share(call, same)
    name = writer.names[result]
    body = _letting_go(lines, keep={name})
    source = "\n ".join([f"def repeat(rows, {', '.join(given)}):", *body, f"return {name}"])
    exec(compile(source, "<taped pass>", "exec"), writer.known)  # no text is from outside
    repeat: Callable[..., Tensor] = writer.known["repeat"]
    return repeat


class _Writer:
    """Writes calls as Python; ``known`` are the values that its constants stand for."""

    def __init__(self, inputs: list[str]) -> None:
        self.names = dict(enumerate(inputs))
        self.known: dict[str, Any] = {}
        self._constants: dict[int, str] = {}

    def call(self, call: _Call) -> tuple[str, set[str]]:
        """The call, and the names that it uses."""
        used: set[str] = set()
        args, kwargs = call.arguments
        given = [self._shown(one, used) for one in args]
        given += [f"{name}={self._shown(one, used)}" for name, one in kwargs.items()]
        return f"{self._shown(call.function, used)}({', '.join(given)})", used

    def names_of(self, call: _Call) -> str:
        """New names for what the call gives."""
        self.names |= {number: f"v{number}" for number in call.results if number is not None}
        made = ["_" if number is None else self.names[number] for number in call.results]
        return ", ".join(made) + "," * call.several

    def share(self, call: _Call, same: _Call) -> None:
        """Let the results of ``call`` be those of an equal one."""
        for mine, theirs in zip(call.results, same.results, strict=True):
            if mine is not None and theirs is not None:
                self.names[mine] = self.names[theirs]

    def _shown(self, value: Any, used: set[str]) -> str:
        if isinstance(value, _Slot):
            used.add(self.names[value.number])
            return self.names[value.number]
        if value is ROWS:
            return "rows"
        if isinstance(value, tuple | list):
            both = "()" if isinstance(value, tuple) else "[]"
            return both[0] + "".join(f"{self._shown(one, used)}, " for one in value) + both[1]
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return "slice(" + ", ".join(self._shown(one, used) for one in parts) + ")"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        if id(value) not in self._constants:
            self._constants[id(value)] = f"k{len(self.known)}"
            self.known[self._constants[id(value)]] = value
        return self._constants[id(value)]


def _letting_go(lines: list[tuple[str, set[str]]], keep: set[str]) -> list[str]:
    """The lines, with each result deleted behind its last use: memory stays what it was."""
    body: list[str] = []
    seen = set(keep)
    for text, used in reversed(lines):
        last = sorted(used - seen)
        seen |= used
        if last:
            body.append(f"del {', '.join(last)}")
        body.append(text)
    return body[::-1]
