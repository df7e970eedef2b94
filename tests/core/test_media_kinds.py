"""Clips of every kind: the right frames at the right times, upright, whoever decodes them."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from sage_core.errors import InputError
from sage_core.media import Clip, Sampling, open_media
from sage_core.media import video_decord as with_decord
from sage_core.media import video_pyav as with_pyav
from sage_core.media.containers.probe import inspect
from sage_core.media.containers.tracks import Turn
from tests.core.video_files import (
    FRAMES,
    KINDS,
    RATE,
    SOUNDS,
    UNEVEN,
    Video,
    edited,
    index_of,
    is_upright,
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


def assert_right(clip: Clip, video: Video) -> None:
    """The frames are those of their times, and stand upright."""
    times = np.array(video.times or [i / RATE for i in range(video.frames)])
    for frame, seconds in zip(clip.frames, clip.timestamps, strict=True):
        index = int(np.argmin(np.abs(times - seconds)))
        assert times[index] == pytest.approx(seconds, abs=2e-3)
        assert index_of(frame, video.frames) == pytest.approx(index, abs=0.6)
        assert is_upright(frame)


@pytest.mark.parametrize("video", KINDS, ids=lambda video: video.name)
def test_the_right_frames_upright(video: Video, folder: Path) -> None:
    path = written(video, folder)
    for sampling in SAMPLINGS:
        if sampling.get("start", 0) < video.frames / RATE:
            clip = opened(path, **sampling)
            assert_right(clip, video)
    width, height = video.size
    assert opened(path).size == ((height, width) if video.turn in (90, 270) else (width, height))


@pytest.mark.parametrize(
    "video", [v for v in KINDS if not v.only_pyav], ids=lambda video: video.name
)
def test_both_decoders_give_the_same_frames(video: Video, folder: Path) -> None:
    """Bit for bit once frames are made smaller, as both then scale by the same rule.

    At their own size FFmpeg's older versions, such as decord's, spread the colours of 10 bits and
    of odd sizes to whole pixels in another way, which shows at the borders of colours.
    """
    path = written(video, folder)
    facts = inspect(path)
    small = video.size[0] * video.size[1] // 3
    for settings, tolerance in (({"frame_pixels": small}, 0.0), ({}, 2.0)):
        for sampling in SAMPLINGS:
            if sampling.get("start", 0) >= video.frames / RATE:
                continue
            chosen = Sampling(**sampling, **settings)  # type: ignore[arg-type]
            ours = with_decord.read(path, facts, chosen, "x")
            theirs = with_pyav.read(path, facts, chosen, "x")
            assert ours.timestamps == pytest.approx(theirs.timestamps, abs=1e-6)
            assert (ours.duration, ours.fps) == pytest.approx((theirs.duration, theirs.fps))
            assert ours.frames.shape == theirs.frames.shape
            apart = np.abs(ours.frames.astype(int) - theirs.frames)
            assert apart.mean() <= tolerance


@pytest.mark.parametrize("video", [v for v in KINDS if v.only_pyav], ids=lambda video: video.name)
def test_without_pyav_one_line_says_what_to_install(
    video: Video, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(video, folder)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="pip install av"):
        open_media(path)


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
def test_jumps_over_many_groups_land_on_the_right_frames(video: Video, folder: Path) -> None:
    path = written(video, folder)
    for sampling in ({"frames": 7}, {"frames": 3, "start": 2.0}, {"fps": 0.7}, {"start": 7.0}):
        clip = opened(path, **sampling)
        expected = np.round(clip.timestamps * RATE)
        found = [index_of(frame, LONG) for frame in clip.frames]
        # Quantisation of a lossy codec moves a level by less than three frames' worth.
        assert found == pytest.approx(expected, abs=1.9)


def test_what_the_headers_say_decides_who_reads(folder: Path) -> None:
    exact = {v.name: with_decord.is_exact(inspect(written(v, folder))) for v in LONG_KINDS}
    assert exact == {
        "long.mp4": True,
        "long-open.mp4": False,
        "long-refresh.mp4": False,
        "long-hevc.mkv": False,
        "long.webm": True,
        "long.ts": False,
    }


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv", "uneven.webm"])
def test_frames_a_second_follow_the_clock(name: str, folder: Path) -> None:
    video = next(v for v in KINDS if v.name == name)
    clip = opened(written(video, folder), fps=2.0, end=3.2)
    # On screen at 0, 0.5, 1, 1.5, 2, 2.5 and 3 seconds; one that stays on is taken once.
    assert clip.timestamps == pytest.approx([0.0, 0.2, 1.0, 1.1, 2.0, 2.5, 2.7], abs=2e-3)


TURNED = [
    ((1, 0, 0, 1), Turn()),
    ((0, 1, -1, 0), Turn(1)),
    ((-1, 0, 0, -1), Turn(2)),
    ((0, -1, 1, 0), Turn(3)),
    ((-1, 0, 0, 1), Turn(0, mirrored=True)),
    ((1, 0, 0, -1), Turn(2, mirrored=True)),
]


@pytest.mark.parametrize(("matrix", "turn"), TURNED, ids=str)
def test_every_matrix_is_followed(
    matrix: tuple[int, int, int, int], turn: Turn, folder: Path
) -> None:
    data = bytearray(written(Video("h264.mp4"), folder).read_bytes())
    at = data.index(b"tkhd") + 4 + 4 + 20 + 16
    a, b, c, d = (n << 16 for n in matrix)
    data[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    assert inspect(bytes(data)).tracks[0].turn == turn
    # The matrix takes (x, y) to (a x + c y, b x + d y): where it takes each quarter's centre.
    a, b, c, d = matrix
    frame = opened(bytes(data), frames=1).frames[0]
    height, width = frame.shape[:2]
    for colour, (x, y) in enumerate([(-1, -1), (1, -1), (-1, 1)]):
        to_x, to_y = a * x + c * y, b * x + d * y
        pixel = frame[height * (2 + to_y) // 4, width * (2 + to_x) // 4]
        assert int(np.argmax(pixel)) == colour


@pytest.mark.parametrize("name", SOUNDS)
def test_sound_in_a_container_of_video_is_refused(name: str, tmp_path: Path) -> None:
    path = write_sound_only(tmp_path / name)
    with pytest.raises(InputError, match="no pictures in it, only sound"):
        open_media(path)


def test_a_cover_is_no_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_cover(tmp_path / "cover.mp4", with_video=False)
    with pytest.raises(InputError, match="no pictures in it, only sound"):
        open_media(path)
    both = write_cover(tmp_path / "both.mp4", with_video=True)
    for module in ("decord", "av"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            clip = opened(both, frames=2)
            assert clip.size == (64, 48)
            assert [round(index_of(f, FRAMES)) for f in clip.frames] == [0, FRAMES - 1]


def test_frames_that_an_edit_list_leaves_out_are_not_seen(folder: Path) -> None:
    video = Video("edited.mp4", frames=LONG, options={"g": "12", "bf": "2"})
    data = written(video, folder).read_bytes()
    late = opened(edited(data, start=16 * 2048), frames=2)  # two of its seconds
    assert [index_of(f, LONG) for f in late.frames] == pytest.approx([16, LONG - 1], abs=1.9)
    assert late.duration == pytest.approx((LONG - 16) / RATE, abs=0.01)
    short = opened(edited(data, seconds=5.0), frames=2)
    assert [index_of(f, LONG) for f in short.frames] == pytest.approx([0, 39], abs=1.9)


def test_a_recording_that_cuts_in_between_keyframes(folder: Path) -> None:
    """A transport stream has no beginning: what cannot be decoded is not offered."""
    video = Video("cut-in.ts", container="mpegts", frames=LONG, options={"g": "12", "bf": "0"})
    data = written(video, folder).read_bytes()
    packets = len(data) // 188
    clip = opened(data[packets // 4 * 188 :], frames=3)
    found = [index_of(frame, LONG) for frame in clip.frames]
    assert found[0] >= 12
    assert found[-1] == pytest.approx(LONG - 1, abs=1.9)


def test_a_camcorder_s_stream(folder: Path) -> None:
    """Packets of 188 bytes, each behind four more that tell when it came."""
    video = next(v for v in KINDS if v.name == "h264.ts")
    data = written(video, folder).read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    assert_right(opened(b"".join(bytes(4) + packet for packet in packets)), video)


def test_the_manual_names_every_kind() -> None:
    manual = Path("docs/media.md").read_text(encoding="utf-8")
    assert [v.name for v in KINDS if f"| {v.name} |" not in manual] == []


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    """Beyond decord's limit an MP4's own tables lead to the frames: the rest is never touched."""
    video = Video("large.mp4", frames=24, options={"g": "4", "bf": "2"}, mux={})
    path = write_video(video, tmp_path / "large.mp4")
    with path.open("r+b") as file:  # a sparse file: a box of nothing behind the frames
        file.seek(0, os.SEEK_END)
        hole = with_decord.LARGEST_FILE + 2**20
        file.write(hole.to_bytes(4, "big") + b"free")
        file.truncate(path.stat().st_size + hole - 8)
    before = _bytes_read()
    clip = opened(path, frames=4)
    assert [round(index_of(f, 24)) for f in clip.frames] == [0, 7, 15, 23]
    assert _bytes_read() - before < 16 * 2**20


def _bytes_read() -> int:
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        pytest.skip("this system does not count what a process reads")
    return int(lines[0].removeprefix("rchar: "))


def test_uneven_times_are_those_written(folder: Path) -> None:
    video = next(v for v in KINDS if v.name == "uneven.mp4")
    clip = opened(written(video, folder), frames=99)
    assert clip.timestamps == pytest.approx(UNEVEN, abs=2e-3)
