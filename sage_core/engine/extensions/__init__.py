"""Options that change drafting or acceptance: one module each, found by itself.

What belongs here: a `DecodingExtension` that says which values its option takes, what it goes with,
and what it puts around the drafter, the planner, the acceptance rule or the steps of one text.
Modules import no torch at the top, so that options can be checked before models are loaded.
What does not: tree policies (`trees.policies`) and drafts (`drafts`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from sage_core.engine.extensions.base import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import OptionError

__all__ = ["DecodingContext", "DecodingExtension", "DecodingParts", "available", "parse"]


@cache
def _modules_extensions() -> dict[str, type[DecodingExtension]]:
    found: list[type[DecodingExtension]] = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, DecodingExtension)
            and "name" in vars(value)
        ]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: (kind.order, kind.name))}


def available() -> dict[str, type[DecodingExtension]]:
    """Extensions by the name of their option, in the order that they apply in."""
    return dict(_modules_extensions())


def parse(options: Mapping[str, Any]) -> tuple[DecodingExtension, ...]:
    """The extensions that options ask for, in the order that they apply in.

    Args:
        options: values by name; None and False ask for nothing.

    Raises:
        OptionError: an unknown name, or a value that makes no sense.
    """
    kinds = available()
    for name in options:
        if name not in kinds:
            raise OptionError(f"unknown option {name!r}: choose from {', '.join(kinds)}")
    return tuple(
        kind.parse(options[name])
        for name, kind in kinds.items()
        if options.get(name) is not None and options[name] is not False
    )
