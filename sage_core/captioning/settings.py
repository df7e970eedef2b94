"""All that captioning depends on, as one value that can be sent to other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_core.checks import as_integer
from sage_core.media import MediaLimits

__all__ = ["CaptionSettings"]


@dataclass(frozen=True)
class CaptionSettings:
    """All that captioning depends on. It can be sent to other processes.

    Raises:
        OptionError: ``batch`` is neither ``auto`` nor an integer of at least 1.
    """

    loading: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `sage_core.load`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `sage_core.Options`, for all items."""
    media: MediaLimits = field(default_factory=MediaLimits)
    batch: int | str = "auto"
    """Texts that are decoded at once, see `Pipeline.outcomes`."""

    def __post_init__(self) -> None:
        if self.batch != "auto":
            as_integer("batch", self.batch, 1)
