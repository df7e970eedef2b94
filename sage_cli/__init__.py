"""The command line of sage: `app` on top of commands, jobs, options and render, each of which
imports only those after it; `console` and `exit_codes` are below all. Decoding belongs in
`sage_core`, which prints nothing.
"""

from __future__ import annotations

__all__ = ["version"]


def version() -> str:
    """The version of sage."""
    from sage_core import __version__

    return __version__
