"""Opening a run's files in another process, each while the one before it is described."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_cli.console import say
from sage_cli.jobs.inputs import STDIN, Source
from sage_cli.options.shared import RunOptions
from sage_cli.render.previews import is_page, preview

if TYPE_CHECKING:
    from sage_core.media import Clip, MediaWorker, Picture, Sampling
    from sage_core.models.families import Family

__all__ = ["MediaOpener"]


class MediaOpener:
    """Opens the files of a run: a `sage_core.media.Opener`, to be closed.

    Its process is started at once if there are files, so that it is ready, and the first file is
    decoded, while the libraries and the models of this process are loaded.
    """

    def __init__(self, sources: Sequence[Source], options: RunOptions) -> None:
        self._options = options
        self._left = deque(source.name for source in sources)
        self._files = max(1, len(sources))
        self.shown: dict[str, dict[str, Any]] = {}
        """By name: previews of what was opened, if the saved view shows them."""
        self.worker: MediaWorker | None = None
        """None as long as there was no file."""
        if self._left:
            self._started()

    def expect(self, sources: Sequence[Source]) -> None:
        """The files that will be opened, in their order."""
        self._left = deque(source.name for source in sources)

    def __enter__(self) -> MediaOpener:
        return self

    def __exit__(self, *_: object) -> None:
        if self.worker is not None:
            self.worker.close()

    def __call__(self, source: Any, sampling: Sampling) -> Picture | Clip:
        """Open a file as `sage_core.open_media`, then begin with the next one."""
        from sage_core.media import open_media

        if isinstance(source, Source):
            source = source.open()
        name = source if isinstance(source, str) else STDIN
        if name in self._left:
            while self._left.popleft() != name:
                pass
        try:
            opened = open_media(source, sampling, isolate=self._started())
        except Exception:
            self._begin(sampling)
            raise
        self._begin(sampling)
        note = getattr(opened, "note", "")
        if note and not self._options.quiet:
            say(f"{opened.name}: {note}")
        if is_page(self._options.save_view):
            self.shown[opened.name] = preview(opened, self._files)
        return opened

    def begin(self, family: Family) -> None:
        """Begin with the first file."""
        from sage_core.options import Options

        self._begin(Options(**self._options.decoding()).sampling(family.sampling))

    def _begin(self, sampling: Sampling) -> None:
        """Decode the file that comes next; an error shows when it is opened.

        Standard input and pipes are read when their turn comes.
        """
        if not self._left or not (worker := self._started()).supported():
            return
        with suppress(OSError):
            if Path(self._left[0]).is_file():
                worker.begin(self._left[0], sampling)

    def _started(self) -> MediaWorker:
        if self.worker is None:
            from sage_core.media import MediaWorker

            self.worker = MediaWorker(self._options.media_limits())
            if self.worker.supported():
                self.worker.start()
        return self.worker
