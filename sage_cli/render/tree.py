"""A token tree drawn in lines: levels as columns if they fit the width, else indented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from sage_cli.render.glyphs import Glyphs
from sage_core.trees.tree import ROOT, TokenTree

__all__ = ["draw_tree", "shown_token"]

ACCEPTED, PENDING, LINE, PROB = "bold green", "dim", "dim", "dim"
_NARROWEST = 9  # columns of one level below which the drawing goes indented
_ROOT = 12  # most columns of the root's word


def shown_token(text: str, glyphs: Glyphs) -> str:
    """A token's text on one line: the leading space of a word dropped, line ends made visible."""
    stripped = text.strip(" ") or text.replace(" ", "_")
    stripped = stripped.replace("\n", glyphs.newline)
    return "".join(c if c.isprintable() else "?" for c in stripped) or "''"


def draw_tree(
    tree: TokenTree,
    accepted: Sequence[int],
    root: str,
    token: Callable[[int], str],
    *,
    width: int,
    rows: int,
    glyphs: Glyphs,
) -> list[Text]:
    """At most ``rows`` lines of at most ``width`` columns.

    Args:
        tree: the tree of one step.
        accepted: nodes of the accepted path, marked; all others are dimmed.
        root: text of the root.
        token: text of a token id.
        width: columns to use.
        rows: lines to use; if the tree needs more, the accepted path and the most likely nodes
            are drawn and a last line counts the rest.
        glyphs: characters to draw with.
    """
    if rows <= 0 or width <= 0:
        return []
    path = set(accepted)

    labels = [
        Label(
            shown_token(token(tree.tokens[node]), glyphs),
            " " + f"{tree.probs[node]:.2f}".removeprefix("0"),
            glyphs.check if node in path else "",
        )
        for node in range(len(tree))
    ]
    root = shown_token(root, glyphs)
    columns = _columns(tree, root, labels, width)
    if columns is None:
        return _indented(tree, path, root, labels, width, rows, glyphs)
    return _sideways(tree, path, root, labels, columns, width, rows, glyphs)


@dataclass(frozen=True)
class Label:
    """A node's word, its probability, and a mark on the accepted path."""

    word: str
    prob: str
    mark: str

    @property
    def width(self) -> int:
        return cell_len(self.word) + len(self.prob) + len(self.mark)

    def fit(self, width: int, glyphs: Glyphs) -> str:
        """At most ``width`` columns: the word is cut before the probability."""
        full = self.word + self.prob + self.mark
        if self.width <= width:
            return full
        rest = width - len(self.prob) - len(self.mark)
        if rest < 3:
            return _fit(self.word, width - len(self.mark), glyphs) + self.mark
        return _fit(self.word, rest, glyphs) + self.prob + self.mark


def _columns(tree: TokenTree, root: str, labels: list[Label], width: int) -> list[int] | None:
    """Columns of each level, the root's first; None if they would be too narrow to read.

    A level is as wide as its longest label; if the sum exceeds the width, the widest levels are
    cut to a common limit.
    """
    wishes = [min(cell_len(root), _ROOT)] + [0] * tree.depth
    for node, level in enumerate(tree.depths):
        wishes[level] = max(wishes[level], labels[node].width)
    room = width - 4 * tree.depth
    limit = max(wishes)
    while limit > _NARROWEST and sum(min(wish, limit) for wish in wishes) > room:
        limit -= 1
    columns = [min(wish, limit) for wish in wishes]
    return columns if sum(columns) <= room else None


def _fit(text: str, width: int, glyphs: Glyphs) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)).rstrip() + glyphs.more if width > 0 else ""


def _keep(tree: TokenTree, order: Sequence[int], budget: int) -> set[int]:
    """The first ``budget`` nodes of ``order``, with their ancestors."""
    kept: set[int] = set()
    for node in order[:budget]:
        kept.update(tree.path(node))
    return kept


def _by_likelihood(tree: TokenTree, path: set[int], nodes: Sequence[int]) -> list[int]:
    """The accepted path first, then by the probability of the whole path (parents first)."""
    return sorted(nodes, key=lambda n: (n not in path, -tree.cumulative[n], n))


def _children(tree: TokenTree, kept: set[int], node: int) -> list[int]:
    """The kept children, most likely first."""
    return sorted((c for c in tree.children(node) if c in kept), key=lambda c: tree.ranks[c])


def _rest(tree: TokenTree, kept: set[int], width: int, glyphs: Glyphs) -> Text:
    hidden = len(tree) - len(kept)
    return Text(_fit(f"{glyphs.more} {hidden} more", width, glyphs), style=LINE)


def _sideways(
    tree: TokenTree,
    path: set[int],
    root: str,
    labels: list[Label],
    columns: list[int],
    width: int,
    rows: int,
    glyphs: Glyphs,
) -> list[Text]:
    """One line per leaf; levels are columns."""
    # Each leaf off the accepted path takes a line, and so does the accepted path itself.
    ends = [n for n in tree.leaves() if n not in path]
    tips = _by_likelihood(tree, path, [*([max(path)] if path else []), *ends])
    crowded = len(tree.leaves()) > rows
    kept = _keep(tree, tips, rows - 1 if crowded and rows > 1 else rows)
    kept |= path

    lines: list[Text] = []

    def place(node: int, line: Text, trunk: list[bool]) -> None:
        """Append the children of ``node``; ``trunk`` says which columns continue below."""
        below = _children(tree, kept, node)
        for i, child in enumerate(below):
            last = i == len(below) - 1
            if i == 0:
                line.append((glyphs.flat if last else glyphs.fork) + glyphs.flat + " ", LINE)
            else:
                line = Text(no_wrap=True)
                for level, goes_on in enumerate(trunk):
                    pad = columns[level] + 1
                    line.append(" " * pad + (glyphs.down if goes_on else " ") + "  ", LINE)
                here = columns[len(trunk)] + 1
                line.append(" " * here + (glyphs.last if last else glyphs.tee), LINE)
                line.append(glyphs.flat + " ", LINE)
                lines.append(line)
            size = columns[tree.depths[child]]
            name = labels[child].fit(size, glyphs)
            line.append(name, ACCEPTED if child in path else PENDING)
            if _children(tree, kept, child):
                filler = size - cell_len(name)
                line.append(" " + glyphs.flat * filler, LINE)
            place(child, line, [*trunk, not last])

    first = Text(no_wrap=True).append(_fit(root, columns[0], glyphs) + " ", "bold")
    lines.append(first)
    place(ROOT, first, [])
    lines = lines[:rows]
    if len(kept) < len(tree) and len(lines) < rows:
        lines.append(_rest(tree, kept, width, glyphs))
    for line in lines:
        line.truncate(width)
    return lines


def _indented(
    tree: TokenTree,
    path: set[int],
    root: str,
    labels: list[Label],
    width: int,
    rows: int,
    glyphs: Glyphs,
) -> list[Text]:
    """One line per node; levels are indents."""
    budget = rows - 1
    order = _by_likelihood(tree, path, range(len(tree)))
    if len(tree) > budget:
        budget -= 1
    kept = _keep(tree, order, max(0, budget))
    # In a narrow terminal a deep tree is indented less, so that words stay readable.
    step = 2 if width >= 2 * tree.depth + 12 else 1
    lines = [Text(_fit(root, width, glyphs), style="bold", no_wrap=True)]

    def place(node: int, indent: str) -> None:
        below = _children(tree, kept, node)
        for i, child in enumerate(below):
            last = i == len(below) - 1
            line = Text(no_wrap=True)
            line.append(
                indent + (glyphs.last if last else glyphs.tee) + glyphs.flat * (step - 1), LINE
            )
            room = max(1, width - len(indent) - step)
            line.append(labels[child].fit(room, glyphs), ACCEPTED if child in path else PENDING)
            line.truncate(width)
            lines.append(line)
            place(child, indent + (" " if last else glyphs.down) + " " * (step - 1))

    place(ROOT, "")
    lines = lines[:rows]
    if len(kept) < len(tree) and len(lines) < rows:
        lines.append(_rest(tree, kept, width, glyphs))
    return lines
