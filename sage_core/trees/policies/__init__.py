"""Tree policies: how the tree of the next step is shaped. Each is one module of this package.

A module here defines one frozen dataclass derived from `Policy`, found by its ``name``, and the
`TreePlanner` that it makes. Nothing else belongs here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from sage_core.trees.option_specs import parse_spec, spec_text
from sage_core.trees.policy import Growth, Level, Policy, TreePlanner

__all__ = ["Growth", "Level", "Policy", "TreePlanner", "available", "parse", "spec"]


@cache
def available() -> Mapping[str, type[Policy]]:
    """Policies by name. Their dataclass fields are the options, their docstrings the help."""
    found: dict[str, type[Policy]] = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Policy) and "name" in vars(value):
                found[value.name] = value
    return MappingProxyType(found)


def parse(text: str | Policy) -> Policy:
    """A policy from ``name`` or ``name:option=value,...``; a `Policy` is returned as it is.

    Raises:
        OptionError: an unknown name or option, or an invalid value; names the valid ones.
    """
    return text if isinstance(text, Policy) else parse_spec(text, available(), "policy")


def spec(policy: Policy) -> str:
    """The text that `parse` turns into this policy; options at their defaults are left out."""
    return spec_text(policy.name, policy)
