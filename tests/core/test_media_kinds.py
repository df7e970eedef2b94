"""Videos of every container and codec: the right frames at the right times, upright."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sage_core.errors import InputError
from sage_core.media import Clip, Sampling, open_media, video_decord, video_index, video_pyav
from sage_core.media.video_index import Orientation, read_index
from tests.core.media_files import decoded_by
from tests.core.video_files import (
    FRAMES,
    KINDS,
    RATE,
    SOUNDS,
    UNEVEN,
    Video,
    edited,
    faults,
    index_of,
    painted,
    with_edits,
    write_cover,
    write_sound_only,
    write_video,
)

LONG = 60
SAMPLINGS = ({}, {"frames": 3, "start": 0.4}, {"fps": 3.0}, {"frames": 99}, {"frames": 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


def written(video: Video, folder: Path) -> Path:
    """The file of ``video``, made once; skips where this build of PyAV has no such encoder."""
    path = folder / video.name
    if not path.exists():
        try:
            write_video(video, path)
        except ValueError as error:  # UnknownCodecError is one
            pytest.skip(str(error))
    return path


def opened(path: Path | bytes, **sampling: float) -> Clip:
    clip = open_media(path, Sampling(**sampling))  # type: ignore[arg-type]
    assert isinstance(clip, Clip)
    return clip


@pytest.mark.parametrize("video", KINDS, ids=lambda video: video.name)
def test_the_right_frames_upright(video: Video, folder: Path) -> None:
    path = written(video, folder)
    for sampling in SAMPLINGS:
        if sampling.get("start", 0) < video.frames / RATE:
            clip = opened(path, **sampling)
            assert faults(clip, video) == set()
    width, height = video.size
    assert opened(path).size == ((height, width) if video.turn in (90, 270) else (width, height))


@pytest.mark.parametrize("video", [v for v in KINDS if not v.by_pyav], ids=lambda video: video.name)
def test_both_decoders_give_the_same_frames(video: Video, folder: Path) -> None:
    """Bit for bit when frames are made smaller, as both then scale by the same rule.

    At full size older versions of FFmpeg, such as decord's, interpolate the chroma of 10 bits and
    of odd sizes differently, which shows at the borders of colours.
    """
    path = written(video, folder)
    small = video.size[0] * video.size[1] // 3
    for settings, tolerance in (({"frame_pixels": small}, 0.0), ({}, 2.0)):
        for sampling in SAMPLINGS:
            if sampling.get("start", 0) >= video.frames / RATE:
                continue
            chosen = Sampling(**sampling, **settings)  # type: ignore[arg-type]
            ours = decoded_by(video_decord, path, chosen)
            theirs = decoded_by(video_pyav, path, chosen)
            assert faults(ours, video) == set()
            assert ours.frames.shape == theirs.frames.shape
            apart = np.abs(ours.frames.astype(int) - theirs.frames)
            assert apart.mean() <= tolerance


@pytest.mark.parametrize("video", KINDS, ids=lambda video: video.name)
def test_decord_decodes_where_it_is_exact_and_pyav_the_rest(
    video: Video, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(video, folder)
    used = []

    def decode(*args: Any) -> np.ndarray:
        used.append("PyAV")
        return with_pyav(*args)

    with_pyav = video_pyav.decode
    monkeypatch.setattr(video_pyav, "decode", decode)
    open_media(path)
    assert used == (["PyAV"] if video.by_pyav else [])


LONG_KINDS = (
    Video("long.mp4", frames=LONG, options={"g": "12", "bf": "3"}),
    Video("long-open.mp4", frames=LONG, options={"x264-params": "open_gop=1:keyint=12:scenecut=0"}),
    Video("long-refresh.mp4", frames=LONG, options={"x264-params": "intra-refresh=1:keyint=12"}),
    Video(
        "long-hevc.mkv",
        "libx265",
        frames=LONG,
        options={"x265-params": "keyint=12:open-gop=1:log-level=none"},
    ),
    Video("long.webm", "libvpx-vp9", frames=LONG, options={"g": "12", "lag-in-frames": "16"}),
    Video("long.ts", container="mpegts", frames=LONG, options={"g": "12"}),
)


@pytest.mark.parametrize("video", LONG_KINDS, ids=lambda video: video.name)
def test_seeking_over_many_gops_finds_the_right_frames(video: Video, folder: Path) -> None:
    path = written(video, folder)
    for sampling in ({"frames": 7}, {"frames": 3, "start": 2.0}, {"fps": 0.7}, {"start": 7.0}):
        clip = opened(path, **sampling)
        expected = np.round(clip.timestamps * RATE)
        found = [index_of(frame, LONG) for frame in clip.frames]
        # Quantisation of a lossy codec moves a level by less than three frames' worth.
        assert found == pytest.approx(expected, abs=1.9)


def test_decord_seeks_in_closed_gops_only(folder: Path) -> None:
    index = {v.name: read_index(written(v, folder), "x") for v in LONG_KINDS}
    exact = {name: video_decord.is_exact(found) for name, found in index.items()}
    assert exact == {
        "long.mp4": True,
        "long-open.mp4": False,
        "long-refresh.mp4": False,
        "long-hevc.mkv": False,
        "long.webm": True,
        "long.ts": False,
    }


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv", "uneven.webm"])
def test_fps_samples_by_time(name: str, folder: Path) -> None:
    video = next(v for v in KINDS if v.name == name)
    clip = opened(written(video, folder), fps=2.0, end=3.2)
    # On screen at 0, 0.5, 1, 1.5, 2, 2.5 and 3 seconds; one that stays on is taken once.
    assert clip.timestamps == pytest.approx([0.0, 0.2, 1.0, 1.1, 2.0, 2.5, 2.7], abs=2e-3)


ORIENTATIONS = [
    ((1, 0, 0, 1), Orientation()),
    ((0, 1, -1, 0), Orientation(1)),
    ((-1, 0, 0, -1), Orientation(2)),
    ((0, -1, 1, 0), Orientation(3)),
    ((-1, 0, 0, 1), Orientation(0, flipped=True)),
    ((1, 0, 0, -1), Orientation(2, flipped=True)),
    ((0, 1, 1, 0), Orientation(3, flipped=True)),
    ((0, -1, -1, 0), Orientation(1, flipped=True)),
]


@pytest.mark.parametrize(("matrix", "orientation"), ORIENTATIONS, ids=str)
def test_every_display_matrix_is_applied(
    matrix: tuple[int, int, int, int], orientation: Orientation, folder: Path
) -> None:
    data = bytearray(written(Video("h264.mp4"), folder).read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (n << 16 for n in matrix)
    data[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    index = read_index(bytes(data), "x")
    assert index.orientation == orientation
    assert index.size == ((48, 64) if orientation.quarter_turns % 2 else (64, 48))
    assert video_decord.is_exact(index) is not orientation.flipped
    # The matrix maps (x, y) to (a x + c y, b x + d y), so each quarter's centre to a known place.
    a, b, c, d = matrix
    frame = opened(bytes(data), frames=1).frames[0]
    height, width = frame.shape[:2]
    for colour, (x, y) in enumerate([(-1, -1), (1, -1), (-1, 1)]):
        to_x, to_y = a * x + c * y, b * x + d * y
        pixel = frame[height * (2 + to_y) // 4, width * (2 + to_x) // 4]
        assert int(np.argmax(pixel)) == colour


@pytest.mark.parametrize("name", SOUNDS)
def test_a_container_without_video_is_refused(name: str, tmp_path: Path) -> None:
    path = write_sound_only(tmp_path / name)
    with pytest.raises(InputError, match="no video stream, only audio"):
        open_media(path)


def test_a_cover_is_not_a_video_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_cover(tmp_path / "cover.mp4", with_video=False)
    with pytest.raises(InputError, match="no video stream, only audio"):
        open_media(path)
    both = write_cover(tmp_path / "both.mp4", with_video=True)
    assert video_decord.is_exact(read_index(both, "x"))
    with_decord = opened(both, frames=2)
    monkeypatch.setitem(sys.modules, "decord", None)
    for clip in (with_decord, opened(both, frames=2)):
        assert clip.size == (64, 48)
        assert [round(index_of(f, FRAMES)) for f in clip.frames] == [0, FRAMES - 1]


def test_frames_that_an_edit_list_leaves_out_are_not_sampled(folder: Path) -> None:
    video = Video("edited.mp4", frames=LONG, options={"g": "12", "bf": "2"})
    data = written(video, folder).read_bytes()
    late = opened(edited(data, start=16 * 2048), frames=2)  # two of its seconds
    assert [index_of(f, LONG) for f in late.frames] == pytest.approx([16, LONG - 1], abs=1.9)
    assert late.duration == pytest.approx((LONG - 16) / RATE, abs=0.01)
    short = opened(edited(data, seconds=5.0), frames=2)
    assert [index_of(f, LONG) for f in short.frames] == pytest.approx([0, 39], abs=1.9)


EDITS = {
    "empty edit first": ([(1000, -1), (7500, 0)], list(range(LONG)), True),
    "split in two": ([(3000, 0), (4500, 24)], list(range(LONG)), False),
    "two parts exchanged": ([(4500, 24), (3000, 0)], [*range(24, LONG), *range(24)], False),
    "a part repeated": (
        [(1500, 0), (1500, 0), (4500, 24)],
        [*range(12), *range(12), *range(24, LONG)],
        False,
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edit_lists_of_several_entries(name: str, folder: Path) -> None:
    edits, expected, exact = EDITS[name]
    video = Video("edited.mp4", frames=LONG, options={"g": "12", "bf": "2"})
    data = with_edits(written(video, folder).read_bytes(), edits)
    assert video_decord.is_exact(read_index(data, "x")) is exact
    for sampling in ({"frames": 99}, {"frames": 5}):
        clip = opened(data, **sampling)
        at = np.round(clip.timestamps * RATE).astype(int)
        found = [index_of(frame, LONG) for frame in clip.frames]
        assert found == pytest.approx(np.array(expected)[at], abs=1.9)
    assert clip.duration == pytest.approx(LONG / RATE, abs=0.01)


def test_a_recording_that_begins_between_keyframes(folder: Path) -> None:
    """Frames before the first keyframe cannot be decoded and are not in the index."""
    video = Video("cut-in.ts", container="mpegts", frames=LONG, options={"g": "12", "bf": "0"})
    data = written(video, folder).read_bytes()
    packets = len(data) // 188
    clip = opened(data[packets // 4 * 188 :], frames=3)
    found = [index_of(frame, LONG) for frame in clip.frames]
    assert found[0] >= 12
    assert found[-1] == pytest.approx(LONG - 1, abs=1.9)


def test_an_m2ts_stream(folder: Path) -> None:
    """Packets of 188 bytes, each after a timestamp of four bytes, as camcorders write them."""
    video = next(v for v in KINDS if v.name == "h264.ts")
    data = written(video, folder).read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    clip = opened(b"".join(bytes(4) + packet for packet in packets))
    assert faults(clip, video) == set()


def test_the_published_results_have_a_row_for_every_kind() -> None:
    results = Path("benchmarks/results/media.md").read_text(encoding="utf-8")
    for video in KINDS:
        decoder = "PyAV" if video.by_pyav else "decord"
        row = (
            f"| {video.name} | {video.codec} | {video.pixels} | {video.note} | {decoder} | right |"
        )
        assert row in results


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    """Of a large MP4 only the sample table and the packets around the sampled frames are read."""
    video = Video("large.mp4", frames=24, options={"g": "4", "bf": "2"})
    path = write_video(video, tmp_path / "large.mp4")
    with path.open("r+b") as file:  # a sparse file with an empty box after the frames
        file.seek(0, os.SEEK_END)
        hole = video_index.LARGE_FILE + 2**20
        file.write(hole.to_bytes(4, "big") + b"free")
        file.truncate(path.stat().st_size + hole - 8)
    before = _bytes_read()
    clip = opened(path, frames=4)
    assert [round(index_of(f, 24)) for f in clip.frames] == [0, 7, 15, 23]
    assert _bytes_read() - before < 16 * 2**20


NEED_PACKETS = ("uneven.mp4", "uneven-hevc.mp4", "h264-pieces.mp4")


@pytest.mark.parametrize(
    "video", [v for v in (*KINDS, *LONG_KINDS) if "mp4" in v.name], ids=lambda video: video.name
)
def test_the_sample_table_gives_the_same_frames(
    video: Video, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large file; variable frame rates with B-frames and fragments need all packets."""
    path = written(video, folder)
    packets = read_index(path, "x")
    for module in (video_index, video_decord):
        monkeypatch.setattr(module, "LARGE_FILE", 0)
    table = read_index(path, "x")
    assert table.estimated is (video.name not in NEED_PACKETS)
    assert not video_decord.is_exact(table)
    assert np.array_equal(table.pts, packets.pts)
    assert table.duration == pytest.approx(packets.duration)
    clip = opened(path, frames=99)
    found = [index_of(frame, video.frames) for frame in clip.frames]
    assert found == pytest.approx(range(video.frames), abs=0.6 if video.frames < LONG else 1.9)


def test_wrong_times_in_the_sample_table_are_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(*args: Any) -> Any:
        times = from_sample_table(*args)
        assert times is not None
        return times._replace(pts=times.pts + 1)

    from_sample_table = video_index._from_sample_table
    for module in (video_index, video_decord):
        monkeypatch.setattr(module, "LARGE_FILE", 0)
    monkeypatch.setattr(video_index, "_from_sample_table", shifted)
    clip = opened(written(LONG_KINDS[0], folder), frames=3)
    found = [index_of(frame, LONG) for frame in clip.frames]
    assert found == pytest.approx([0, 29, LONG - 1], abs=1.9)


def test_a_truncated_mp4_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    """Also between two packets, where demuxing ends without an error."""
    video = Video("front.mp4", frames=4, mux={"movflags": "faststart"})
    data = write_video(video, tmp_path / "front.mp4").read_bytes()
    opened(data)
    for end in range(data.index(b"mdat") + 4, len(data)):
        with pytest.raises(InputError, match=f" {len(data) - end:,} bytes are missing"):
            open_media(data[:end])


def test_of_two_video_streams_the_first_is_decoded_by_pyav(tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as out:
        for size in ((128, 96), (64, 48)):
            stream = out.add_stream("libx264", rate=RATE)
            stream.width, stream.height = size
        for index in range(FRAMES):
            for stream in out.streams.video:
                pixels = painted(index, FRAMES, (stream.width, stream.height))
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        for stream in out.streams.video:
            out.mux(stream.encode(None))
    assert not video_decord.is_exact(read_index(path, "x"))
    clip = opened(path, frames=2)
    assert clip.size == (128, 96)
    assert [round(index_of(f, FRAMES)) for f in clip.frames] == [0, FRAMES - 1]


def _bytes_read() -> int:
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        pytest.skip("this system does not count the bytes read")
    return int(lines[0].removeprefix("rchar: "))


def test_the_times_of_a_variable_frame_rate_are_those_written(folder: Path) -> None:
    video = next(v for v in KINDS if v.name == "uneven.mp4")
    clip = opened(written(video, folder), frames=99)
    assert clip.timestamps == pytest.approx(UNEVEN, abs=2e-3)
