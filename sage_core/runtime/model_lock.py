"""The lock of models that several threads decode with."""

from __future__ import annotations

import os
from threading import RLock
from types import TracebackType

import torch

from sage_core.errors import UnsupportedError


class ModelLock:
    """Held during each step of a text, not between steps, by the texts that share a backend.

    A step puts hooks on the models and replaces their attention and their weights for one pass.
    What a text keeps from step to step is its own, so steps of several texts may alternate, in one
    thread or in several. A thread may take the lock again while it holds it.

    Raises:
        UnsupportedError: on entering, in a process that was forked after the lock was made: PyTorch
            would wait for threads that the fork has not copied.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._lock = RLock()
        self._process = os.getpid()

    def __enter__(self) -> None:
        if self._process != os.getpid():
            if torch.get_num_threads() > 1:
                raise UnsupportedError(
                    "this process was forked after the models were loaded, and PyTorch's threads "
                    "are not copied by a fork: start it by multiprocessing's 'spawn', or call "
                    "torch.set_num_threads(1) in it first"
                )
            self._renew()  # perhaps held by a thread that was not copied
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
