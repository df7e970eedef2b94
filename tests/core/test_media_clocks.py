"""Times, order and orientation of frames are those of FFmpeg's demuxers, in unusual files too."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from sage_core.errors import InputError
from sage_core.media import Clip, Sampling, open_media
from tests.core.video_files import FRAMES, RATE, TURNS, Video, faults, is_upright, write_video

SIZE = (64, 48)


def opened(data: bytes, **sampling: float) -> Clip:
    clip = open_media(data, Sampling(**sampling))  # type: ignore[arg-type]
    assert isinstance(clip, Clip)
    return clip


def decoded(data: bytes) -> list[np.ndarray]:
    """The reference: every frame in the order of decoding, upright."""
    with av.open(io.BytesIO(data)) as container:
        return [
            np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            for frame in container.decode(video=0)
        ]


def assert_like_reference(clip: Clip, frames: list[np.ndarray]) -> None:
    """All frames, within what other conversions of colours change."""
    assert len(clip.frames) == len(frames)
    for ours, theirs in zip(clip.frames, frames, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).mean() < 4


def with_empty_packets(data: bytes, count: Callable[[int], int]) -> bytes:
    """An AVI file with ``count(n)`` empty packets after frame ``n``, which then stays on screen."""
    start, end = data.index(b"movi") + 4, data.index(b"idx1")
    keys = {
        int.from_bytes(data[at + 8 : at + 12], "little")
        for at in range(end + 8, len(data) - 15, 16)
        if data[at + 4] & 0x10
    }
    chunks, index, at, number = b"", b"", start, 0
    while at < end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        flags = 0x10 if at - start + 4 in keys else 0
        index += data[at : at + 4] + struct.pack("<III", flags, 4 + len(chunks), size)
        chunks += data[at : at + 8 + size + size % 2]
        for _ in range(count(number)):
            index += b"00dc" + struct.pack("<III", 0, 4 + len(chunks), 0)
            chunks += b"00dc" + bytes(4)
        at += 8 + size + size % 2
        number += 1
    body = data[: start - 8] + struct.pack("<I", 4 + len(chunks)) + b"movi" + chunks
    body += b"idx1" + struct.pack("<I", len(index)) + index
    total = number + sum(map(count, range(number)))
    header = body.index(b"strh") + 8 + 32
    body = body[:header] + struct.pack("<I", total) + body[header + 4 :]
    return body[:4] + struct.pack("<I", len(body) - 8) + body[8:]


@pytest.mark.parametrize(
    "video",
    [
        Video("mpeg4.avi", "mpeg4", options={"g": "4"}),
        Video("mjpeg.avi", "mjpeg", pixels="yuvj420p"),
        Video("h264.avi", options={"g": "4", "bf": "0"}),
    ],
    ids=lambda video: video.name,
)
@pytest.mark.parametrize("count", [lambda n: 1, lambda n: 5 if n in (2, 11) else 0])
def test_an_empty_packet_of_avi_repeats_a_frame(
    video: Video, count: Callable[[int], int], tmp_path: Path
) -> None:
    data = with_empty_packets(write_video(video, tmp_path / video.name).read_bytes(), count)
    places = np.cumsum([0] + [1 + count(n) for n in range(FRAMES)])
    clip = opened(data, frames=99)
    assert_like_reference(clip, decoded(data))
    assert clip.timestamps * RATE == pytest.approx(places[:-1], abs=0.01)
    assert clip.duration * RATE == pytest.approx(places[-1], abs=0.01)


JOINED = {
    "ts": Video("a", container="mpegts", options={"g": "4", "bf": "2"}),
    "ts, mpeg-2": Video("a", "mpeg2video", "mpegts", options={"g": "4", "bf": "2"}),
    "vob": Video("a", "mpeg2video", "vob", options={"g": "4", "bf": "2"}),
}


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("parts", [2, 3])
def test_files_joined_end_to_end_are_one_video(name: str, parts: int, tmp_path: Path) -> None:
    video = JOINED[name]
    data = write_video(video, tmp_path / "a").read_bytes() * parts
    reference = decoded(data)
    assert len(reference) == FRAMES * parts
    clip = opened(data, frames=99)
    assert_like_reference(clip, reference)
    assert clip.timestamps * RATE == pytest.approx(np.arange(FRAMES * parts), abs=0.05)
    assert clip.duration * RATE == pytest.approx(FRAMES * parts, abs=0.05)
    late = opened(data, start=FRAMES / RATE + 0.3, frames=2)
    assert np.array_equal(late.frames[-1], clip.frames[-1])
    assert late.timestamps[-1] == clip.timestamps[-1]


def test_a_later_recording_follows_without_a_pause(tmp_path: Path) -> None:
    """Its times are hours later, as of another part of a broadcast."""
    first = write_video(JOINED["ts"], tmp_path / "a").read_bytes()
    later = Video(
        "b", container="mpegts", options={"g": "4", "bf": "2"}, mux={"output_ts_offset": "9000"}
    )
    clip = opened(first + write_video(later, tmp_path / "b").read_bytes(), frames=99)
    assert clip.timestamps * RATE == pytest.approx(np.arange(2 * FRAMES), abs=0.05)
    assert all(is_upright(frame) for frame in clip.frames)


def test_missing_packets_are_no_join(tmp_path: Path) -> None:
    video = Video(
        "a", container="mpegts", frames=40, options={"g": "8", "b": "4M"}, size=(320, 240)
    )
    data = write_video(video, tmp_path / "a").read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    gone = len(packets) // 2
    with pytest.raises(InputError, match="corrupt"):
        opened(b"".join(packets[:gone] + packets[gone + 3 :]), frames=99)


def elements(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Identifiers and bodies of EBML elements."""
    at = 0
    while at < len(data):
        length = 9 - data[at].bit_length()
        kind, at = data[at : at + length], at + length
        length = 9 - data[at].bit_length()
        size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
        at += length
        size = len(data) - at if size == (1 << 7 * length) - 1 else size
        yield kind, data[at : at + size]
        at += size


def element(kind: bytes, body: bytes) -> bytes:
    return kind + (1 << 56 | len(body)).to_bytes(8, "big") + body


PATH = (b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b", b"\xae", b"\xe0")
"""Segment, Tracks, TrackEntry, Video."""
PLACES = (b"\x11\x4d\x9b\x74", b"\x1c\x53\xbb\x6b", b"\xec")
"""SeekHead, Cues and Void, whose positions would be wrong."""


def projected(data: bytes, roll: float, path: tuple[bytes, ...] = PATH) -> bytes:
    """A Matroska file whose video has a ProjectionPoseRoll, as tools write for a phone's clip."""
    out = b""
    for kind, body in elements(data):
        if kind in PLACES:
            continue
        if path and kind == path[0] and len(path) > 1:
            body = projected(body, roll, path[1:])
        elif path and kind == path[0]:
            pose = element(b"\x76\x71", b"\0") + element(b"\x76\x75", struct.pack(">d", roll))
            body += element(b"\x76\x70", pose)
        out += element(kind, body)
    return out


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(
    "video",
    [
        Video("a.mkv", options={"g": "4", "bf": "2"}),
        Video("a.webm", "libvpx-vp9", options={"g": "4"}),
        Video("a.mkv", "mjpeg", pixels="yuvj420p"),
    ],
    ids=lambda video: video.codec,
)
def test_a_turn_of_matroska_is_applied(video: Video, degrees: int, tmp_path: Path) -> None:
    data = write_video(video, tmp_path / video.name).read_bytes()
    clip = opened(projected(data, -float(degrees)), frames=3)
    assert clip.size == (SIZE if degrees in (0, 180) else SIZE[::-1])
    for frame in clip.frames:
        assert is_upright(np.rot90(frame, degrees // 90))


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize(
    "video",
    [
        Video("a.mp4", options={"g": "4"}),
        Video("a.mov", "mpeg4", options={"g": "4", "bf": "2"}),
        Video("a.mp4", options={"x264-params": "open_gop=1:keyint=4:scenecut=0"}),
    ],
    ids=["closed", "mpeg4", "open"],
)
def test_a_turn_of_the_whole_movie_is_applied(video: Video, degrees: int, tmp_path: Path) -> None:
    data = bytearray(write_video(video, tmp_path / video.name).read_bytes())
    at = data.index(b"mvhd") + 4 + 4 + 16 + 4 + 4 + 8
    a, b, c, d = TURNS[degrees]
    numbers = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[at : at + 36] = struct.pack(">9i", *numbers)
    clip = opened(bytes(data), frames=3)
    assert clip.size == (SIZE if degrees == 180 else SIZE[::-1])
    for frame in clip.frames:
        assert is_upright(np.rot90(frame, degrees // 90))


@pytest.mark.parametrize("container", ["mp4", "matroska", "mpegts", "avi"])
def test_frames_and_times_are_the_reference_s(container: str, tmp_path: Path) -> None:
    video = Video("a", container=container, options={"g": "5", "bf": "0"})
    data = write_video(video, tmp_path / "a").read_bytes()
    clip = opened(data, frames=99)
    assert_like_reference(clip, decoded(data))
    assert faults(clip, video) == set()
