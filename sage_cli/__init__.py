"""The command line of sage: options, files, output and the live view. No decoding happens here."""

from __future__ import annotations

__all__ = ["version"]


def version() -> str:
    """The version of sage."""
    from sage_core import __version__

    return __version__
