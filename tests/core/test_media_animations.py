"""Animated images: the frames, and the time of each, as Pillow decodes them one by one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from sage_core.errors import InputError
from sage_core.media import Clip, Picture, Sampling, animations, open_media
from tests.core.media_files import encoded

COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250), (120, 0, 120))
MILLISECONDS = (500, 20, 300, 1000, 40, 140)
TIMES = (0.0, 0.5, 0.52, 0.82, 1.82, 1.86)
KINDS = ("GIF", "WEBP", "PNG", "AVIF")
LOSSLESS: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}


def animation(kind: str, size: tuple[int, int] = (32, 24), **options: Any) -> bytes:
    frames = [Image.new("RGB", size, colour) for colour in COLOURS]
    settings = {"duration": list(MILLISECONDS), **LOSSLESS.get(kind, {}), **options}
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **settings)


def colours(clip: Any) -> list[int]:
    """Which of `COLOURS` each frame is."""
    assert isinstance(clip, Clip)
    apart = np.abs(clip.frames[:, 12, 16, None].astype(int) - np.array(COLOURS)).sum(-1)
    assert apart.min(1).max() < 30
    return [int(n) for n in apart.argmin(1)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_frame_has_its_own_time(kind: str) -> None:
    clip = open_media(animation(kind), Sampling(frames=99))
    assert colours(clip) == list(range(6))
    assert clip.timestamps == pytest.approx(TIMES, abs=1e-3)
    assert clip.duration == pytest.approx(2.0, abs=1e-3)
    late = open_media(animation(kind), Sampling(start=1.0, fps=2.0))
    assert colours(late) == [3]
    assert late.timestamps[0] == pytest.approx(0.82, abs=1e-3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_a_frame_of_no_duration_is_shown_for_a_tenth_of_a_second(kind: str) -> None:
    clip = open_media(animation(kind, duration=0), Sampling(frames=99))
    assert clip.timestamps == pytest.approx(np.arange(6) / 10)


def test_a_first_frame_that_is_no_part_of_the_animation_is_hidden() -> None:
    hidden = Image.new("RGB", (32, 24), COLOURS[5])
    frames = [Image.new("RGB", (32, 24), colour) for colour in COLOURS[:5]]
    settings: dict[str, Any] = {"save_all": True, "duration": [300, 100, 100, 100, 100]}
    data = encoded(hidden, "PNG", append_images=frames, default_image=True, **settings)
    clip = open_media(data, Sampling(frames=99))
    assert colours(clip) == [0, 1, 2, 3, 4]
    assert clip.timestamps == pytest.approx([0, 0.3, 0.4, 0.5, 0.6])
    assert clip.duration == pytest.approx(0.7)
    one = encoded(hidden, "PNG", append_images=frames[:1], default_image=True, save_all=True)
    picture = open_media(one)
    assert isinstance(picture, Picture)
    assert picture.image.getpixel((0, 0)) == COLOURS[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_decoded_once_and_no_further_than_needed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    data = animation(kind)
    with Image.open(io.BytesIO(data)) as image:
        plugin = type(image)

    def load(self: Any) -> Any:
        if self.tile or kind == "WEBP":
            decoded.append(self.tell())
        return original(self)

    original = plugin.load
    monkeypatch.setattr(plugin, "load", load)
    clip = open_media(data, Sampling(end=0.6, frames=3))
    assert colours(clip) == [0, 1, 2]
    assert max(decoded) == 2
    assert sorted(set(decoded)) == [0, 1, 2]
    assert decoded == sorted(decoded)  # never from the beginning again


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_demuxer_times_come_from_decoding(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animations, "_from_file", lambda *_: None)
    clip = open_media(animation(kind), Sampling(frames=99))
    assert colours(clip) == list(range(6))
    assert clip.timestamps == pytest.approx(TIMES, abs=1e-3)


def test_too_many_pixels_in_all_are_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = animation("GIF")
    monkeypatch.setattr(animations, "MOST", 32 * 24 * 4)
    with pytest.raises(InputError, match="6 frames of 32x24 exceed"):
        open_media(data)
    assert colours(open_media(data, Sampling(end=0.6))) == [0, 1, 2]
    monkeypatch.setattr(animations, "LARGE", 32 * 24 - 1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match="megapixels each"):
        open_media(data, Sampling(frames=1))


def test_frames_of_partial_size_are_composed() -> None:
    """As a reference: each frame that Pillow composes, converted by itself."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)
    frames = []
    for i in range(6):
        base = base.copy()
        base[4 * i : 4 * i + 4, 5 : 10 + i] = 40 * i
        frames.append(Image.fromarray(base))
    for kind in ("GIF", "PNG", "WEBP"):
        options = {"save_all": True, "append_images": frames[1:], "duration": 100}
        data = encoded(frames[0], kind, **options, **LOSSLESS.get(kind, {}))
        wanted = []
        with Image.open(io.BytesIO(data)) as image:
            for i in range(image.n_frames):  # type: ignore[attr-defined]
                image.seek(i)
                wanted.append(np.asarray(image.convert("RGB")))
        clip = open_media(data, Sampling(frames=99))
        assert isinstance(clip, Clip)
        assert np.array_equal(clip.frames, np.stack(wanted))
