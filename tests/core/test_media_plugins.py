"""HEIC, AVIF and JPEG XL: pixels, orientation and colours; and the extra that a file needs."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from sage_core.errors import InputError
from sage_core.media import MediaWorker, Picture, Sampling, check_media, open_media, plugins
from tests.core.media_files import card, encoded

ROTATED = Image.Exif()
ROTATED[0x0112] = 6
KINDS = ("HEIF", "JXL", "AVIF")


def written(kind: str, image: Image.Image, **options: Any) -> bytes:
    """The file, or a skip where this machine cannot write it."""
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif kind == "JXL":
        pytest.importorskip("pillow_jxl")
    elif not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    return encoded(image, kind, **options)


def opened(source: Any, **sampling: Any) -> np.ndarray:
    found = open_media(source, Sampling(**sampling), "x")
    assert isinstance(found, Picture)
    return np.asarray(found.image).astype(int)


def distance(found: np.ndarray, expected: Image.Image) -> float:
    return float(np.abs(found - np.asarray(expected).astype(int)).mean())


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_by_path_bytes_and_worker(kind: str, tmp_path: Path) -> None:
    data = written(kind, card(), quality=95)
    (tmp_path / "a.jpg").write_bytes(data)  # the name says nothing
    assert distance(opened(data), card()) < 3
    assert distance(opened(tmp_path / "a.jpg"), card()) < 3
    check_media(io.BytesIO(data), "x")
    with MediaWorker() as worker:
        worker.check(str(tmp_path / "a.jpg"), "x")
        found = worker.open(str(tmp_path / "a.jpg"), Sampling(max_pixels=100), "x")
        assert isinstance(found, Picture) and found.size == (11, 8)
        assert worker.length(str(tmp_path / "a.jpg"), "x") is None


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_stored_rotation_is_applied_once(kind: str) -> None:
    found = opened(written(kind, card(), exif=ROTATED.tobytes(), quality=95))
    assert distance(found, card().transpose(Image.Transpose.ROTATE_270)) < 3


def test_jpeg_xl_is_turned_by_its_own_orientation(tmp_path: Path) -> None:
    """EXIF in JPEG XL is for information; that of a recompressed JPEG is the picture's."""
    data = written("JXL", card(), exif=ROTATED.tobytes(), quality=95)
    assert distance(opened(data), card()) < 3
    path = tmp_path / "a.jpg"
    card().save(path, exif=ROTATED.tobytes(), quality=95)
    with Image.open(path) as jpeg, pytest.warns(UserWarning, match="reconstruction"):
        again = written("JXL", jpeg)
    assert np.array_equal(opened(again), opened(path))
    assert distance(opened(again), card().transpose(Image.Transpose.ROTATE_270)) < 5


@pytest.mark.parametrize("kind", KINDS)
def test_transparent_and_grey(kind: str) -> None:
    layer = card().convert("RGBA")
    layer.putalpha(0)
    white = Image.new("RGB", layer.size, "white")
    assert distance(opened(written(kind, layer, quality=95)), white) < 3
    grey = card().convert("L")
    assert distance(opened(written(kind, grey, quality=95)), grey.convert("RGB")) < 3


def display_p3() -> bytes:
    """A colour profile (ICC 2.1) with the primaries of Display P3 and a gamma of 2.2."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    gamma = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(2.2 * 256), 0)
    tags = {
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        b"wtpt": xyz(0.9642, 1, 0.8249),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma),
    }
    table, body, at = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    head = struct.pack(
        ">I4sI4s4s4s", at + len(body), b"none", 0x02100000, b"mntr", b"RGB ", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("kind", [*KINDS, "PNG", "JPEG"])
def test_colours_of_a_wide_profile_become_srgb(kind: str, tmp_path: Path) -> None:
    """Full red of sRGB is (234, 51, 35) in Display P3."""
    image = Image.new("RGB", (32, 32), (234, 51, 35))
    options: dict[str, Any] = {"icc_profile": display_p3()}
    if kind == "JXL":  # its plugin writes a profile only with a JPEG
        image.save(tmp_path / "a.jpg", quality=95, **options)
        with Image.open(tmp_path / "a.jpg") as jpeg:
            data = written("JXL", jpeg, lossless_jpeg=True)
    else:
        data = written(kind, image, **options, **({} if kind == "PNG" else {"quality": 95}))
    red = opened(data)[16, 16]
    assert red[0] >= 250 and red[1] < 25 and red[2] < 25, red


@pytest.mark.parametrize("profile", [b"", b"no profile", bytes(2**21)])
def test_a_profile_that_cannot_be_read_changes_nothing(profile: bytes) -> None:
    found = opened(encoded(card(), "JPEG", quality=95, icc_profile=profile))
    assert np.array_equal(found, opened(encoded(card(), "JPEG", quality=95)))


def test_srgb_itself_is_not_converted() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = opened(encoded(card(), "PNG", icc_profile=profile))
    assert np.array_equal(found, np.asarray(card()))


HEADS = {
    "HEIC": b"\0\0\0\x1cftypheic\0\0\0\0mif1heic",
    "HEIC of a shared brand": b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic",
    "JPEG XL": b"\xff\x0a\xfa\x1f\x41\x91\x08",
    "JPEG XL in boxes": b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ",
}


@pytest.mark.parametrize("name", HEADS)
def test_without_its_plugin_a_file_names_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "find_spec", lambda module: None)
    says = rf"^x: {name[:4]}.* needs the extra 'formats': pip install 'sage-vlm\[formats\]'$"
    with pytest.raises(InputError, match=says):
        open_media(HEADS[name], name="x")
    with pytest.raises(InputError, match=says):
        check_media(io.BytesIO(HEADS[name]), "x")


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
        b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1",
        b"\x89PNG\r\n\x1a\n",
    ],
)
def test_avif_and_others_need_none(head: bytes) -> None:
    assert plugins.plugin_for(head) is None


@pytest.mark.parametrize("size", [(64, 48), (40, 8), (1920, 1080), (1000, 1), (9, 700), (512, 512)])
@pytest.mark.parametrize("boxes", [False, True])
def test_the_size_in_a_jpeg_xl_header(size: tuple[int, int], boxes: bool) -> None:
    data = written("JXL", Image.new("RGB", size), use_container=boxes, lossless=True, effort=1)
    assert plugins.declared_size(data[:4096]) == size


def test_a_huge_jpeg_xl_is_refused_before_it_is_decoded() -> None:
    pytest.importorskip("pillow_jxl")
    bits = 0b0 | 3 << 1 | (40000 - 1) << 3 | 1 << 33  # the height in 30 bits, the width the same
    with pytest.raises(InputError, match="40000x40000 exceeds 178 megapixels"):
        open_media(b"\xff\x0a" + bits.to_bytes(16, "little"), name="x")


@pytest.mark.parametrize("kind", ["HEIF", "JXL"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = written(kind, Image.fromarray(noise), quality=90)
    with pytest.raises(InputError, match=r"^x: "), MediaWorker() as worker:
        worker.open(io.BytesIO(data[: int(len(data) * share)]), Sampling(), "x")
