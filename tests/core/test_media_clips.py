"""Videos: the right frames at the right times, and one clear line for every defect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.errors import InputError
from sage_core.media import Clip, Sampling, open_media, video_decord, video_pyav
from sage_core.media.frame_sampling import choose_frames
from sage_core.media.sniff import missing_bytes
from tests.core.media_files import decoded_by, level_of, write_clip, write_sound


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="module")
def clip_path(folder: Path) -> Path:
    """16 frames at 8 a second: two seconds."""
    return write_clip(folder / "plain.mp4")


def opened(source: Path | bytes, **sampling: object) -> Clip:
    clip = open_media(source, Sampling(**sampling))  # type: ignore[arg-type]
    assert isinstance(clip, Clip)
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape[0] == len(clip.timestamps)
    return clip


SAMPLED = [
    ({}, [0, 2, 4, 6, 8, 10, 12, 15]),
    ({"frames": 1}, [0]),
    ({"frames": 2}, [0, 15]),
    ({"frames": 4}, [0, 5, 10, 15]),
    ({"frames": 16}, list(range(16))),
    ({"frames": 99}, list(range(16))),
    ({"fps": 1.0}, [0, 8]),
    ({"fps": 2.0}, [0, 4, 8, 12]),
    ({"fps": 100.0}, list(range(16))),
    ({"fps": 0.1}, [0]),
    ({"start": 1.0, "frames": 2}, [8, 15]),
    ({"end": 1.0, "frames": 2}, [0, 7]),
    ({"start": 0.5, "end": 1.0, "frames": 9}, [4, 5, 6, 7]),
    ({"start": 0.55, "end": 0.6}, [4]),
    ({"start": 1.0, "fps": 4.0}, [8, 10, 12, 14]),
    ({"start": 1.99}, [15]),
    ({"end": 60.0, "frames": 2}, [0, 15]),
]


@pytest.mark.parametrize(("sampling", "frames"), SAMPLED, ids=str)
def test_sampled_frames(clip_path: Path, sampling: dict[str, float], frames: list[int]) -> None:
    clip = opened(clip_path, **sampling)
    assert [level_of(frame) for frame in clip.frames] == frames
    assert clip.timestamps == pytest.approx(np.array(frames) / 8, abs=1e-3)
    assert clip.duration == pytest.approx(2.0, abs=1e-3)
    assert clip.fps == pytest.approx(8.0)
    assert clip.name == str(clip_path)


def test_bytes_give_the_same_frames_as_a_path(clip_path: Path) -> None:
    from_path, from_bytes = opened(clip_path), opened(clip_path.read_bytes())
    assert np.array_equal(from_path.frames, from_bytes.frames)


FORMATS = [
    ("plain.mp4", "libx264", None),
    ("plain.mkv", "libx264", None),
    ("plain.mov", "libx264", None),
    ("plain.avi", "mpeg4", None),
    ("plain.ts", "libx264", "mpegts"),
    ("plain.webm", "libvpx-vp9", None),
    ("hevc.mp4", "libx265", None),
    ("av1.mp4", "libsvtav1", None),
]


@pytest.mark.parametrize(("name", "codec", "container"), FORMATS)
def test_common_containers_and_codecs(
    folder: Path, name: str, codec: str, container: str | None
) -> None:
    path = write_clip(folder / f"of-{codec}-{name}", codec=codec, container=container)
    disguised = path.rename(path.with_suffix(".dat"))
    clip = opened(disguised, frames=4)
    assert [level_of(frame) for frame in clip.frames] == [0, 5, 10, 15]


def test_both_decoders_give_the_same_frames(clip_path: Path) -> None:
    ours = decoded_by(video_decord, clip_path, Sampling(frames=5)).frames
    theirs = decoded_by(video_pyav, clip_path, Sampling(frames=5)).frames
    assert np.abs(ours.astype(int) - theirs).max() <= 3


@pytest.mark.parametrize("decoder", [video_decord, video_pyav])
def test_frames_are_decoded_no_larger_than_needed(folder: Path, decoder: Any) -> None:
    path = write_clip(folder / "large.mp4", frames=4, size=(320, 160))
    clip = decoded_by(decoder, path, Sampling(frames=2, frame_pixels=80 * 40))
    assert clip.frames.shape == (2, 40, 80, 3)
    assert [level_of(frame) for frame in clip.frames] == [0, 3]
    assert clip.size == (80, 40)


def test_a_clip_of_one_frame(folder: Path) -> None:
    clip = opened(write_clip(folder / "one.mp4", frames=1))
    assert clip.frames.shape == (1, 48, 64, 3)


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def holed(data: bytes) -> bytes:
    """A part in the middle zeroed."""
    middle = len(data) // 2
    return data[:middle] + bytes(len(data) // 4) + data[middle + len(data) // 4 :]


def broken_clips(folder: Path) -> dict[str, tuple[bytes, str]]:
    first = {"movflags": "faststart"}
    plain = write_clip(folder / "b.mp4", size=(160, 120)).read_bytes()
    indexed = write_clip(folder / "f.mp4", size=(160, 120), options=first).read_bytes()
    matroska = write_clip(folder / "b.mkv", size=(160, 120)).read_bytes()
    avi = write_clip(folder / "b.avi", size=(160, 120), codec="mpeg4").read_bytes()
    sound = write_sound(folder / "s.mp4").read_bytes()
    return {
        "cut, index lost": (cut(plain, 0.5), "corrupt, truncated"),
        "cut, index kept": (cut(indexed, 0.5), "bytes are missing"),
        "last tenth lost": (cut(indexed, 0.9), "bytes are missing"),
        "holed": (holed(indexed), "corrupt, truncated"),
        "cut matroska": (cut(matroska, 0.7), "bytes are missing"),
        "cut avi": (cut(avi, 0.7), "bytes are missing"),
        "header only": (plain[:40], "corrupt, truncated"),
        "sound only": (sound, "no video stream"),
        "sound named so": (b"\x00\x00\x00\x1cftypM4A " + sound[12:], "audio only"),
        "no frames": (
            b"\x00\x00\x00\x18ftypisom" + bytes(12) + b"\x00\x00\x00\x08moov",
            "no video stream",
        ),
    }


BROKEN = [
    "cut, index lost",
    "cut, index kept",
    "last tenth lost",
    "holed",
    "cut matroska",
    "cut avi",
    "header only",
    "sound only",
    "sound named so",
    "no frames",
]


@pytest.mark.parametrize("name", BROKEN)
def test_each_defect_is_one_clear_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, says = broken_clips(tmp_path)[name]
    capfd.readouterr()  # the encoders' messages
    path = tmp_path / "input.mp4"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(InputError) as caught:
            open_media(source, name="input.mp4")
        message = str(caught.value)
        assert message.startswith("input.mp4: ")
        assert says in message
        assert "\n" not in message
        assert len(message) < 200
    assert capfd.readouterr() == ("", "")  # nor from native code


def test_a_zero_length_video(tmp_path: Path) -> None:
    """A complete, valid container whose video stream has no frame."""
    path = write_clip(tmp_path / "none.avi", frames=1, codec="mpeg4")
    data = path.read_bytes()
    start = data.index(b"movi") + 4
    index = data.index(b"idx1")
    size = (len(data[:start]) - 8).to_bytes(4, "little")
    emptied = data[:4] + size + data[8 : start - 8] + (4).to_bytes(4, "little") + b"movi"
    assert index > start
    with pytest.raises(InputError, match="no frames"):
        open_media(emptied)


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        (Sampling(start=2.0), "beyond the end of the video"),
        (Sampling(start=99.0, end=100.0), "beyond the end of the video"),
        (Sampling(fps=1e6), "exceed the limit of 2048"),
    ],
    ids=str,
)
def test_a_sampling_outside_the_video_is_refused(
    clip_path: Path, sampling: Sampling, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        open_media(clip_path, sampling)


def test_an_extreme_aspect_ratio_is_refused(folder: Path) -> None:
    path = write_clip(folder / "sliver.mkv", frames=2, size=(1024, 4))
    with pytest.raises(InputError, match="aspect ratio exceeds 200:1"):
        open_media(path)


def test_decord_is_optional_and_pyav_is_required(
    clip_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    assert level_of(opened(clip_path, frames=2).frames[1]) == 15
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="requires PyAV: pip install av"):
        open_media(clip_path)


def test_file_names_that_ffmpeg_would_misinterpret(clip_path: Path, tmp_path: Path) -> None:
    for name in ("concat:clip.mp4", "clip%03d.mp4", "größe 漢字.mp4", "-i.mp4"):
        path = tmp_path / name
        path.write_bytes(clip_path.read_bytes())
        assert opened(path, frames=1).frames.shape[0] == 1


def test_images_need_no_video_decoder() -> None:
    code = (
        "import sys; from sage_core.media import open_media; from PIL import Image;"
        "open_media(Image.new('RGB', (8, 8)));"
        "print([m for m in ('decord', 'av', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(
    gaps=st.lists(st.floats(0.001, 2.0), min_size=1, max_size=60),
    frames=st.one_of(st.none(), st.integers(1, 70)),
    fps=st.one_of(st.none(), st.floats(0.05, 60.0)),
    start=st.one_of(st.none(), st.floats(0.0, 20.0)),
    length=st.one_of(st.none(), st.floats(0.01, 20.0)),
)
def test_chosen_frames_are_increasing_within_the_part_and_few(
    gaps: list[float],
    frames: int | None,
    fps: float | None,
    start: float | None,
    length: float | None,
) -> None:
    times = np.concatenate([[0.0], np.cumsum(gaps)])[:-1]
    duration = float(np.sum(gaps))
    end = None if length is None else (start or 0.0) + length
    sampling = Sampling(frames=None if fps else frames, fps=fps, start=start, end=end)
    if (start or 0.0) >= duration:
        with pytest.raises(InputError):
            choose_frames(times, duration, sampling, "x")
        return
    chosen = choose_frames(times, duration, sampling, "x")
    assert len(chosen) >= 1
    assert np.all(np.diff(chosen) > 0)
    stop = duration if end is None else min(end, duration)
    shown_until = np.concatenate([times[1:], [duration]])
    # Every chosen frame is on screen at some moment of [start, stop).
    assert np.all(times[chosen] < stop + 1e-5)
    assert np.all(shown_until[chosen] > (start or 0.0) - 1e-5)
    if fps is None:
        assert len(chosen) <= (frames or 8)


def test_missing_bytes_of_matroska() -> None:
    head = b"\x1aE\xdf\xa3\x84abcd\x18S\x80g" + b"\x01" + b"\xff" * 7 + bytes(20)
    assert missing_bytes(head, len(head)) == 0
    sized = b"\x1aE\xdf\xa3\x84abcd\x18S\x80g" + b"\x88" + bytes(3)
    assert missing_bytes(sized, len(sized)) == 5
    assert missing_bytes(b"\x1aE\xdf\xa3", 4) == 0


def test_empty_packets_that_repeat_a_frame(tmp_path: Path) -> None:
    """As the encoders of Theora write them; decoders refuse them."""
    path, holes = tmp_path / "clip.nut", (3, 4, 9)
    write_clip(tmp_path / "plain.mkv", codec="mpeg4")
    with av.open(str(tmp_path / "plain.mkv")) as given, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(given.streams.video[0])
        for number, packet in enumerate(given.demux(video=0)):
            if packet.dts is not None:
                kept = av.Packet(b"" if number in holes else bytes(packet))
                kept.pts, kept.dts, kept.time_base = packet.pts, packet.dts, packet.time_base
                kept.is_keyframe, kept.stream = packet.is_keyframe, stream
                out.mux(kept)
    clip = open_media(path, Sampling(frames=100))
    assert isinstance(clip, Clip)
    expected = [number / 8 for number in range(16) if number not in holes]
    assert clip.timestamps.tolist() == pytest.approx(expected)
    assert [level_of(frame) for frame in clip.frames[:3]] == [0, 1, 2]
