"""Backends: how the passes of a pair's models are executed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from sage_core.runtime.tree_runner import EagerExecutor, Executor


class Backend(Protocol):
    """Makes executors and keeps what they share from text to text, by model."""

    batches: bool
    """Whether passes of several texts can be made together."""

    def executor(self, model: Any, modules: Sequence[nn.Module] | None = None) -> Executor:
        """The executor of a model's passes.

        Args:
            model: a transformers model, or a draft head.
            modules: those whose weights a pass multiplies by; None: decoder and output head.
        """


class EagerBackend:
    """Every pass through the model's own modules: the reference for all other backends."""

    batches = True

    def executor(self, model: Any, modules: Sequence[nn.Module] | None = None) -> Executor:
        return EagerExecutor()
