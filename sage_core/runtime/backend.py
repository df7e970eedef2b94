"""Backends: they make the executors of a pair's models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import nn

from sage_core.runtime.model_lock import ModelLock
from sage_core.runtime.tree_runner import EagerExecutor, Executor


class Backend(Protocol):
    """Makes executors and keeps what texts share, by model."""

    batches: bool
    """Whether passes of several texts can be made together."""
    lock: ModelLock
    """Held during each step of the texts that share this backend."""

    def executor(self, model: Any, modules: Sequence[nn.Module] | None = None) -> Executor:
        """The executor of a model's passes.

        Args:
            model: a transformers model, or a draft head.
            modules: those with the weights of a pass; None: decoder and output head.
        """


class EagerBackend:
    """All passes by the model's own modules: the reference for other backends."""

    batches = True

    def __init__(self) -> None:
        self.lock = ModelLock()

    def executor(self, model: Any, modules: Sequence[nn.Module] | None = None) -> Executor:
        return EagerExecutor()
