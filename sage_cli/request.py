"""What one result is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from sage_cli.inputs import Source

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """One result to make: what to look at and what to ask; None is the usual caption.

    ``json_schema`` is what the answer must follow, if anything.
    """

    sources: tuple[Source, ...]
    prompt: str | None
    json_schema: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs as the user named them."""
        return tuple(source.name for source in self.sources)

    @property
    def label(self) -> str:
        """What people see where the result needs a name."""
        return ", ".join(source.label for source in self.sources) or "the question"
