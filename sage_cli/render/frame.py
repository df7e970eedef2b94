"""One frame of the live view: a run so far, laid out in a given width and height."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rich.cells import cell_len, chop_cells
from rich.text import Text

from sage_cli.console import clean
from sage_cli.render.glyphs import Glyphs, sparkline
from sage_cli.render.tree import draw_tree, shown_token
from sage_core.trees.steps import Step
from sage_core.trees.tree import TokenTree

__all__ = ["History", "frame_lines"]

_KEPT = 64  # recent steps that sparklines and the strip can show
_GAP = "   "


@dataclass
class History:
    """Totals and recent values of a run; adding a step takes a few microseconds."""

    title: str
    policy: str
    limit: int
    """Maximum number of new tokens."""
    step: Step | None = None
    tokens: int = 0
    steps: int = 0
    accepted_total: int = 0
    draft_passes: int = 0
    decode_seconds: float = 0.0
    alpha: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    depth: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    width: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    accepted: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def add(self, step: Step) -> None:
        self.step = step
        if step.is_prefill:  # the first, or that of a second attempt
            self.tokens = self.steps = self.accepted_total = self.draft_passes = 0
            self.decode_seconds = 0.0
        self.tokens += len(step.tokens)
        if step.is_prefill:
            return
        self.steps += 1
        self.accepted_total += len(step.accepted)
        self.draft_passes += step.draft_passes
        self.decode_seconds += step.seconds.decode
        self.accepted.append(len(step.accepted))
        shape = step.shape
        if shape.alpha is not None:
            self.alpha.append(shape.alpha)
        if shape.depth:
            self.depth.append(step.draft_passes or shape.depth)
            self.width.append(shape.width or _widest(step.tree))

    @property
    def mean_accepted(self) -> float:
        """τ so far; the bonus token is not counted."""
        return self.accepted_total / self.steps if self.steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        return (self.tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0


def _widest(tree: TokenTree) -> int:
    """Number of nodes in the widest level."""
    return max(Counter(tree.depths).values(), default=0)


def frame_lines(
    history: History,
    text: str,
    token: Callable[[int], str],
    *,
    width: int,
    height: int,
    glyphs: Glyphs,
) -> list[Text]:
    """The frame in at most ``height`` lines of at most ``width`` columns."""
    if width < 1 or height < 1:
        return []
    head = _head(history, width, glyphs)
    body = height - len(head) - 2
    if body < 4:  # a few lines only: drop the figures, keep tree and text
        head = head[:1]
        body = height - len(head) - 2
    words = _wrap(text, width, max(1, height))
    share = max(1, body - _tree_need(history, max(1, body))) if words else 0
    text_rows = min(len(words), max(share, min(body // 3, len(words))))
    tree = _tree(history, token, width, max(0, body - text_rows), glyphs)
    text_rows = max(0, min(len(words), body - len(tree)))
    lines = [*head, _rule(_tree_title(history, token, glyphs), width, glyphs), *tree]
    lines.append(_rule("text", width, glyphs))
    lines += [Text(line, no_wrap=True) for line in (words[-text_rows:] if text_rows else [])]
    for line in lines:
        line.truncate(width)
    return lines[:height]


def _head(history: History, width: int, glyphs: Glyphs) -> list[Text]:
    title = Text(no_wrap=True)
    title.append("sage ", "bold")
    title.append(f"{glyphs.dot} {history.title} {glyphs.dot} {history.policy}", "dim")
    figures = [
        _cell(f"{history.tokens_per_second:.1f}", "tokens/s"),
        _cell(f"{history.mean_accepted:.2f}", glyphs.tau, name_first=True),
        _cell(f"{history.mean_accepted + 1:.2f}", "mean acceptance length", name_first=True).append(
            f" ({glyphs.tau} + bonus token)", "dim"
        ),
        _cell(f"{history.tokens}/{history.limit}", "tokens"),
        _cell(str(history.steps), "steps"),
        _cell(str(history.draft_passes), "draft passes"),
    ]
    points = max(5, min(_KEPT // 2, (width - 40) // 3))
    gauges = []
    if history.alpha:
        gauges.append(_gauge(glyphs.alpha, history.alpha, "{:.2f}", 0.0, 1.0, points, glyphs))
    if history.depth:
        gauges.append(
            _gauge("depth", history.depth, "{:.0f}", 0.0, max(history.depth), points, glyphs)
        )
        gauges.append(
            _gauge("width", history.width, "{:.1f}", 0.0, max(history.width), points, glyphs)
        )
    lines = [title, *_flow(figures, width), *_flow(gauges, width)]
    if history.accepted:
        lines.append(_strip(history.accepted, width))
    return lines


def _cell(value: str, name: str, *, name_first: bool = False) -> Text:
    text = Text(no_wrap=True)
    if name_first:
        text.append(name + " ", "dim")
    text.append(value, "bold cyan")
    if not name_first:
        text.append(" " + name, "dim")
    return text


def _gauge(
    name: str,
    values: Iterable[float],
    form: str,
    low: float,
    high: float,
    points: int,
    glyphs: Glyphs,
) -> Text:
    recent = list(values)[-points:]
    text = _cell(form.format(recent[-1]), name, name_first=True)
    text.append(" " + sparkline(recent, low, high, glyphs), "cyan")
    return text


def _flow(cells: list[Text], width: int) -> list[Text]:
    """Cells side by side, on as many lines as needed."""
    lines: list[Text] = []
    for cell in cells:
        if lines and lines[-1].cell_len + len(_GAP) + cell.cell_len <= width:
            lines[-1].append(_GAP).append_text(cell)
        else:
            lines.append(cell.copy())
    return lines


def _strip(accepted: Iterable[int], width: int) -> Text:
    """Accepted tokens of the latest steps, the newest at the right."""
    line = Text("accepted ", "dim", no_wrap=True)
    room = max(1, (width - line.cell_len) // 2)
    for length in list(accepted)[-room:]:
        style = "dim red" if length == 0 else "yellow" if length < 3 else "bold green"
        line.append(str(length) if length < 10 else "+", style).append(" ")
    return line


def _tree_title(history: History, token: Callable[[int], str], glyphs: Glyphs) -> str:
    step = history.step
    if step is None:
        return "prefill"
    if step.is_prefill:
        return "first token"
    nodes = f"{len(step.tree)} nodes, depth {step.tree.depth}, {len(step.accepted)} accepted"
    title = f"step {step.index}: {nodes}"
    if len(step.tokens) > len(step.accepted):
        own = shown_token(token(step.tokens[-1]), glyphs)
        title += f", then {own!r}"
    return title


def _tree_need(history: History, most: int) -> int:
    """Lines that the whole tree takes at most, and at most ``most``."""
    step = history.step
    if step is None or not len(step.tree):
        return 1
    return min(most, 2 * len(step.tree.leaves()))  # with the forks


def _tree(
    history: History, token: Callable[[int], str], width: int, rows: int, glyphs: Glyphs
) -> list[Text]:
    step = history.step
    if step is None:
        return []
    if step.is_prefill:
        root = step.tokens[-1] if step.tokens else -1
        return draw_tree(
            step.tree,
            (),
            token(root) if root >= 0 else "",
            token,
            width=width,
            rows=rows,
            glyphs=glyphs,
        )
    return draw_tree(
        step.tree, step.accepted, token(step.root), token, width=width, rows=rows, glyphs=glyphs
    )


def _rule(title: str, width: int, glyphs: Glyphs) -> Text:
    line = Text(glyphs.rule * 2 + " ", "dim", no_wrap=True)
    line.append(title, "default")
    line.append(" " + glyphs.rule * max(0, width - line.cell_len - 1), "dim")
    return line


def _wrap(text: str, width: int, rows: int) -> list[str]:
    """The last ``rows`` lines of ``text`` at this width; earlier text is not laid out."""
    tail = clean(text, keep="\n")[-(rows + 1) * width :]
    lines: list[str] = []
    for paragraph in tail.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            joined = f"{line} {word}" if line else word
            if cell_len(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            *full, line = chop_cells(word, width) if cell_len(word) > width else [word]
            lines += full
        lines.append(line)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines[-rows:]
