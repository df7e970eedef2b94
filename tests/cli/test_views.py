"""Frames of every size, the time budget of the live view, and saved views."""

from __future__ import annotations

import io
import re
from pathlib import Path
from time import perf_counter
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_cli.render.frame import History, frame_lines
from sage_cli.render.glyphs import ASCII, UNICODE, glyphs_for, sparkline
from sage_cli.render.live import LiveView, Throttle
from sage_cli.render.tree import draw_tree, shown_token
from sage_core.trees.steps import PhaseSeconds, Shape, Step
from sage_core.trees.tree import ROOT, TokenTree
from tests.cli.fake import FakePipeline, Script, bushy, scripted, word


@st.composite
def trees(draw, most: int = 40) -> tuple[TokenTree, tuple[int, ...]]:
    """A tree of any shape, and a path in it (maybe none)."""
    parents: list[int] = []
    tokens: list[int] = []
    ranks: list[int] = []
    for node in range(draw(st.integers(0, most))):
        parent = draw(st.integers(ROOT, node - 1))
        rank = parents.count(parent)
        parents.append(parent)
        ranks.append(rank)
        tokens.append((parent + 2) * 3 + rank)
    probs = tuple(draw(st.floats(0.001, 1.0)) for _ in parents)
    tree = TokenTree(tuple(tokens), tuple(parents), probs, tuple(ranks))
    end = draw(st.integers(ROOT, len(tree) - 1))
    return tree, tree.path(end)


WIDE = ["", " ", "\n", "\t", " naïve", " 赤い円", " \x1b[2J", "🟥" * 20, " [bold]", "x" * 60]


def odd_word(token: int) -> str:
    return WIDE[token % len(WIDE)]


def history_of(tree: TokenTree, path: tuple[int, ...]) -> History:
    history = History("clip.mp4", "sage", 256)
    tokens = (*(tree.tokens[node] for node in path), 3)
    shape = Shape(depth=max(1, tree.depth), width=3.5, alpha=0.4)
    history.add(Step(0, -1, TokenTree(), (), (1,)))
    history.add(Step(1, 1, tree, path, tokens, shape, 2, PhaseSeconds(draft=0.01)))
    return history


@given(trees(), st.integers(1, 220), st.integers(1, 60), st.sampled_from([UNICODE, ASCII]))
def test_a_frame_fits_every_terminal(case, width, height, glyphs):
    tree, path = case
    text = "A 赤い circle. " * 30 + "\n\nand \x1b[31m more"
    lines = frame_lines(history_of(tree, path), text, odd_word, width=width, height=height,
                        glyphs=glyphs)  # fmt: skip
    assert len(lines) <= height
    for line in lines:
        assert line.cell_len <= width
        assert "\n" not in line.plain
        assert "\x1b" not in line.plain


def counted(drawn: str) -> tuple[int, int]:
    """How many nodes a drawing shows or counts, and how many accepted ones."""
    nodes = len(re.findall(r"\d?\.\d\d", drawn))
    accepted = len(re.findall(r"\.\d\d✓", drawn))
    for cut, marked in re.findall(r"… \+(\d+)(?: \((\d+)✓\))?", drawn):
        nodes, accepted = nodes + int(cut), accepted + int(marked or 0)
    hidden = re.search(r"… (\d+) more", drawn)
    return nodes + (int(hidden[1]) if hidden else 0), accepted


@given(trees(), st.integers(60, 200))
def test_with_room_every_node_is_drawn_or_counted_once_and_marked_if_accepted(case, width):
    tree, path = case
    lines = draw_tree(tree, path, "root", lambda t: f"<{t}>", width=width, rows=2 * len(tree) + 2,
                      glyphs=UNICODE)  # fmt: skip
    drawn = "\n".join(line.plain for line in lines)
    assert counted(drawn) == (len(tree), len(path)), drawn
    assert "more" not in drawn


@given(trees(), st.integers(60, 200), st.integers(1, 12))
def test_without_room_the_accepted_path_stays(case, width, rows):
    tree, path = case
    lines = draw_tree(tree, path, "root", lambda t: "w", width=width, rows=rows, glyphs=UNICODE)
    drawn = "\n".join(line.plain for line in lines)
    assert len(lines) <= rows
    nodes, accepted = counted(drawn)
    if len(path) <= rows - 3:
        assert accepted == len(path)
    if rows > 1:
        assert nodes == len(tree), drawn


def chained(*chains: int) -> TokenTree:
    """Chains of these lengths, each on the first node of the one before it."""
    parents: list[int] = []
    start = ROOT
    for length in chains:
        first = len(parents)
        parents += [start, *range(first, first + length - 1)]
        start = first
    ranks = tuple(parents[:node].count(parent) for node, parent in enumerate(parents))
    return TokenTree(tuple(range(len(parents))), tuple(parents), (0.5,) * len(parents), ranks)


WORDS = ["two", "赤い円", "🟥", "blue", "small"]

CHAINS = {
    # A chain that fits; one that is cut within and behind the accepted path; forks as indents.
    (80, (4,), 2): ["root ── two .50✓ ── 赤い円 .50✓ ── 🟥 .50 ── blue .50"],
    (80, (12,), 2): [
        "root ─ two .50✓ ─ 赤い円 .50✓ ─ 🟥 .50 ─ blue .50 ─ small .50 ─ two .50 … +6"
    ],
    (80, (12,), 9): ["root ─ two .50✓ ─ 赤い円 .50✓ ─ 🟥 .50✓ ─ blue .50✓ ─ small .50✓ … +7 (4✓)"],
    (80, (9, 9, 2), 1): [
        "root ─ two .50✓",
        "├─ 赤い円 .50 ─ 🟥 .50 ─ blue .50 ─ small .50 ─ two .50 ─ 赤い円 .50 … +2",
        "└─ small .50",
        "   ├─ two .50 ─ 赤い円 .50 ─ 🟥 .50 ─ blue .50 ─ small .50 ─ two .50 … +2",
        "   └─ blue .50 ─ small .50",
    ],
    (200, (40,), 30): [
        "root ─ two .50✓ ─ 赤い円 .50✓ ─ 🟥 .50✓ ─ blue .50✓ ─ small .50✓ ─ "
        "two .50✓ ─ 赤い円 .50✓ ─ 🟥 .50✓ ─ blue .50✓ ─ small .50✓ ─ two .50✓ ─ 赤い円 .50✓ ─ "
        "🟥 .50✓ ─ blue .50✓ ─ small .50✓ … +25 (15✓)"
    ],
}  # fmt: skip


@pytest.mark.parametrize(("width", "chains", "accepted"), CHAINS)
def test_a_chain_of_single_children_takes_one_line(width, chains, accepted):
    tree = chained(*chains)
    lines = draw_tree(tree, tuple(range(accepted)), " root", lambda t: WORDS[t % 5], width=width,
                      rows=20, glyphs=UNICODE)  # fmt: skip
    assert [line.plain for line in lines] == CHAINS[width, chains, accepted]
    assert max(line.cell_len for line in lines) <= width


def test_a_tree_with_a_fork_at_each_level_fits_the_width():
    tree = bushy(3, 30)
    lines = draw_tree(tree, (), "root", lambda t: "gorgeous", width=80, rows=70, glyphs=UNICODE)
    assert len(lines) == len(tree) + 1
    assert all(re.search(r"gorgeous \.\d\d$", line.plain) for line in lines[1:])


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" red", "red"),
        ("  ", "__"),
        ("\n\n", "⏎⏎"),
        ("👨‍👩‍👧", "👨👩👧"),
        ("\u200d", "''"),
        ("\t", "?"),
    ],
)
def test_tokens_are_shown_in_characters_of_a_known_width(token, shown):
    assert shown_token(token, UNICODE) == shown


def test_a_frame_of_eighty_columns_as_it_should_look():
    history = History("clip.mp4", "sage", 256)
    for step in scripted((2, 0, 3)):
        history.add(step)
    lines = frame_lines(history, "A large red circle stands beside two", word, width=80, height=24,
                        glyphs=UNICODE)  # fmt: skip
    expected = Path(__file__).with_name("frame80.txt").read_text(encoding="utf-8")
    assert "\n".join(line.plain.rstrip() for line in lines) + "\n" == expected


def test_thirty_columns_show_figures_tree_and_text():
    history = history_of(bushy(3, 5), (0, 2, 4))
    lines = frame_lines(history, "A large red circle", word, width=30, height=20, glyphs=UNICODE)
    drawn = "\n".join(line.plain for line in lines)
    for part in ("tokens/s", "τ 3.00", "α 0.40", "draft passes", "✓", "A large red circle"):
        assert part in drawn


def test_sparkline():
    assert sparkline([0, 0.5, 1, 2, -1], 0, 1, UNICODE) == "▁▅██▁"
    assert len(sparkline([3, 3], 3, 3, ASCII)) == 2


def test_glyphs_follow_the_encoding():
    assert glyphs_for("UTF-8") is UNICODE
    assert glyphs_for("utf8") is UNICODE
    assert glyphs_for("ANSI_X3.4-1968") is ASCII
    assert glyphs_for(None) is ASCII
    assert all(part.isascii() for part in vars(ASCII).values())


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    st.lists(st.tuples(st.floats(0.0005, 0.3), st.floats(0.0001, 0.08)), min_size=20, max_size=200)
)
def test_frames_stay_within_their_share(steps):
    """Steps of any length, frames of any cost: no frame begins that its past could not pay for."""
    clock = Clock()
    throttle = Throttle(share=0.02, clock=clock)
    throttle.expect(0.005)
    throttle.start()
    begun = clock.now
    last = None
    for seconds, cost in steps:
        clock.now += seconds
        if throttle.due():
            assert throttle.spent <= 0.02 * (clock.now - begun)
            assert last is None or clock.now - last >= 0.124
            at = clock.now
            clock.now += cost
            throttle.drew(at)
            last = clock.now


def test_steady_costs_never_exceed_the_share():
    clock = Clock()
    throttle = Throttle(share=0.02, clock=clock)
    throttle.expect(0.004)
    throttle.start()
    begun = clock.now
    for _ in range(2000):
        clock.now += 0.01
        if throttle.due():
            at = clock.now
            clock.now += 0.004
            throttle.drew(at)
            assert throttle.spent <= 0.02 * (clock.now - begun) + 1e-9
    assert throttle.frames == pytest.approx(0.02 * (clock.now - begun) / 0.004, rel=0.1)


def test_cheap_frames_are_limited_by_the_rate():
    clock = Clock()
    throttle = Throttle(clock=clock)
    throttle.start()
    for _ in range(1000):
        clock.now += 0.01
        if throttle.due():
            throttle.drew(clock.now)
    assert 70 <= throttle.frames <= 80


class Terminal(io.StringIO):
    """A terminal that keeps what was written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def play(file: Terminal, monkeypatch: pytest.MonkeyPatch, throttle: Throttle) -> LiveView:
    monkeypatch.setenv("TERM", "xterm-256color")
    history = History("a.png", "sage", 256)
    view = LiveView(history, file, throttle)
    stream = FakePipeline().stream(["a.png"])
    with view:
        for step in stream:
            history.add(step)
            view.step(step, stream)
    return view


def test_the_live_view_draws_the_tree_and_restores_the_screen(monkeypatch):
    file = Terminal()
    play(file, monkeypatch, Throttle(share=1e9, rate=1e9, clock=perf_counter))
    shown = file.getvalue()
    assert shown.startswith("\x1b[?1049h")
    assert shown.count("\x1b[?1049h") == shown.count("\x1b[?1049l") == 1
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    assert "stands" in shown
    assert "✓" in shown


def test_the_screen_is_restored_after_an_error(monkeypatch):
    file = Terminal()
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.raises(KeyboardInterrupt), LiveView(History("a", "sage", 1), file):
        raise KeyboardInterrupt
    assert "\x1b[?1049l" in file.getvalue()
    assert "\x1b[?25h" in file.getvalue()


def test_no_color_leaves_the_mark(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    file = Terminal()
    play(file, monkeypatch, Throttle(share=1e9, rate=1e9, clock=perf_counter))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", file.getvalue())
    assert "✓" in file.getvalue()


def test_svg_of_the_last_frame(sage):
    result = sage("caption", "a.png", "--save-view", "view.svg")
    assert result.exit_code == 0
    assert "view saved in view.svg" in result.stderr
    picture = Path("view.svg").read_text(encoding="utf-8")
    assert 'xml:space="preserve"' in picture
    words = "".join(ElementTree.fromstring(picture).itertext())
    assert "step\xa03" in words.replace(" ", "\xa0")
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", picture.split("-->")[-1])


def test_a_run_without_steps_leaves_no_view(sage, pipeline):
    pipeline.enqueue(Script(steps=[], error=ZeroDivisionError()))
    sage("caption", "a.png", "--save-view", "view.svg")
    assert not Path("view.svg").exists()
