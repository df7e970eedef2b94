"""TODO docstring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from sage_core.runtime.runner import Runner

MakeRunner = Callable[[Any], Runner]
"""A transformers model -> what runs it."""


@runtime_checkable
class MakesHeads(Protocol):
    """A `MakeRunner` with something of its own for heads."""

    def for_head(self, head: Any, target: Any) -> Any:
        """What runs a head of ``target``, a `heads.runner.HeadRunner`."""
