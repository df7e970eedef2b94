"""Photographs and clips from cameras and many encoders: ``pytest -m real_media``.

The files come from the package iscc-samples (``pip install --no-deps iscc-samples``; CC BY 4.0) and
from Debian's forensics-samples-files (CC BY-SA), which ``apt-get download`` fetches into the folder
REAL_MEDIA_CACHE, or into a temporary one. Without one of them its tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from sage_core.errors import InputError
from sage_core.media import Clip, MediaWorker, Picture, Sampling, open_media, video_pyav
from sage_core.media.segments import InProcess, Split, segments
from sage_core.media.video_decord import is_exact
from sage_core.media.video_index import decoded_frames, open_video, read_index, video_stream
from tests.core.media_files import decoded_by

pytestmark = [pytest.mark.real_media, pytest.mark.slow]

PACKAGE = "forensics-samples-files"
NAMES = (
    *("3g2", "3gp", "asf", "avi", "f4v", "flv", "m1v", "m4v", "mkv", "mov", "mp4", "mpeg", "mpg"),
    *("rm", "swf", "vob", "webm", "wmv"),
)
REFUSED = ["iscc/video/demo.ogg", "iscc/video/demo.ogv"]
"""Of their Theora, with several quantizers in a frame, FFmpeg's decoder refuses most frames."""
CLIPS = [
    *(f"iscc/video/demo.{name}" for name in NAMES),
    "debian/movie1/VID_20191220_170832.mp4",
    *(f"debian/movie2/movie-hello.{name}" for name in ("mp4", "ogg", "mpeg", "avi")),
]
PICTURES = [
    *(f"iscc/image/demo.{name}" for name in ("bmp", "gif", "jpg", "png", "psd", "tif")),
    *(
        f"debian/pic1/{name}"
        for name in (
            *("IMG-20191006-WA0002.jpg", "IMG_20200827_231612.jpg", "IMG_1054.JPG"),
            *("debian_logo.png", "debian_logo.jpg", "debian.png", "debian.ppm"),
        )
    ),
    *(
        f"debian/pic2/IMG_{name}.jpg"
        for name in ("20200124_231153", "20200608_111614", "20191224_234846")
    ),
]


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Debian's files."""
    given = os.environ.get("REAL_MEDIA_CACHE")
    folder = Path(given) if given else tmp_path_factory.mktemp("real_media")
    files = folder / "usr/share/forensics-samples/original-files"
    if not files.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            pytest.skip(f"{PACKAGE} is a package of Debian, and there is no apt-get here")
        got = subprocess.run(
            ["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, text=True
        )
        found = list(folder.glob(f"{PACKAGE}_*.deb"))
        if got.returncode or not found:
            pytest.skip(f"apt-get download {PACKAGE}: {got.stderr.strip() or 'nothing came'}")
        subprocess.run(["dpkg-deb", "-x", found[0], folder], check=True)
    return files


@pytest.fixture
def path(request: pytest.FixtureRequest) -> Path:
    """The file that a test names as ``iscc/...`` or ``debian/...``."""
    home, _, rest = request.param.partition("/")
    if home == "debian":
        return Path(request.getfixturevalue("debian")) / rest
    spec = find_spec("iscc_samples")
    if spec is None or spec.origin is None:
        pytest.skip("iscc-samples is not installed: pip install --no-deps iscc-samples")
    return Path(spec.origin).parent / "files" / rest


clips = pytest.mark.parametrize("path", CLIPS, indirect=True)
pictures = pytest.mark.parametrize("path", PICTURES, indirect=True)


def decoded_in_order(path: Path, wanted: np.ndarray) -> dict[int, np.ndarray]:
    """Frames as FFmpeg gives them from the beginning, uint8 RGB, by their numbers."""
    found: dict[int, np.ndarray] = {}
    near = {int(n) + d for n in wanted for d in (-1, 0, 1)}
    with open_video(path) as container:
        stream = video_stream(container)
        stream.thread_type = "AUTO"
        for number, frame in enumerate(decoded_frames(container, stream)):
            if number in near:
                found[number] = turned(frame)
    return found


def turned(frame: Any) -> np.ndarray:
    pixels: np.ndarray = frame.to_ndarray(format="rgb24")
    return np.rot90(pixels, frame.rotation // 90)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(int) - other).mean())


@clips
def test_frames_are_those_of_ffmpeg(path: Path) -> None:
    index = read_index(path, "x")
    clip = open_media(path, Sampling(frames=9))
    assert isinstance(clip, Clip)
    chosen = np.searchsorted(index.timestamps, clip.timestamps - 1e-6)
    expected = decoded_in_order(path, chosen)
    assert len(clip.frames) == 9
    for number, frame in zip(chosen.tolist(), clip.frames, strict=True):
        assert frame.shape == expected[number].shape
        own = distance(frame, expected[number])
        assert own < 4  # chroma is placed a little differently
        others = [distance(frame, expected[n]) for n in (number - 1, number + 1) if n in expected]
        assert own <= min(others) + 0.5


@pytest.mark.parametrize("path", REFUSED, indirect=True)
def test_what_ffmpeg_cannot_decode_is_refused(path: Path) -> None:
    with MediaWorker() as worker, pytest.raises(InputError, match="in an unsupported format"):
        worker.open(str(path), Sampling(frames=9), "x")


@clips
def test_times_and_length(path: Path) -> None:
    index = read_index(path, "x")
    assert index.timestamps[0] == 0 and all(a < b for a, b in pairwise(index.timestamps))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        count = sum(1 for _ in decoded_frames(container, stream))
        stated = float(stream.duration * stream.time_base) if stream.duration else None
    assert len(index.timestamps) == count
    if stated and path.suffix != ".m1v":  # FFmpeg guesses that of a bare stream from its size
        assert index.duration == pytest.approx(stated, rel=0.05, abs=0.2)


@clips
def test_both_decoders_agree(path: Path) -> None:
    from sage_core.media import video_decord

    index = read_index(path, "x")
    if not is_exact(index):
        pytest.skip("PyAV decodes it")
    one, other = (decoded_by(by, path, Sampling(frames=5)) for by in (video_decord, video_pyav))
    assert np.abs(one.frames.astype(int) - other.frames).max() <= 2


@clips
def test_parts_are_those_of_the_clip(path: Path) -> None:
    reader = InProcess()
    length = reader.length(str(path), "x")
    assert length is not None
    whole = read_index(path, "x").timestamps
    parts = list(segments(str(path), Split(length / 5, length / 20), "x", reader))
    assert len(parts) >= 5 and parts[-1][1] == length
    found: dict[float, np.ndarray] = {}
    for start, end in parts:
        clip = reader.open(str(path), Sampling(frames=4, start=start, end=end), "x")
        assert isinstance(clip, Clip)
        for time, frame in zip(clip.timestamps.tolist(), clip.frames, strict=True):
            assert start - 1e-6 <= time < end
            found[time] = frame
    numbers = np.searchsorted(whole, np.array(list(found)) - 1e-6)
    expected = decoded_in_order(path, numbers)
    for number, frame in zip(numbers.tolist(), found.values(), strict=True):
        assert distance(frame, expected[number]) < 4


@clips
def test_scenes_end_where_the_next_begin(path: Path) -> None:
    pytest.importorskip("scenedetect")
    with MediaWorker() as worker:
        found = list(segments(str(path), Split(), "x", worker))
        assert worker.length(str(path), "x") == found[-1][1]
    assert found[0][0] == 0
    assert all(one[1] == other[0] for one, other in pairwise(found))


@pictures
def test_pictures_are_upright(path: Path) -> None:
    """As Pillow's own transposition, but for transparency and colour profiles."""
    opened = open_media(path)
    assert isinstance(opened, Picture)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image)
        profile = image.info.get("icc_profile")
    if expected.has_transparency_data:
        white = Image.new("RGBA", expected.size, "white")
        expected = Image.alpha_composite(white, expected.convert("RGBA"))
    assert opened.size == expected.size
    found, pixels = np.asarray(opened.image), np.asarray(expected.convert("RGB"))
    if profile is None:
        assert np.array_equal(found, pixels)
    else:
        assert distance(found, pixels) < 20


@pictures
def test_pictures_shrink_alike_in_the_other_process(path: Path) -> None:
    asked = Sampling(max_pixels=40_000)
    with MediaWorker() as worker:
        found = open_media(path, asked, isolate=worker)
    expected = open_media(path, asked)
    assert isinstance(found, Picture) and isinstance(expected, Picture)
    assert found.size[0] * found.size[1] <= 40_000
    assert np.array_equal(np.asarray(found.image), np.asarray(expected.image))


@pytest.mark.parametrize("path", ["debian/pic1/IMG_20200827_231612.jpg"], indirect=True)
@pytest.mark.parametrize("kind", ["HEIF", "JXL", "AVIF"])
def test_a_photograph_in_newer_formats(path: Path, kind: str, tmp_path: Path) -> None:
    for module in {"HEIF": ["pillow_heif"], "JXL": ["pillow_jxl"]}.get(kind, []):
        pytest.importorskip(module)
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    with Image.open(path) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((800, 800))
    small.save(tmp_path / "a", kind, quality=95)
    found = open_media(tmp_path / "a")
    assert isinstance(found, Picture) and distance(np.asarray(found.image), np.asarray(small)) < 3
