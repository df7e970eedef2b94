"""Every error that sage raises on purpose.

::

    SageError
    ├── OptionError            an unknown option or an invalid value                    exit 2
    │   └── UnsupportedError   an option that cannot be followed exactly                exit 2
    ├── InputError             an image, video or list that cannot be read              exit 3
    ├── ModelError             a model that cannot be found, loaded or paired           exit 4
    └── MemoryExhaustedError   the device or the host ran out of memory                 exit 5

Messages are one line: what is wrong, then what to do. The original exception, if any, is
``__cause__``. The exit codes are those of the command line; the library never exits.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

__all__ = [
    "InputError",
    "MemoryExhaustedError",
    "ModelError",
    "OptionError",
    "SageError",
    "UnsupportedError",
    "is_memory_error",
    "kind_of",
]


class SageError(Exception):
    """Base of all errors that sage raises on purpose."""


class OptionError(SageError, ValueError):
    """An unknown option, or an invalid value."""


class UnsupportedError(OptionError):
    """A generation option that cannot be followed exactly: refused instead of ignored."""


class InputError(SageError):
    """An input file that is missing, damaged, empty or of an unsupported format."""


class ModelError(SageError):
    """A model that cannot be found, loaded or followed exactly, or a draft that does not fit."""


class MemoryExhaustedError(SageError):
    """The device or the host ran out of memory."""


_KINDS: tuple[tuple[type[SageError], str], ...] = (
    (OptionError, "usage"),
    (InputError, "input"),
    (ModelError, "model"),
    (MemoryExhaustedError, "memory"),
)


def kind_of(error: BaseException) -> str:
    """The kind of an error in JSON: ``usage``, ``input``, ``model``, ``memory`` or ``other``."""
    other = "memory" if is_memory_error(error) else "other"
    return next((name for kind, name in _KINDS if isinstance(error, kind)), other)


_OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",  # the allocators of torch, the system's message for ENOMEM
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "failed to map segment",  # of a library that is being imported
    "ALLOC_FAILED",  # of a library of CUDA
)


def is_memory_error(error: BaseException) -> bool:
    """Whether ``error``, or one that it was raised from, says that an allocation failed.

    torch, safetensors, tokenizers and the system say so in many ways.
    """
    return any(map(_says_so, _chain(error)))


def _says_so(error: BaseException) -> bool:
    if isinstance(error, MemoryError | MemoryExhaustedError):
        return True
    if isinstance(error, SageError):
        return False
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # Known by name, so that torch need not be imported.
    if any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__):
        return True
    text = str(error)
    return any(words in text or words in text.lower() for words in _OUT_OF_MEMORY)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
