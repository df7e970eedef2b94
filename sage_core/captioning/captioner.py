"""A loaded pipeline that turns items into records: one for each process or device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sage_core.captioning.items import Item
from sage_core.captioning.records import failure_record, result_record
from sage_core.media import MediaLimits, MediaWorker, open_media
from sage_core.pipeline import load

__all__ = ["CaptionSettings", "Captioner"]


@dataclass(frozen=True)
class CaptionSettings:
    """All that captioning depends on. It can be sent to other processes."""

    loading: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `sage_core.load`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `sage_core.Options`, for all items."""
    media: MediaLimits = field(default_factory=MediaLimits)
    batch: int | str = "auto"


class Captioner:
    """Loads the models in this process, and opens files in another, see `MediaWorker`.

    Raises:
        SageError: as `sage_core.load`.
    """

    def __init__(self, settings: CaptionSettings) -> None:
        self._settings = settings
        self._media = MediaWorker(settings.media)
        if self._media.supported():
            self._media.start()
        opener = partial(open_media, isolate=self._media)
        self.pipeline = load(**settings.loading, opener=opener)

    def records(self, items: Iterable[Item]) -> Iterator[tuple[Item, dict[str, Any]]]:
        """The record of each item as it is done, in any order; an error is a failure's record.

        Raises:
            OptionError: an option that no item can be decoded with.
        """
        taken: list[Item] = []

        def requests() -> Iterator[Any]:
            for item in items:
                taken.append(item)
                yield item.request

        options = dict(self._settings.options)
        outcomes = self.pipeline.outcomes(requests(), batch=self._settings.batch, **options)
        with closing(outcomes):
            for outcome in outcomes:
                item = taken[outcome.number]
                try:
                    yield item, self._record(item, outcome.get(), options)
                except Exception as error:
                    yield item, failure_record(error, files=[item.name], key=item.key)

    def _record(self, item: Item, result: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        item.check()
        seed = item.options.get("seed", options.get("seed", 0))
        return result_record(
            result, files=[item.name], pipeline=self.pipeline, seed=seed, key=item.key
        )

    def close(self) -> None:
        """End the process that opens files."""
        self._media.close()
