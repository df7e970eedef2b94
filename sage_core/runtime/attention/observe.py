"""Calls of attention, observed while a model's own forward runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

AttentionObserver = Callable[[Tensor, Tensor, float | None], None]
"""Is shown one call's (1, heads, n, size) queries and keys, after rotation, and its scale."""


@contextmanager
def observe_attention(module: Any, take: AttentionObserver) -> Iterator[None]:
    """While open, ``take`` is shown every call of attention that ``module`` makes in a forward."""
    mode = _ObserveMode(take)
    entered: list[bool] = []

    def enter(_module: Any, _args: Any) -> None:
        mode.__enter__()
        entered.append(True)

    def leave(_module: Any, _args: Any, _output: Any) -> None:
        entered.pop()
        mode.__exit__(None, None, None)

    handles = [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if entered:  # the module failed before its hook could be called
            mode.__exit__(None, None, None)


class _ObserveMode(TorchFunctionMode):
    """Shows every call of scaled dot-product attention, then makes it."""

    def __init__(self, take: AttentionObserver) -> None:
        super().__init__()
        self._take = take

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key"), args, strict=False)) | kwargs
            self._take(named["query"], named["key"], kwargs.get("scale"))
        return func(*args, **kwargs)
