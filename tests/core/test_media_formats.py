"""Which files are images and videos: what Pillow and FFmpeg know, by content alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from sage_core.errors import InputError
from sage_core.media import Clip, Picture, Sampling, check_media, open_media
from sage_core.media.open import is_media
from tests.core.media_files import card, encoded, level_of, write_clip

PICTURES = {
    "ppm": ("PPM", "RGB", {}),
    "pgm": ("PPM", "L", {}),
    "pbm": ("PPM", "1", {}),
    "pfm": ("PPM", "F", {}),
    "tga": ("TGA", "RGB", {}),
    "tga, run lengths": ("TGA", "RGB", {"compression": "tga_rle"}),
    "pcx": ("PCX", "RGB", {}),
    "sgi": ("SGI", "RGB", {}),
    "icns": ("ICNS", "RGB", {}),
    "ico": ("ICO", "RGB", {"sizes": [(64, 48)]}),
    "dds": ("DDS", "RGB", {}),
    "qoi": ("QOI", "RGB", {}),
    "xbm": ("XBM", "1", {}),
    "im": ("IM", "RGB", {}),
    "spider": ("SPIDER", "F", {}),
    "blp": ("BLP", "P", {}),
    "dib": ("DIB", "RGB", {}),
    "jpeg 2000": ("JPEG2000", "RGB", {}),
}


@pytest.mark.parametrize("name", PICTURES)
def test_what_pillow_knows_is_a_picture(name: str, tmp_path: Path) -> None:
    kind, mode, options = PICTURES[name]
    data = encoded(card().convert(mode), kind, **options)
    path = tmp_path / "picture.dat"
    path.write_bytes(data)
    assert is_media(path)
    check_media(path, "x")
    for source in (path, data, io.BytesIO(data)):
        opened = open_media(source)
        assert isinstance(opened, Picture)
        assert opened.size == Image.open(io.BytesIO(data)).size


def test_a_text_that_is_a_picture() -> None:
    picture = open_media(b"P3 2 1 255\n255 0 0 0 0 255\n")
    assert isinstance(picture, Picture)
    assert np.asarray(picture.image).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_pillow_starts_no_other_program() -> None:
    data = encoded(card(), "EPS")
    with pytest.raises(InputError, match="is a document"):
        open_media(data)
    with pytest.raises(InputError):  # the same behind a header of a preview
        open_media(b"\xc5\xd0\xd3\xc6" + (32).to_bytes(4, "little") + bytes(24) + data)


BARE = {
    "h264": ("libx264", {"crf": "10"}),
    "h264, delimiters": ("libx264", {"crf": "10", "x264-params": "aud=1"}),
    "hevc": ("libx265", {"x265-params": "log-level=none"}),
    "hevc, delimiters": ("libx265", {"x265-params": "log-level=none:aud=1"}),
    "m4v": ("mpeg4", {}),
    "mpeg2video": ("mpeg2video", {}),
    "yuv4mpegpipe": ("wrapped_avframe", {}),
    "ivf": ("libvpx", {}),
    "ogg": ("libvpx", {}),
    "nut": ("mpeg4", {}),
}


def bare(name: str, folder: Path) -> bytes:
    codec, options = BARE[name]
    path = folder / "stream"
    with av.open(str(path), "w", format=name.split(",")[0]) as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(8):
            grey = np.full((48, 64, 3), 14 + 12 * i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode(None))
    return path.read_bytes()


def raspberry(data: bytes) -> bytes:
    """With the lower importance of parameter sets that Raspberry Pi cameras write."""
    return data.replace(b"\0\0\0\1\x67", b"\0\0\0\1\x27").replace(b"\0\0\0\1\x68", b"\0\0\0\1\x28")


@pytest.mark.parametrize("name", BARE)
def test_what_ffmpeg_knows_is_a_video(name: str, tmp_path: Path) -> None:
    data = bare(name, tmp_path)
    forms = [data]
    if name == "h264":
        forms += [data[1:], raspberry(data)]
    for form in forms:
        path = tmp_path / "video.dat"
        path.write_bytes(form)
        assert is_media(path)
        check_media(io.BytesIO(form), "x")
        clip = open_media(form, Sampling(frames=8))
        assert isinstance(clip, Clip)
        assert [level_of(frame) for frame in clip.frames] == list(range(8))


def test_a_stream_of_jpegs_is_a_video_and_an_appended_preview_is_not() -> None:
    images = [encoded(Image.new("RGB", (64, 48), (14 + 12 * i,) * 3), "JPEG") for i in range(8)]
    clip = open_media(b"".join(images), Sampling(frames=8))
    assert isinstance(clip, Clip)
    assert [level_of(frame) for frame in clip.frames] == list(range(8))
    assert isinstance(open_media(b"".join(images[:2])), Picture)


def playlists(folder: Path) -> dict[str, bytes]:
    """Files that lead FFmpeg to others."""
    write_clip(folder / "part.mp4", frames=2)
    write_clip(folder / "part.ts", frames=2, container="mpegts")
    entries = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
    return {
        "hls": entries.format("part.ts").encode(),
        "hls with another address": entries.format("http://127.0.0.1:9/part.ts").encode(),
        "concat": b"ffconcat version 1.0\nfile part.mp4\n",
        # Not text to us, so that FFmpeg is asked.
        "concat, not text": b"ffconcat version 1.0\nfile part.mp4\n#\x80\xff" + b"\n" * 9,
        "hls, not text": entries.format("part.ts").encode() + b"#\x80\xff" + b"\n" * 9,
        "dash": b"<?xml version='1.0'?><MPD profiles='urn:mpeg:dash:profile:isoff-live:2011'>",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 9 RTP/AVP 96",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("hls", "hls with another address", "concat", "concat, not text"),
        *("hls, not text", "dash", "sdp"),
    ],
)
def test_a_playlist_leads_to_no_other_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = playlists(tmp_path)[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "list.m3u8"
    path.write_bytes(data)
    says = "unsupported image or video format" if "not text" in name else "is text"
    for source in (path, data):
        with pytest.raises(InputError, match=says):
            open_media(source)
        with pytest.raises(InputError, match=says):
            check_media(source if isinstance(source, Path) else io.BytesIO(source), "x")
    assert not is_media(path)


def test_a_picture_of_tiles_is_not_taken_for_a_video(tmp_path: Path) -> None:
    """FFmpeg opens HEIC files as videos of their tiles."""
    data = write_clip(tmp_path / "c.mp4", frames=2).read_bytes()
    assert data[4:12] == b"ftypisom"
    with pytest.raises(InputError, match="corrupt or of an unsupported format"):
        open_media(data[:8] + b"heic" + data[12:])


NEITHER = {
    "prose": b"Once upon a time there was a picture.\n" * 200,
    "code": b"import numpy as np\n\n\ndef f(x: int) -> int:\n    return x\n",
    "like a bitmap": b"BMW is a car maker, not a picture\n" * 3,
    "like a portable map": b"P6 is a postcode\n",
    "noise": bytes(np.random.default_rng(3).integers(0, 256, 5000, np.uint8)),
    "zeros": bytes(5000),
    "ones": b"\xff" * 5000,
    "zip": b"PK\x03\x04" + bytes(3000),
    "executable": b"\x7fELF\x02\x01\x01" + bytes(range(256)) * 8,
}


@pytest.mark.parametrize("name", NEITHER)
def test_what_neither_library_knows_is_refused_alike(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(NEITHER[name])
    messages = set()
    for source in (path, io.BytesIO(NEITHER[name])):
        for ask in (check_media, lambda source, name: open_media(source, name=name)):
            with pytest.raises(InputError) as caught:
                ask(source, "x")  # type: ignore[no-untyped-call]
            messages.add(str(caught.value))
    assert len(messages) == 1
    assert "corrupt" not in messages.pop()
    assert not is_media(path)


def test_checking_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole folder is searched, and the files may be hostile."""
    path = tmp_path / "a.png"
    path.write_bytes(encoded(card(), "PNG"))
    clip = write_clip(tmp_path / "a.mp4", frames=2)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a library was asked")

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(av, "open", refuse)
    assert is_media(path)
    assert is_media(clip)
