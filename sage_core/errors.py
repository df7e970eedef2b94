"""Every error that sage raises on purpose.

::

    SageError
    ├── OptionError            an option is unknown, or its value makes no sense        exit 2
    │   └── UnsupportedError   asked for something that cannot be honoured exactly      exit 2
    ├── InputError             a picture, clip or list that cannot be read              exit 3
    ├── ModelError             a model that cannot be found, loaded or paired           exit 4
    └── MemoryExhaustedError   the device or the host ran out of memory                 exit 5

Messages are one line: what is wrong, then what to do. The original exception, if any, is kept as
``__cause__``. The exit codes are those of the command line (``sage_cli``); the library never exits.
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
    """An option is unknown or its value makes no sense."""


class UnsupportedError(OptionError):
    """A generation setting that this version cannot follow exactly, refused rather than ignored."""


class InputError(SageError):
    """An input file that is missing, damaged, empty or of no known kind."""


class ModelError(SageError):
    """A model that cannot be found or loaded, or a draft that does not fit its target."""


class MemoryExhaustedError(SageError):
    """The device or the host ran out of memory."""
