"""Requests: the files and the prompt of one result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sage_cli.jobs.inputs import STDIN, Source
from sage_core.captioning.items import Item
from sage_core.captioning.keys import FileState
from sage_core.errors import InputError

if TYPE_CHECKING:
    from sage_core.media import MediaWorker

__all__ = ["Request", "refusals"]


@dataclass(frozen=True)
class Request:
    """The files and the prompt of one result; without a prompt, the default one for captions."""

    sources: tuple[Source, ...]
    prompt: str | None
    filled: bool = field(default=False, kw_only=True)
    """Whether the prompt holds text of the file, such as its sidecar's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of this request alone: fields of `sage_core.Options`."""
    key: str | None = None
    """Of the result, see `sage_core.captioning.keys`."""
    state: FileState | None = None
    """Of the file when the key was made."""
    caption: int | None = None
    """The number of the text, from 0, where each file gets several."""
    copies: tuple[Request, ...] = ()
    """Requests for files with the same content, which get the same text."""

    def refusal(self, worker: MediaWorker | None = None) -> InputError | None:
        """The error of an input that cannot be used, as far as it can be found before loading."""
        try:
            for source in sorted(self.sources, key=_waits):
                source.check(worker)
        except InputError as error:
            return error
        return None

    @property
    def item(self) -> Item:
        """The request for other processes."""
        source = self.sources[0]
        file = source.open()
        content = None if isinstance(file, str) else file.read()
        return Item(source.name, self.prompt, self.options, self.key, self.state, content)

    def check(self) -> None:
        """Refuse a result of a file that has changed since. Raises as `FileState.check`."""
        if self.state is not None:
            self.state.check()

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs as the user named them."""
        return tuple(source.name for source in self.sources)

    @property
    def label(self) -> str:
        """The name of the result in messages and headings."""
        return ", ".join(source.label for source in self.sources) or "the question"


def refusals(
    requests: Sequence[Request], worker: MediaWorker | None = None
) -> list[InputError] | None:
    """The errors if no request can be used; None if one may, as far as known before loading."""
    found: dict[int, InputError] = {}
    for number in sorted(range(len(requests)), key=lambda i: any(map(_waits, requests[i].sources))):
        error = requests[number].refusal(worker)
        if error is None:
            return None
        found[number] = error
    return [found[number] for number in range(len(requests))]


def _waits(source: Source) -> bool:
    """Whether it is standard input: that is checked last, to wait for its end only if needed."""
    return source.name == STDIN
