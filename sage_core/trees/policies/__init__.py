"""Tree policies: how the next tree is shaped. Each is one module of this package."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import fields
from functools import cache
from typing import Any, get_type_hints

from sage_core.errors import OptionError
from sage_core.trees.option_specs import changed_options
from sage_core.trees.policy import Growth, Level, Policy, TreePlanner

__all__ = ["Growth", "Level", "Policy", "TreePlanner", "available", "parse", "spec"]


@cache
def _modules_policies() -> dict[str, type[Policy]]:
    found: dict[str, type[Policy]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Policy) and "name" in vars(value):
                found[value.name] = value
    return found


def available() -> dict[str, type[Policy]]:
    """Policies by name. Their dataclass fields are the options, their docstrings the help."""
    return dict(_modules_policies())


def parse(text: str | Policy) -> Policy:
    """A policy from ``"name"`` or ``"name:option=value,option=value"``; a policy passes through.

    Raises:
        OptionError: unknown name or option, or a value of the wrong kind, naming the valid ones.
    """
    if isinstance(text, Policy):
        return text
    name, _, rest = text.partition(":")
    policies = available()
    if name not in policies:
        raise OptionError(f"unknown policy {name!r}: choose from {', '.join(sorted(policies))}")
    kind = policies[name]
    hints = get_type_hints(kind)
    valid = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if key not in valid:
            known = ", ".join(valid) or "none"
            raise OptionError(f"policy {name} has no option {key!r}: its options are {known}")
        if not equals:
            raise OptionError(f"policy option {key!r} needs a value: {key}=VALUE")
        options[key] = _convert(name, key, value, hints[key])
    return kind(**options)


def spec(policy: Policy) -> str:
    """The text that `parse` turns into this policy; options at their defaults are left out."""
    return policy.name + changed_options(policy)


def _convert(policy: str, key: str, value: str, kind: Any) -> Any:
    if kind is bool:
        table = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if value.lower() in table:
            return table[value.lower()]
    elif kind in (int, float, str):
        try:
            return kind(value)
        except ValueError:
            pass
    raise OptionError(f"policy {policy}: option {key} needs {kind.__name__}, not {value!r}")
