"""The live view: the current tree on the terminal, drawn as often as its time budget allows."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from threading import current_thread, main_thread
from time import perf_counter
from typing import Any, Protocol, TextIO

from rich.control import Control, ControlType
from rich.segment import Segment, Segments
from rich.text import Text

from sage_cli.console import error_console
from sage_cli.render.frame import History, frame_lines
from sage_cli.render.glyphs import glyphs_for
from sage_core.trees.steps import Step

__all__ = ["LiveView", "Throttle", "Watched"]


class Watched(Protocol):
    """What the view needs of a running text; `sage_core.Stream` has it."""

    @property
    def text(self) -> str: ...

    def token_text(self, token_id: int) -> str: ...


class Throttle:
    """Decides when to draw: at most ``rate`` times a second, within ``share`` of the elapsed time.

    A frame is due when the time spent on frames, the next one included at the mean cost of the
    last few, stays within the share of the time since `start`. The default is below the documented
    2%, since single frames take longer on a busy machine.
    """

    def __init__(
        self,
        share: float = 0.015,
        rate: float = 8.0,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._share = share
        self._interval = 1.0 / rate
        self.clock = clock
        self._started = clock()
        self._last = float("-inf")
        self._recent: list[float] = []
        self.spent = 0.0
        """Seconds spent on frames since `start`."""
        self.frames = 0

    def start(self) -> None:
        """Decoding begins now."""
        self._started = self.clock()
        self.spent = 0.0
        self.frames = 0

    def expect(self, seconds: float) -> None:
        """Set the first estimate of a frame's cost."""
        self._recent = [seconds]

    def due(self) -> bool:
        now = self.clock()
        if now - self._last < self._interval:
            return False
        price = sum(self._recent) / len(self._recent) if self._recent else 0.0
        return self.spent + price <= self._share * (now - self._started)

    def drew(self, begun: float) -> None:
        """A frame begun at ``begun`` (by the same clock) is on the screen."""
        now = self.clock()
        self.spent += now - begun
        self.frames += 1
        self._last = now
        self._recent = [*self._recent[-3:], now - begun]


class LiveView:
    """Draws on the alternate screen of a terminal, and restores the screen at the end.

    Each frame repaints the whole screen, so that nothing is left over after a resize.
    """

    def __init__(
        self, history: History, file: TextIO | None = None, throttle: Throttle | None = None
    ) -> None:
        self._console = error_console(file)
        self._history = history
        self._glyphs = glyphs_for(self._console.encoding)
        self.throttle = throttle or Throttle()
        self._clock = self.throttle.clock
        self._suspension: Any = None

    def __enter__(self) -> LiveView:
        self._show()
        self._catch_suspension()
        # The first frame also initializes rich; the cost of the second is the estimate.
        for _ in range(2):
            begun = self._clock()
            self._draw("", lambda token: "")
        self.throttle.expect(self._clock() - begun)
        return self

    def __exit__(self, *_: object) -> None:
        if self._suspension is not None:
            signal.signal(signal.SIGTSTP, self._suspension)
        self._hide()

    def _show(self) -> None:
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _hide(self) -> None:
        self._console.show_cursor(True)
        self._console.set_alt_screen(False)

    def _catch_suspension(self) -> None:
        """Restore the screen on Ctrl-Z, and draw again when the program continues."""
        if not hasattr(signal, "SIGTSTP") or current_thread() is not main_thread():
            return

        def suspend(number: int, frame: object) -> None:
            self._hide()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)  # stops here until the shell continues it
            signal.signal(number, suspend)
            self._show()

        self._suspension = signal.signal(signal.SIGTSTP, suspend)

    def step(self, step: Step, watched: Watched) -> None:
        """Draw the step if a frame is due."""
        if step.is_prefill:
            self.throttle.start()
        if self.throttle.due():
            begun = self._clock()
            self._draw(watched.text, watched.token_text)
            self.throttle.drew(begun)

    def _draw(self, text: str, token: Callable[[int], str]) -> None:
        width, height = self._console.size
        lines = frame_lines(
            self._history, text, token, width=width, height=height, glyphs=self._glyphs
        )
        self._console.print(Segments(self._paint(lines, height)), end="", crop=False)

    def _paint(self, lines: list[Text], height: int) -> Iterator[Segment]:
        """Erase and write every line from the top. One write, no scrolling.

        A line is erased first: erasing to the end of a full line would erase its last column.
        Wrapping is off meanwhile, as terminals differ in the width of some characters.
        """
        yield Segment("\x1b[?7l", None, ())
        erase = Control((ControlType.ERASE_IN_LINE, 2)).segment
        yield Control.home().segment
        for row in range(height):
            yield erase
            if row < len(lines):
                yield from (s for s in lines[row].render(self._console) if s.text != "\n")
            if row < height - 1:
                yield Segment("\r\n")
        yield Segment("\x1b[?7h", None, ())
