"""A token tree drawn in lines: levels as columns if they fit the width, else chains in lines."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from sage_cli.render.glyphs import Glyphs
from sage_core.trees.tree import ROOT, TokenTree

__all__ = ["draw_tree", "shown_token"]

ACCEPTED, PENDING, LINE, PROB = "bold green", "dim", "dim", "dim"
_NARROWEST = 12  # columns of one level below which chains are drawn instead
_INDENT = 3  # most columns of a fork's indent
_LABEL = 24  # columns that indents leave for words
_JOINERS = "\u200d\ufe0e\ufe0f"
_ROOT = 12  # most columns of the root's word


def shown_token(text: str, glyphs: Glyphs) -> str:
    """A token's text on one line: the leading space of a word dropped, line ends made visible.

    What joins emoji or selects their form is dropped: terminals differ in the width of the result.
    """
    stripped = text.strip(" ") or text.replace(" ", "_")
    stripped = stripped.replace("\n", glyphs.newline)
    return "".join(c if c.isprintable() else "?" for c in stripped if c not in _JOINERS) or "''"


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
            are drawn and a last line counts the rest. A chain that is longer than the line is
            cut, with the number of its hidden nodes and, of these, the accepted ones.
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
    drawing = _Drawing(tree, path, labels, width, rows, glyphs)
    columns = _columns(tree, root, labels, width)
    lines, kept = drawing.chains(root) if columns is None else drawing.sideways(root, columns)
    if len(kept) < len(tree) and len(lines) < rows:
        rest = f"{glyphs.more} {len(tree) - len(kept)} more"
        lines.append(Text(_fit(rest, width, glyphs), style=LINE))
    for line in lines:
        line.truncate(width)
    return lines


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


@dataclass(frozen=True)
class _Chain:
    """Nodes that follow one another, up to a fork or a leaf; the root's chain may have none."""

    nodes: list[int]
    more: tuple[bool, ...]
    """At each fork above, the root's first: whether further children follow below this line."""


@dataclass(frozen=True)
class _Drawing:
    """A tree in one of two layouts; both return the lines and the nodes that are drawn."""

    tree: TokenTree
    path: set[int]
    labels: list[Label]
    width: int
    rows: int
    glyphs: Glyphs

    def keep(self, nodes: Sequence[int], budget: int) -> set[int]:
        """``budget`` of the nodes with their ancestors: those of the accepted path first, then
        those with the most likely paths.
        """
        likely = sorted(nodes, key=lambda n: (n not in self.path, -self.tree.cumulative[n], n))
        return {above for node in likely[: max(0, budget)] for above in self.tree.path(node)}

    def children(self, kept: set[int], node: int) -> list[int]:
        """The kept children, most likely first."""
        children = (child for child in self.tree.children(node) if child in kept)
        return sorted(children, key=lambda child: self.tree.ranks[child])

    def ends(self) -> list[int]:
        """What takes a line: each leaf off the accepted path, and the end of that path."""
        ends = [node for node in self.tree.leaves() if node not in self.path]
        return ends + ([max(self.path)] if self.path else [])

    def style(self, node: int) -> str:
        return ACCEPTED if node in self.path else PENDING

    def sideways(self, root: str, columns: list[int]) -> tuple[list[Text], set[int]]:
        """One line per leaf; levels are columns."""
        glyphs, rows = self.glyphs, self.rows
        ends = self.ends()
        kept = self.keep(ends, rows - 1 if len(ends) > rows > 1 else rows) | self.path
        lines = [Text(no_wrap=True).append(_fit(root, columns[0], glyphs) + " ", "bold")]

        def place(node: int, line: Text, trunk: list[bool]) -> None:
            """Append the children of ``node``; ``trunk`` says which columns continue below."""
            below = self.children(kept, node)
            for i, child in enumerate(below):
                last = i == len(below) - 1
                if i == 0:
                    line.append((glyphs.flat if last else glyphs.fork) + glyphs.flat + " ", LINE)
                else:
                    line = Text(no_wrap=True)
                    for level, continues in enumerate(trunk):
                        pad = columns[level] + 1
                        line.append(" " * pad + (glyphs.down if continues else " ") + "  ", LINE)
                    here = columns[len(trunk)] + 1
                    line.append(" " * here + (glyphs.last if last else glyphs.tee), LINE)
                    line.append(glyphs.flat + " ", LINE)
                    lines.append(line)
                size = columns[self.tree.depths[child]]
                name = self.labels[child].fit(size, glyphs)
                line.append(name, self.style(child))
                if self.children(kept, child):
                    line.append(" " + glyphs.flat * (size - cell_len(name)), LINE)
                place(child, line, [*trunk, not last])

        place(ROOT, lines[0], [])
        return lines[:rows], kept

    def chains(self, root: str) -> tuple[list[Text], set[int]]:
        """One line per chain of single children; forks are indents."""
        glyphs = self.glyphs
        chains, kept = self.fitting()
        deepest = max(len(chain.more) for chain in chains)
        # In a narrow terminal a tree of many forks is indented less, so that words stay readable.
        step = max(1, min(_INDENT, (self.width - _LABEL) // max(1, deepest)))
        flat, blank = (glyphs.flat + " ")[: step - 1], " " * (step - 1)
        start = _fit(root, _ROOT if chains[0].nodes else self.width, glyphs)
        link = f" {glyphs.flat} "
        lines = [self.chain(Text().append(start, "bold"), chains[0].nodes, link)]
        for chain in chains[1:]:
            *above, more = chain.more
            indent = "".join((glyphs.down if down else " ") + blank for down in above)
            fork = glyphs.tee if more else glyphs.last
            line = Text().append(indent + fork + flat, LINE)
            lines.append(self.chain(line, chain.nodes))
        return lines[: self.rows], kept

    def fitting(self) -> tuple[list[_Chain], set[int]]:
        """As many chains as there are lines for, the root's first, and their nodes."""
        everything = set(range(len(self.tree)))
        if len(whole := self.split(everything)) <= self.rows:
            return whole, everything
        ends = self.ends()
        budgets = range(min(self.rows, len(ends)) + 1)
        room = max(1, self.rows - 1)
        fitting = bisect_right(budgets, room, key=lambda n: len(self.split(self.keep(ends, n))))
        kept = self.keep(ends, fitting - 1)
        return self.split(kept), kept

    def split(self, kept: set[int]) -> list[_Chain]:
        """The kept nodes as chains, top to bottom."""
        chains: list[_Chain] = []

        def follow(nodes: list[int], node: int, more: tuple[bool, ...]) -> None:
            while len(below := self.children(kept, node)) == 1:
                nodes.append(node := below[0])
            chains.append(_Chain(nodes, more))
            for child in below:
                follow([child], child, (*more, child != below[-1]))

        follow([], ROOT, ())
        return chains

    def chain(self, line: Text, nodes: Sequence[int], link: str = "") -> Text:
        """Append the words of a chain to ``line``, ``link`` before the first; count the hidden."""
        for i, node in enumerate(nodes):
            room = self.width - line.cell_len - len(link)
            later = 3 * (len(nodes) - i - 1) + sum(self.labels[n].width for n in nodes[i + 1 :])
            label = self.labels[node]
            tail = "" if label.width + later <= room else self.hidden(nodes[i + 1 :])
            if link and label.width + len(tail) > room:
                return line.append(self.hidden(nodes[i:]), LINE)
            line.append(link, LINE)
            line.append(label.fit(max(1, room - len(tail)), self.glyphs), self.style(node))
            link = f" {self.glyphs.flat} "
        return line

    def hidden(self, nodes: Sequence[int]) -> str:
        """How many nodes a line leaves out, and how many of them were accepted."""
        accepted = sum(node in self.path for node in nodes)
        marked = f" ({accepted}{self.glyphs.check})" if accepted else ""
        return f" {self.glyphs.more} +{len(nodes)}{marked}" if nodes else ""
