"""Silences the model libraries, and turns out-of-memory errors into `MemoryExhaustedError`."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from threading import RLock

from sage_core.errors import MemoryExhaustedError, ModelError, SageError, is_memory_error

VERBOSE = logging.getLogger("sage_core")
"""At level DEBUG, messages of the libraries are shown."""


class SharedContext:
    """A context that changes the whole process, for several threads: the first enters, the last
    leaves.

    Without this, threads that leave in another order than they entered restore each other's
    changes.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[None]]) -> None:
        self._make = make
        self._lock = RLock()
        self._users = 0
        self._stack = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._stack.enter_context(self._make())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._stack.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Hide warnings, log messages and progress bars of the model libraries within the context.

    With the ``sage_core`` logger at DEBUG nothing is hidden.
    """
    with nullcontext() if VERBOSE.isEnabledFor(logging.DEBUG) else _silent():
        yield


@SharedContext
@contextmanager
def _silent() -> Iterator[None]:
    from huggingface_hub import utils as hub
    from transformers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    hub_logger = logging.getLogger("huggingface_hub")
    hub_level = hub_logger.level
    library.set_verbosity(logging.CRITICAL)
    library.disable_progress_bar()
    hub_logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if hub_bars:
                hub.disable_progress_bars()
            yield
    finally:
        library.set_verbosity(level)
        hub_logger.setLevel(hub_level)
        if bars:
            library.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()


@contextmanager
def memory_errors(doing: str, advice: str) -> Iterator[None]:
    """Turn out-of-memory errors of host or device into a `MemoryExhaustedError`.

    ``doing`` completes the message (``while loading``), ``advice`` says what to do.
    """
    try:
        yield
    except Exception as error:
        # An error about a model may come from memory; one about an input was found to be its own.
        other = isinstance(error, SageError) and not isinstance(error, ModelError)
        if other or not is_memory_error(error):
            raise
        device = "device " if "CU" in str(error) or "CU" in str(error.__cause__) else ""
        raise MemoryExhaustedError(f"out of {device}memory {doing}: {advice}") from error
