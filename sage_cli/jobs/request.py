"""What one result is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sage_cli.jobs.inputs import STDIN, Source
from sage_core.errors import InputError

__all__ = ["Request", "refusals"]


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
        try:
            for source in sorted(self.sources, key=_waits):
                source.check()
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


def refusals(requests: Sequence[Request]) -> list[InputError] | None:
    """Why none of them can come to anything; None if one may, as far as that shows at once."""
    found: dict[int, InputError] = {}
    for number in sorted(range(len(requests)), key=lambda i: any(map(_waits, requests[i].sources))):
        why = requests[number].refusal()
        if why is None:
            return None
        found[number] = why
    return [found[number] for number in range(len(requests))]


def _waits(source: Source) -> bool:
    """Standard input is looked at last: nobody should wait for its end without need."""
    return source.name == STDIN
