"""The one parser of ``name:option=value,...``, for frozen dataclasses whose fields are options.

Policies, lossy rules, n-gram drafting and the methods of a benchmark are written this way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

from sage_core.errors import OptionError

T = TypeVar("T")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_spec(text: str, kinds: Mapping[str, type[T]], what: str) -> T:
    """An instance of one of ``kinds``, by name, from ``name`` or ``name:option=value,...``.

    ``what`` is the word for such an object in error messages: ``policy``, ``lossy rule``.

    Raises:
        OptionError: an unknown name; see also `parse_options`.
    """
    name, _, options = text.partition(":")
    if name not in kinds:
        raise OptionError(f"unknown {what} {name!r}: choose from {', '.join(sorted(kinds))}")
    return parse_options(kinds[name], options, f"{what} {name}")


def parse_options(kind: type[T], options: str, owner: str) -> T:
    """A dataclass ``kind`` from ``option=value,...``, each value converted to its field's type.

    ``owner`` names the object in error messages.

    Raises:
        OptionError: an unknown option, a required one that is missing, an option without a value,
            or a value of the wrong type. ``kind`` itself may refuse values as well.
    """
    hints = get_type_hints(kind)
    known = fields(kind)  # type: ignore[arg-type]
    names = [field.name for field in known]
    given: dict[str, Any] = {}
    for item in filter(None, options.split(",")):
        name, equals, value = item.partition("=")
        if name not in names:
            listed = ", ".join(names) or "none"
            raise OptionError(f"{owner} has no option {name!r}: its options are {listed}")
        if not equals:
            raise OptionError(f"{owner}: option {name} needs a value: {name}=VALUE")
        given[name] = _convert(value, hints[name], f"{owner}: option {name}")
    missing = [f.name for f in known if f.default is MISSING and f.name not in given]
    if missing:
        raise OptionError(f"{owner} needs {' and '.join(missing)}: {missing[0]}=VALUE")
    return kind(**given)


def spec_text(name: str, options: Any, *, defaults: bool = False) -> str:
    """The text that `parse_spec` turns into the dataclass ``options`` again.

    Options at their defaults are left out unless ``defaults``.
    """
    pairs = [
        f"{field.name}={getattr(options, field.name)}"
        for field in fields(options)
        if defaults or getattr(options, field.name) != field.default
    ]
    return f"{name}:{','.join(pairs)}" if pairs else name


def _convert(value: str, kind: type, option: str) -> Any:
    try:
        return _BOOLEANS[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise OptionError(f"{option} needs {kind.__name__}, not {value!r}") from None
