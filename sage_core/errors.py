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

__all__ = [
    "InputError",
    "MemoryExhaustedError",
    "ModelError",
    "OptionError",
    "SageError",
    "UnsupportedError",
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
