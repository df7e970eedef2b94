"""The decorator that gives a command the options of a dataclass, collected into one argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from sage_cli.options.flags import named

__all__ = ["takes_options"]


def takes_options(
    options: type, name: str = "options"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command every field of ``options`` as an option, collected into one argument.

    The decorated function has a parameter called ``name``; Typer sees the dataclass's fields in
    its place.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        own = [
            parameter.replace(
                annotation=named(parameter.name, hints[parameter.name]),
                kind=inspect.Parameter.KEYWORD_ONLY,
            )
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name != name
        ]
        kinds = get_type_hints(options, include_extras=True)
        names = [field.name for field in fields(options)]
        shared = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=named(field.name, kinds[field.name]),
            )
            for field in fields(options)
        ]

        def command(**values: Any) -> Any:
            collected = options(**{key: values.pop(key) for key in names})
            return function(**values, **{name: collected})

        signature = inspect.Signature([*own, *shared])
        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        command.__module__ = function.__module__
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        return command

    return decorate
