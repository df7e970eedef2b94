"""Options of frozen dataclasses as text: ``name:option=value,...``. No torch."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

__all__ = ["changed_options"]


def changed_options(one: Any) -> str:
    """``:option=value,...`` of a dataclass, those at their defaults left out."""
    changed = [
        f"{f.name}={getattr(one, f.name)}" for f in fields(one) if getattr(one, f.name) != f.default
    ]
    return ":" + ",".join(changed) if changed else ""
