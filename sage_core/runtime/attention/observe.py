"""Observing the calls of scaled dot-product attention in a model's forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

AttentionObserver = Callable[[Tensor, Tensor, float | None], None]
"""Takes a call's (1, heads, n, size) queries and keys, with rotary positions applied, and scale."""


@contextmanager
def observe_attention(module: Any, observer: AttentionObserver) -> Iterator[None]:
    """While open, ``observer`` gets every call of attention in a forward of ``module``."""
    mode = _ObserveMode(observer)
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
        if entered:  # the module raised before its forward hook
            mode.__exit__(None, None, None)


class _ObserveMode(TorchFunctionMode):
    def __init__(self, observer: AttentionObserver) -> None:
        super().__init__()
        self._observer = observer

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key"), args, strict=False)) | kwargs
            self._observer(named["query"], named["key"], kwargs.get("scale"))
        return func(*args, **kwargs)
