"""Saved views: the last frame as SVG, or the whole run as an HTML page to step through."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from sage_cli.console import clean
from sage_cli.render.frame import History, frame_lines
from sage_cli.render.glyphs import UNICODE
from sage_cli.render.live import Watched
from sage_cli.render.outputs import write_output
from sage_cli.render.previews import is_page
from sage_core.trees.steps import Step

__all__ = ["DATA", "SavedView", "compact", "page", "step_data"]

_WIDTH = 110  # columns of the SVG
_ROWS = 64 + 24  # lines: the largest tree of the paper's settings, figures and text
DATA = "/*DATA*/null"
"""Placeholder of the page's data."""


class SavedView:
    """Keeps the frames of a run and writes them at the end. Needs no terminal.

    Args:
        path: of the SVG or HTML file.
        history: totals of the run.
        media: by name what a page shows beside the text, as made by `previews.preview`; filled
            until the end.
    """

    def __init__(
        self, path: Path, history: History, media: Mapping[str, Mapping[str, Any]]
    ) -> None:
        self._path = path
        self._history = history
        self._media = media
        self._whole = is_page(path)
        self._steps: list[tuple[Step, str]] = []
        self._watched: Watched | None = None

    def step(self, step: Step, watched: Watched) -> None:
        self._watched = watched
        if not self._whole or step.is_prefill:  # of a second attempt, the first is left out
            self._steps.clear()
        self._steps.append((step, watched.text if self._whole else ""))

    def save(self, models: str) -> bool:
        """Write the file; False if nothing was decoded. ``models`` is named in the page's title."""
        if self._watched is None:
            return False
        text = self._page(models, self._watched) if self._whole else self._svg(self._watched)
        write_output(self._path, text)
        return True

    def _svg(self, watched: Watched) -> str:
        from rich.console import Console

        console = Console(
            record=True,
            width=_WIDTH,
            file=io.StringIO(),
            force_terminal=True,
            color_system="truecolor",
            legacy_windows=False,
            no_color=False,
        )
        lines = frame_lines(
            self._history,
            watched.text,
            watched.token_text,
            width=_WIDTH,
            height=_ROWS,
            glyphs=UNICODE,
        )
        for line in lines:
            console.print(line, no_wrap=True, crop=True)
        picture = console.export_svg(title=f"sage: {self._history.title}")
        # Without rich's web fonts, so that viewing it loads nothing from the network; and with
        # leading spaces, which some renderers strip.
        picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
        return picture.replace("<svg ", '<svg xml:space="preserve" ', 1)

    def _page(self, models: str, watched: Watched) -> str:
        names: dict[int, str] = {}

        def token(token_id: int) -> str:
            if token_id < 0:
                return ""
            if token_id not in names:
                names[token_id] = clean(watched.token_text(token_id), keep="\n")
            return names[token_id]

        data = {
            "title": self._history.title,
            "policy": self._history.policy,
            "models": models,
            "media": list(self._media.values()),
            "steps": compact([step_data(step, text, token) for step, text in self._steps]),
        }
        return page(data)


def page(data: dict[str, Any] | None) -> str:
    """The page that steps through a run: ``title``, ``policy``, ``models``, ``steps`` (`compact`)
    and perhaps ``media``.

    None gives the page with `DATA` in place of its data.
    """
    template = files("sage_cli.render").joinpath("page.html").read_text("utf-8")
    if data is None:
        return template
    # "<" is escaped so that no token can end the script element.
    return template.replace(DATA, json.dumps(data).replace("<", "\\u003c"))


def step_data(step: Step, text: str, token: Callable[[int], str]) -> dict[str, Any]:
    """One step as page data: the ``text`` so far, and tokens as text by ``token``."""
    root = step.root if not step.is_prefill else -1
    return {
        "index": step.index,
        "root": token(root),
        "words": [token(t) for t in step.tree.tokens],
        "parents": list(step.tree.parents),
        "probs": [round(p, 4) for p in step.tree.probs],
        "accepted": list(step.accepted),
        "tokens": [token(t) for t in step.tokens],
        "alpha": None if step.shape.alpha is None else round(step.shape.alpha, 4),
        "depth": step.shape.depth,
        "width": round(float(step.shape.width), 2),
        "note": step.shape.note,
        "passes": step.draft_passes,
        "seconds": round(step.seconds.total, 5),
        "text": clean(text),
    }


def compact(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Steps whose ``text`` is what they added to the last one's, if ``kept``, else all of it."""
    found, before = [], ""
    for step in steps:
        text = step["text"]
        kept = text.startswith(before)
        found.append({**step, "kept": kept, "text": text[len(before) :] if kept else text})
        before = text
    return found
