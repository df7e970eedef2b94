"""The default policy. For now it is SAGE as published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sage_core.policies.sage_paper import SagePaper


@dataclass(frozen=True)
class Sage(SagePaper):
    """The default: SAGE's adaptive tree with the published settings (see ``sage-paper``)."""

    name: ClassVar[str] = "sage"
