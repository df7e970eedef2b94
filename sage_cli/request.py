"""What one result is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_cli.inputs import STDIN, Source
from sage_core.errors import InputError

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """One result to make: what to look at and what to ask; None is the usual caption.

    ``json_schema`` is what the answer must follow, if anything.
    """

    sources: tuple[Source, ...]
    prompt: str | None
    json_schema: str | None = None

    def refusal(self) -> InputError | None:
        """Why this cannot come to anything, as far as that shows before a model is loaded."""
        from sage_core.media import check_media

        try:
            for source in self.sources:
                if source.name != STDIN:
                    check_media(Path(source.name), source.label)
        except InputError as error:
            return error
        return None

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs as the user named them."""
        return tuple(source.name for source in self.sources)

    @property
    def label(self) -> str:
        """What people see where the result needs a name."""
        return ", ".join(source.label for source in self.sources) or "the question"
