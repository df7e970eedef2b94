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

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sage_core.cache import TreeCache

TAPED_ATTENTION = "sage_taped"
"""The name in transformers' `AttentionInterface`."""
TAPE_ARGUMENT = "sage_tape"

_PURE = {
    "linear",
    "embedding",
    "matmul",
    "bmm",
    "mul",
    "add",
    "sub",
    "div",
    "neg",
    "pow",
    "rsqrt",
    "sqrt",
    "mean",
    "sum",
    "cos",
    "sin",
    "exp",
    "sigmoid",
    "silu",
    "gelu",
    "relu",
    "tanh",
    "softmax",
    "rms_norm",
    "layer_norm",
    "cat",
    "stack",
    "chunk",
    "split",
    "unbind",
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "transpose",
    "permute",
    "unsqueeze",
    "squeeze",
    "expand",
    "contiguous",
    "to",
    "float",
    "type_as",
    "__getitem__",
    "clone",
    "narrow",
    "select",
    "_linear_pointwise",
}
"""Functions whose results are new, or views, and whose shapes follow from shapes."""
_IDLE = {"_set_grad_enabled", "__get__", "size", "dim", "ndimension", "numel", "stride", "__len__"}
"""What tells of a tensor's form and not of what is in it, or has no say under inference mode."""

_RESTING = "transformers.utils.output_capturing"
Pass = Callable[..., Tensor]
"""An eager pass of inputs by name, and of further arguments for the decoder."""


class Unrepeatable(Exception):
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


class Tape(TorchFunctionMode):
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


class Tapes:
    """The repeatable passes of one model: over one row, and over any greater number of rows.

    Args:
        config: of the decoder that passes go through, which says how it attends.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._own: dict[int, Tensor] = {}
        self._noted: dict[tuple[Any, ...], Tape] = {}
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
        tape = Tape({"cache": cache, **inputs}, rows, cache.length)
        with _attending(self._config), _writing(cache, tape), tape:
            out = eager(**inputs, **{TAPE_ARGUMENT: tape})
        try:
            if tape.why:
                raise Unrepeatable(tape.why)
            if before is None:
                self._noted[kind] = tape
                return out
            calls = _merged(before, tape, self._own)
            self._repeat[kind] = _compiled(calls, list(inputs), tape.slot(out))
        except Unrepeatable as reason:
            self._never = self.why = str(reason)
        self._noted.pop(kind, None)
        return out


def _why_not(model: nn.Module, config: Any) -> str:
    """Why a model's passes are not taped, as it is now."""
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
def _attending(config: Any) -> Iterator[None]:
    AttentionInterface.register(TAPED_ATTENTION, _attend)
    AttentionMaskInterface.register(TAPED_ATTENTION, sdpa_mask)
    before = config._attn_implementation
    config._attn_implementation = TAPED_ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def _writing(cache: TreeCache, tape: Tape) -> Iterator[None]:
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


def _merged(first: Tape, second: Tape, own: Mapping[int, Tensor]) -> list[_Call]:
    """The calls of both, where they agree. Raises `Unrepeatable` where they do not."""
    calls = []
    if len(first.calls) != len(second.calls):
        raise Unrepeatable("passes of other lengths call other functions")
    for a, b in zip(first.calls, second.calls, strict=True):
        if a.function != b.function or a.results != b.results:
            raise Unrepeatable("passes of other lengths call other functions")
        arguments = _same(a.arguments, b.arguments, (first.rows, second.rows), own)
        calls.append(_Call(a.function, arguments, a.results, a.several))
    return calls


def _same(a: Any, b: Any, rows: tuple[int, int], own: Mapping[int, Tensor]) -> Any:
    if isinstance(a, Tensor):
        if a is not b or id(a) not in own:
            raise Unrepeatable("a pass uses a tensor that is not the model's")
        return a
    if type(a) is not type(b):
        raise Unrepeatable("arguments differ")
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
    raise Unrepeatable("a number depends on the length of the text")


def _compiled(calls: list[_Call], inputs: list[str], result: int | None) -> Callable[..., Tensor]:
    """A Python function (rows, cache, *inputs) that makes the calls; results are let go at once."""
    if result is None:
        raise Unrepeatable("the result comes from nowhere")
    names = dict(enumerate(["cache", *inputs]))
    known: dict[str, Any] = {}
    constants: dict[int, str] = {}

    def shown(value: Any, used: set[str]) -> str:
        if isinstance(value, _Slot):
            used.add(names[value.number])
            return names[value.number]
        if value is ROWS:
            return "rows"
        if isinstance(value, tuple | list):
            both = "()" if isinstance(value, tuple) else "[]"
            return both[0] + "".join(f"{shown(one, used)}, " for one in value) + both[1]
        if isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            return "slice(" + ", ".join(shown(one, used) for one in parts) + ")"
        if value is None or isinstance(value, bool | int | str):
            return repr(value)
        if id(value) not in constants:
            constants[id(value)] = f"k{len(known)}"
            known[constants[id(value)]] = value
        return constants[id(value)]

    lines: list[tuple[str, set[str]]] = []
    made_by: dict[str, _Call] = {}
    for call in calls:
        used: set[str] = set()
        args, kwargs = call.arguments
        given = [shown(one, used) for one in args]
        given += [f"{name}={shown(one, used)}" for name, one in kwargs.items()]
        text = f"{shown(call.function, used)}({', '.join(given)})"
        if call.function is Tensor.__setitem__:  # what was computed before may be another by now
            made_by.clear()
        # What every layer computes alike, such as the shape of a rotation, is computed once.
        same = made_by.setdefault(text, call)
        for mine, first in zip(call.results, same.results, strict=True):
            if mine is not None and first is not None:
                names[mine] = names[first] if same is not call else f"v{mine}"
        if same is call:
            made = ", ".join("_" if n is None else names[n] for n in call.results)
            lines.append((f"{made}{',' * call.several} = {text}", used))

    body = _letting_go(lines, keep={names[result]})
    head = f"def repeat(rows, {', '.join(['cache', *inputs])}):"
    source = "\n ".join([head, *body, f"return {names[result]}"])
    exec(compile(source, "<taped pass>", "exec"), known)  # names and numbers from above only
    repeat: Callable[..., Tensor] = known["repeat"]
    return repeat


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
