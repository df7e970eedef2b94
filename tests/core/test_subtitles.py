"""Subtitles are read back as written, by FFmpeg's own readers."""

from __future__ import annotations

import io
import re
from functools import partial
from itertools import pairwise
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_core.captioning.subtitles import Cue, subtitles, timed_lines, timestamp

WRITERS: dict[str, Any] = {
    "srt": partial(subtitles, "srt"),
    "webvtt": partial(subtitles, "vtt"),
}
CASES = {
    "plain": [Cue(0, 2.5, "A cat."), Cue(2.5, 4, "It leaves.")],
    "an arrow": [Cue(0, 1, "from a --> b"), Cue(1, 2, "--> --->")],
    "markup": [Cue(0, 1, "a < b && c > d, <b>bold</b>"), Cue(1, 2, "&amp;")],
    "empty lines": [Cue(0, 1, "one\n\n\n2\n00:00:05,000\n\ntwo\r\n\r\nthree"), Cue(1, 2, "x")],
    "over a hundred hours": [Cue(359_999.5, 360_000.25, "late"), Cue(400_000, 400_001, "later")],
    "a number alone": [Cue(0, 1, "42"), Cue(1, 2, "7")],
    "other scripts": [Cue(0, 1, "Ein Bär 🐻 und 猫"), Cue(1, 2, "שלום\u2028x")],
    "control characters": [Cue(0, 1, "a\x00b\x1b[2Jc"), Cue(1, 2, "x")],
    "overlapping": [Cue(0, 10, "a"), Cue(8, 18, "b"), Cue(16, 20.0004, "c")],
    "no time between": [Cue(1, 1, "a"), Cue(1, 1.0001, "b"), Cue(1.0002, 1.0003, "c")],
    "out of order": [Cue(5, 6, "second"), Cue(0, 5, "first")],
}


def read_back(text: str, kind: str) -> list[Cue]:
    with av.open(io.BytesIO(text.encode()), format=kind) as container:
        stream = container.streams.subtitles[0]
        return [
            Cue(
                float(packet.pts * stream.time_base),
                float((packet.pts + packet.duration) * stream.time_base),
                bytes(packet).decode(),
            )
            for packet in container.demux(stream)
            if packet.size
        ]


def plain(text: str, kind: str) -> str:
    """The text that a player shows."""
    if kind == "webvtt":
        assert not re.search(r"[<>]", text)
        text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return " ".join(text.split())


def shown(text: str, kind: str) -> str:
    kept = "".join(c for c in text if c.isprintable() or c.isspace())
    return " ".join((kept.replace("-->", "->") if kind == "srt" else kept).split())


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("name", CASES)
def test_a_reader_finds_each_text_at_its_time(name: str, kind: str) -> None:
    cues = sorted(CASES[name])
    found = read_back(WRITERS[kind](CASES[name]), kind)
    assert [plain(cue.text, kind) for cue in found] == [shown(cue.text, kind) for cue in cues]
    before = 0.0
    for at, (cue, expected) in enumerate(zip(found, cues, strict=True)):
        assert cue.start == pytest.approx(expected.start, abs=0.0031)
        assert before <= cue.start < cue.end
        if at + 1 < len(found):
            assert cue.end <= found[at + 1].start
        before = cue.end


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e6), st.floats(0, 1e4), st.text(st.characters(codec="utf-8"), max_size=30)
        ),
        max_size=6,
    )
)
def test_any_text_leaves_the_files_valid(drawn: list[tuple[float, float, str]]) -> None:
    cues = [Cue(start, start + length, f"a{text}") for start, length, text in drawn]
    for kind, write in WRITERS.items():
        if cues:
            found = read_back(write(cues), kind)
            assert len(found) == len(cues)
            assert all(one.end <= other.start for one, other in pairwise(found))


def test_texts_that_are_empty_are_left_out() -> None:
    assert subtitles("srt", [Cue(0, 1, " \n")]) == ""
    assert subtitles("vtt", [Cue(0, 1, "")]) == "WEBVTT\n\n"


def test_a_note_is_no_cue() -> None:
    text = subtitles("vtt", [Cue(0, 1, "x")], "All of it: a --> b\n\nEnd.")
    assert "NOTE\nAll of it: a -> b\nEnd.\n\n" in text
    assert [cue.text for cue in read_back(text, "webvtt")] == ["x"]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0, "00:00:00,000"),
        (59.9996, "00:01:00,000"),
        (3599.9994, "00:59:59,999"),
        (360_000.001, "100:00:00,001"),
    ],
)
def test_timestamps(seconds: float, says: str) -> None:
    assert timestamp(seconds, ",") == says


def test_lines_with_their_times() -> None:
    assert timed_lines([Cue(0, 59.97, "a\n b"), Cue(59.97, 3725.5, "c")]) == (
        "[00:00:00.0 - 00:01:00.0] a b\n[00:01:00.0 - 01:02:05.5] c"
    )
