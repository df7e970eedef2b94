"""A loaded pipeline that turns items into records: one for each process or device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_core.captioning.items import Item, fewer_pixels
from sage_core.captioning.records import failure_record, result_record
from sage_core.captioning.settings import CaptionSettings
from sage_core.errors import OptionError
from sage_core.media import Clip, MediaWorker, Picture, Sampling, open_media
from sage_core.options import Options
from sage_core.pipeline import load

__all__ = ["CaptionSettings", "Captioner"]


class Captioner:
    """Loads the models in this process, and opens files in another, see `MediaWorker`.

    Args:
        settings: all that the texts depend on.
        notice: called with a line about a file, such as that it was scaled down.

    Raises:
        SageError: as `sage_core.load`.
    """

    def __init__(
        self, settings: CaptionSettings, notice: Callable[[str], object] = lambda line: None
    ) -> None:
        self._settings = settings
        self._notice = notice
        self._next: Item | None = None
        """The item after the one that is started: its file is decoded meanwhile."""
        self._media = MediaWorker(settings.media)
        if self._media.supported():
            self._media.start()
        self.pipeline = load(**settings.loading, opener=self._open)

    @property
    def width(self) -> int:
        """Texts that are decoded at once."""
        if self._settings.batch != "auto":
            return int(self._settings.batch)
        return 1 if Options.of(self._settings.options).single_text else self.pipeline.pays

    def records(self, items: Iterable[Item]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The record of each item as it is done, with the item's place from 0, in any order.

        An error is a failure's record. Where memory was short for an item, it is tried again alone
        with fewer pixels when the others are done.

        Raises:
            OptionError: an option that no item can be decoded with.
        """
        taken: list[Item] = []
        short: list[int] = []
        outcomes = self.pipeline.outcomes(
            (item.request for item in self._followed(items, taken)),
            batch=self._settings.batch,
            **self._settings.options,
        )
        with closing(outcomes):
            for outcome in outcomes:
                record = self._record(taken[outcome.number], outcome.get)
                if record.get("error", {}).get("kind") == "memory":
                    short.append(outcome.number)
                else:
                    yield outcome.number, record
        for number in short:
            yield number, self._smaller(taken[number])

    def _followed(self, items: Iterable[Item], taken: list[Item]) -> Iterator[Item]:
        """The items, each kept in ``taken`` when the one after it is known."""
        rest = iter(items)
        following = next(rest, None)
        while (item := following) is not None:
            following = self._next = next(rest, None)
            taken.append(item)
            yield item

    def _open(self, source: Any, sampling: Sampling) -> Picture | Clip:
        """Open a file, then begin with the next one."""
        try:
            opened = open_media(source, sampling, isolate=self._media)
        finally:
            following, self._next = self._next, None
            if following is not None and self._can_begin(following):
                self._media.begin(following.name, sampling)
        note = getattr(opened, "note", "")
        if note:
            self._notice(f"{opened.name}: {note}")
        return opened

    def _can_begin(self, item: Item) -> bool:
        plain = item.content is None and not item.options
        return plain and self._media.supported() and Path(item.name).is_file()

    def _smaller(self, item: Item) -> dict[str, Any]:
        """The record of an item for which memory was short."""
        most = item.options.get("max_pixels", self._settings.options.get("max_pixels"))
        record: dict[str, Any] = {}
        for pixels in fewer_pixels(most):
            self._notice(f"{item.name}: out of memory: trying again with at most {pixels} pixels")
            item = replace(item, options={**item.options, "max_pixels": pixels})
            record = self._record(item, lambda item=item: self._alone(item))  # type: ignore[misc]
            if record.get("error", {}).get("kind") != "memory":
                break
        if "error" in record:
            return record
        return {**record, "retried": {"max_pixels": item.options["max_pixels"]}}

    def _alone(self, item: Item) -> Any:
        request = item.request
        chosen = {**self._settings.options, **request.options}
        return self.pipeline.stream(request.files, request.prompt, **chosen).result()

    def _record(self, item: Item, get: Callable[[], Any]) -> dict[str, Any]:
        try:
            result = get()
            item.check()
        except OptionError:
            raise
        except Exception as error:
            return failure_record(error, files=[item.name], key=item.key)
        seed = item.options.get("seed", self._settings.options.get("seed", 0))
        return result_record(
            result, files=[item.name], pipeline=self.pipeline, seed=seed, key=item.key
        )

    def close(self) -> None:
        """End the process that opens files."""
        self._media.close()
