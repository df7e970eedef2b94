"""A clip in parts: windows and scenes, their frames, and what is read once for all of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sage_core.errors import InputError, OptionError
from sage_core.media import Clip, MediaWorker, Sampling, open_media, scenes, video, video_pyav
from sage_core.media import segments as segments_module
from sage_core.media.scenes import cuts
from sage_core.media.segments import InProcess, Split, segments, windows
from sage_core.media.segments import scenes as scenes_between
from tests.core.media_files import card, encoded

RATE = 10
SCENES = (0, 12, 20, 47, 60)
"""Frames at which the colours of `film` change, and its length."""


def write_film(path: Path, **mux: Any) -> Path:
    """Scenes of one colour each, in which a square moves; keyframes every 15 frames."""
    colours = [(200, 30, 30), (30, 200, 250), (120, 40, 20), (230, 230, 40)]
    with av.open(str(path), "w", **mux) as out:
        stream = out.add_stream("libx264", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.options = {"g": "15", "bf": "2", "sc_threshold": "0", "crf": "10"}
        for number in range(SCENES[-1]):
            scene = sum(number >= at for at in SCENES) - 1
            pixels = np.full((48, 64, 3), colours[scene], np.uint8)
            pixels[20:28, number : number + 4] = 0
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "avi", "h264"])
def film(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / f"film.{request.param}")


@pytest.fixture(scope="module")
def worker() -> Iterator[MediaWorker]:
    with MediaWorker() as worker:
        yield worker


SPLITS = {
    "10": Split(10.0),
    "2.5:1": Split(2.5, 1.0),
    "scenes": Split(),
    "scenes:3": Split(shortest=3.0),
}


@pytest.mark.parametrize("text", SPLITS)
def test_a_split_as_text(text: str) -> None:
    assert Split.parse(text) == SPLITS[text]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("scene", "unknown segments 'scene': choose scenes, scenes:SHORTEST, SECONDS or"),
        ("", "unknown segments ''"),
        ("10:", "unknown segments '10:'"),
        ("1:2:3", "unknown segments"),
        ("0", "must have 0.1 s or more, not 0.0"),
        ("-5", "must have 0.1 s or more"),
        ("nan", "must have 0.1 s or more"),
        ("inf", "must have 0.1 s or more"),
        ("10:6", "overlap by half of their length at most, 5 s, not by 6 s"),
        ("10:-1", "overlap by half"),
        ("10:nan", "overlap by half"),
        ("scenes:-1", "cannot be of at least -1.0 s"),
        ("scenes:nan", "cannot be of at least nan s"),
    ],
)
def test_a_split_that_is_none(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Split.parse(text)


@pytest.mark.parametrize(
    ("part", "split", "found"),
    [
        ((0, 6), "2", [(0, 2), (2, 4), (4, 6)]),
        ((0, 7), "3", [(0, 3), (3, 6), (6, 7)]),
        ((0, 6.1), "2", [(0, 2), (2, 4), (4, 6.1)]),
        ((0, 5), "10", [(0, 5)]),
        ((1, 5), "2:1", [(1, 3), (2, 4), (3, 5)]),
        ((0, 6), "3:1", [(0, 3), (2, 5), (4, 6)]),
        ((0, 3.05), "3:1", [(0, 3.05)]),
    ],
)
def test_windows(part: tuple[float, float], split: str, found: list[Any]) -> None:
    assert list(windows(*part, Split.parse(split))) == found


@pytest.mark.parametrize(
    ("at", "shortest", "found"),
    [
        ([], 1, [(0, 10)]),
        ([3, 7], 1, [(0, 3), (3, 7), (7, 10)]),
        ([0.5, 3, 3.5, 9.5], 1, [(0, 3), (3, 10)]),
        ([0.5, 9.5], 0, [(0, 0.5), (0.5, 9.5), (9.5, 10)]),
        ([2, 4, 6], 5, [(0, 10)]),
    ],
)
def test_short_scenes_are_joined(at: list[float], shortest: float, found: list[Any]) -> None:
    assert list(scenes_between(at, 0, 10, shortest)) == found


def test_a_scene_is_known_before_the_next_is_sought() -> None:
    def found() -> Iterator[float]:
        yield 3
        raise AssertionError("too early")

    assert next(scenes_between(found(), 0, 10, 1)) == (0, 3)


@pytest.mark.parametrize("scanned", [60.0, 1.2, 0.5])
def test_scenes_of_a_clip(
    film: Path, worker: MediaWorker, scanned: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scenedetect")
    monkeypatch.setattr(segments_module, "SCANNED", scanned)
    length = worker.length(str(film), "x")
    assert length is not None
    at = [length * frame / SCENES[-1] for frame in SCENES]
    found = list(segments(str(film), Split(shortest=0.1), "x", worker))
    assert [start for start, _ in found] == pytest.approx(at[:-1])
    assert [end for _, end in found] == pytest.approx(at[1:])
    start, end = length / 4, length / 2
    with film.open("rb") as file:
        part = list(segments(file, Split(shortest=0.1), "x", worker, start=start, end=end))
    assert np.array(part) == pytest.approx(np.array([(start, at[2]), (at[2], end)]))


@pytest.mark.parametrize("split", ["1", "1.5:0.7"])
@pytest.mark.parametrize("reader", ["process", "here"])
def test_frames_of_parts_are_those_of_the_clip(
    film: Path, split: str, reader: str, worker: MediaWorker
) -> None:
    one = worker if reader == "process" else InProcess()
    whole = open_media(film, Sampling(frames=1000))
    assert isinstance(whole, Clip)
    parts = list(segments(str(film), Split.parse(split), "x", one))
    for start, end in parts:
        clip = one.open(str(film), Sampling(frames=1000, start=start, end=end), "x")
        assert isinstance(clip, Clip)
        places = np.searchsorted(whole.timestamps, clip.timestamps - 1e-6)
        inside = (whole.timestamps >= start - 1e-6) & (whole.timestamps < end - 1e-6)
        assert len(clip.frames) == inside.sum()
        assert np.abs(clip.frames.astype(int) - whole.frames[places]).max() <= 2


def test_an_index_is_read_once_and_no_frame_is_passed_over_thrice(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexes, decoders = [], []
    read, begin = video.read_index, video_pyav.PassedOver.__init__

    def counted(*args: Any) -> Any:
        indexes.append(args)
        return read(*args)

    def begun(self: Any, *args: Any) -> None:
        decoders.append(args)
        begin(self, *args)

    monkeypatch.setattr(video, "read_index", counted)
    monkeypatch.setattr(video_pyav.PassedOver, "__init__", begun)
    reader = InProcess()
    for start, end in segments(str(film), Split(0.6, 0.3), "x", reader):
        reader.open(str(film), Sampling(frames=3, start=start, end=end), "x")
    assert len(indexes) == 1
    assert len(decoders) == (0 if film.suffix in (".mp4", ".mkv") else 2)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path, worker: MediaWorker) -> None:
    path = write_film(tmp_path / "a.mp4")
    assert worker.length(str(path), "x") == pytest.approx(6.0)
    with av.open(str(path)) as film:
        rest = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)][:20]
    with av.open(str(tmp_path / "b.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height = 64, 48
        for pixels in rest:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        out.mux(stream.encode(None))
    (tmp_path / "b.mp4").replace(path)
    assert worker.length(str(path), "x") == pytest.approx(2.0)


@pytest.mark.parametrize("reader", ["process", "here"])
def test_what_is_no_clip_has_no_segments(tmp_path: Path, reader: str, worker: MediaWorker) -> None:
    one = worker if reader == "process" else InProcess()
    (tmp_path / "a.png").write_bytes(encoded(card(), "PNG"))
    card().save(tmp_path / "b.gif", save_all=True, append_images=[card().rotate(90)])
    for name in ("a.png", "b.gif"):
        assert list(segments(str(tmp_path / name), Split(1.0), "x", one)) == []
    (tmp_path / "c.mp4").write_bytes(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2")
    with pytest.raises(InputError, match=r"^x: the video is corrupt"):
        list(segments(str(tmp_path / "c.mp4"), Split(1.0), "x", one))


def test_a_start_beyond_the_end(film: Path, worker: MediaWorker) -> None:
    with pytest.raises(InputError, match=r"x: start \(9 s\) is beyond the end of the video"):
        list(segments(str(film), Split(1.0), "x", worker, start=9.0))
    found = list(segments(str(film), Split(2.0), "x", worker, start=2, end=100))
    assert found[-1][1] == worker.length(str(film), "x")


def test_from_a_stream_without_a_name(tmp_path: Path, worker: MediaWorker) -> None:
    data = io.BytesIO(write_film(tmp_path / "a.mkv").read_bytes())
    assert len(list(segments(data, Split(2.0), "x", worker))) == 3


def test_the_next_part_is_searched_while_the_last_one_is_used(
    film: Path, worker: MediaWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scenedetect")
    monkeypatch.setattr(segments_module, "SCANNED", 1.0)
    begun: list[Any] = []
    begin = worker.begin_cuts
    monkeypatch.setattr(worker, "begin_cuts", lambda *args: (begun.append(args[1]), begin(*args)))
    next(segments(str(film), Split(shortest=0.1), "x", worker))
    assert begun[0] == (1.0, 2.0)
    with pytest.raises(InputError):  # another request ends what was begun
        worker.open("nothing.mp4", Sampling(), "x")
    assert worker.length(str(film), "x")


def test_without_the_package_scenes_name_the_extra(
    film: Path, worker: MediaWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenes, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'sage-vlm\[scenes\]'"):
        Split().check()
    with pytest.raises(OptionError, match="extra 'scenes'"):
        list(cuts([], 25.0))
    Split(1.0).check()


def test_another_file_frees_what_was_kept(tmp_path: Path) -> None:
    path, picture = write_film(tmp_path / "a.ts"), tmp_path / "a.png"
    picture.write_bytes(encoded(card(), "PNG"))
    kept = video_pyav.KeptVideo()
    clip = video.read_clip(path, Sampling(frames=2, start=1.0, end=2.0), "x", kept)
    assert len(clip.frames) == 2
    kept.keep_only(path)
    assert kept._decoders and kept._index is not None
    kept.keep_only(picture)
    assert not kept._decoders and kept._index is None
    kept.keep_only(tmp_path / "nothing")
