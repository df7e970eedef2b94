"""Options that change drafting or acceptance: one module each, discovered by its name.

What belongs here: a `DecodingExtension` with the values of its option, the combinations that it
refuses, and its wrappers of the drafter, the planner, the acceptance rule or the passes of a text.
Modules import no torch at the top, so that options can be checked before models are loaded.
What does not: tree policies (`trees.policies`) and drafts (`drafts`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sage_core.engine.extensions.base import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import OptionError
from sage_core.generation.sampling_params import check_candidates
from sage_core.trees import policies
from sage_core.trees.policy import Policy

__all__ = ["DecodingContext", "DecodingExtension", "DecodingParts", "available", "parse", "resolve"]


@cache
def _discovered() -> dict[str, type[DecodingExtension]]:
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
    """Extensions by the name of their option, in the order of application."""
    return dict(_discovered())


def parse(options: Mapping[str, Any]) -> tuple[DecodingExtension, ...]:
    """The extensions for options, in the order of application.

    Args:
        options: values by name, or extensions; None and False: off.

    Raises:
        OptionError: an unknown name or an invalid value.
    """
    kinds = available()
    for name in options:
        if name not in kinds:
            raise OptionError(f"unknown option {name!r}: choose from {', '.join(kinds)}")
    return tuple(
        value if isinstance(value := options[name], kind) else kind.parse(value)
        for name, kind in kinds.items()
        if options.get(name) is not None and options[name] is not False
    )


def resolve(
    policy: str | Policy | None,
    candidates: str,
    options: Mapping[str, Any],
    extensions: Sequence[DecodingExtension] = (),
    *,
    draft: bool,
) -> tuple[Policy, tuple[DecodingExtension, ...]]:
    """The policy and the extensions of a request, with their combination checked. Loads no model.

    Args:
        policy: a policy or its spec; None: ``sage`` with drafts and ``autoregressive`` without.
        candidates: ``topk`` or ``drawn``.
        options: as for `parse`.
        extensions: further ones, as objects.
        draft: whether there is a draft model or head.

    Raises:
        OptionError, UnsupportedError: an invalid value or combination.
    """
    asked = sorted((*parse(options), *extensions), key=lambda one: one.order)
    drafts = draft or any(one.drafts for one in asked)
    if policy is None:
        policy = "sage" if drafts else "autoregressive"
    chosen = policies.parse(policy)
    if chosen.drafts and not drafts:
        raise OptionError(
            f"policy {chosen.name} needs a draft model or n-gram lookup: use one, or autoregressive"
        )
    check_candidates(candidates, chosen)
    for extension in asked:
        extension.check(chosen, candidates, draft=draft)
    return chosen, tuple(asked)
