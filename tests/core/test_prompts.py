"""Prompts with placeholders, descriptions in metadata, presets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sage_core.captioning.descriptions import description, xmp_description
from sage_core.captioning.presets import builtin_presets, parse_presets
from sage_core.captioning.prompts import PromptTemplate
from sage_core.errors import InputError, OptionError

XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>
<rdf:li xml:lang="de">Ein Hund</rdf:li><rdf:li xml:lang="x-default">A dog &amp; 狗</rdf:li>
</rdf:Alt></dc:description></rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>   \0"""
SHORT = (
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'xmlns:dc="http://purl.org/dc/elements/1.1/" dc:description=" A cat "/></rdf:RDF>'
)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("What is it?", "What is it?"),
        ("{name} {stem} {parent} {index}", "a b.jpg a b photos 7"),
        ("in {dir}.", "in {folder}."),
        ('{{name}} is {name}: {"a": {"b": 1}} {} {0}', '{name} is a b.jpg: {"a": {"b": 1}} {} {0}'),
        ("[{sidecar}] [{description}]", "[] []"),
    ],
)
def test_placeholders(tmp_path: Path, text: str, filled: str) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    template = PromptTemplate(text)
    wanted = filled.replace("{folder}", str(folder))
    assert template.fill(str(folder / "a b.jpg"), 7) == wanted


def test_an_unknown_placeholder_is_refused() -> None:
    with pytest.raises(OptionError, match=r"unknown placeholder \{file\}.*\{stem\}.*\{\{file\}\}"):
        PromptTemplate("What is {file}?")


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    assert PromptTemplate("{name}").fill(name, 1) == "\N{REPLACEMENT CHARACTER}.jpg"


@pytest.mark.parametrize("name", ["a.txt", "a.caption", "a.jpg.txt"])
def test_the_sidecar(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\ufeffdog, {name}, 狗\n", encoding="utf-8")
    filled = PromptTemplate("Tags: {sidecar}.").fill(str(tmp_path / "a.jpg"), 1)
    assert filled == "Tags: dog, {name}, 狗."


@pytest.mark.parametrize("data", [b"\xff\xfe", b"x" * 70_000])
def test_a_sidecar_that_cannot_be_read(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.txt"):
        PromptTemplate("{sidecar}").fill(str(tmp_path / "a.jpg"), 1)


def _with(kind: str) -> dict[str, Any]:
    """Arguments of Pillow's ``save`` for a picture with a description."""
    if kind == "exif":
        exif = Image.Exif()
        exif[270] = "A dog & 狗".encode()
        return {"format": "JPEG", "exif": exif}
    if kind == "tiff":
        return {"format": "TIFF", "tiffinfo": {700: XMP.encode()}}
    if kind == "png":
        texts = PngInfo()
        texts.add_itxt("XML:com.adobe.xmp", XMP)
        return {"format": "PNG", "pnginfo": texts}
    if kind == "png text":
        texts = PngInfo()
        texts.add_itxt("Description", "A dog & 狗")
        return {"format": "PNG", "pnginfo": texts}
    return {"format": kind, "xmp": XMP.encode()}


@pytest.mark.parametrize("kind", ["exif", "tiff", "png", "png text", "JPEG", "WEBP"])
def test_descriptions_in_pictures(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    with path.open("wb") as file:
        Image.new("RGB", (8, 8)).save(file, **_with(kind))
    assert description(path) == "A dog & 狗"


def test_iptc(tmp_path: Path) -> None:
    def dataset(number: int, value: bytes) -> bytes:
        return b"\x1c\x02" + bytes([number]) + len(value).to_bytes(2, "big") + value

    iptc = dataset(120, "Größe".encode("latin-1")) + dataset(5, b"a")
    resource = b"8BIM\x04\x04\x00\x00" + len(iptc).to_bytes(4, "big") + iptc
    segment = b"Photoshop 3.0\0" + resource
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    data = path.read_bytes()
    size = (len(segment) + 2).to_bytes(2, "big")
    path.write_bytes(data[:2] + b"\xff\xed" + size + segment + data[2:])
    assert description(path) == "Größe"


@pytest.mark.parametrize("name", ["a.xmp", "a.jpg.xmp"])
def test_an_xmp_file_beside_comes_first(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[270] = "inside"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    assert description(path) == "inside"
    (tmp_path / name).write_text(SHORT)
    assert description(path) == "A cat"
    (tmp_path / name).write_text("<a>")
    with pytest.raises(InputError, match=rf"{name}: not XMP"):
        description(path)


def test_what_cameras_write_is_no_description(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[270] = "OLYMPUS DIGITAL CAMERA         "
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    assert description(path) == ""


def test_xmp_is_found_at_the_end_of_a_large_file(tmp_path: Path) -> None:
    """In any format; a packet that is damaged, cut or without a description is passed over."""
    path = tmp_path / "a.mp4"
    empty = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>"
    path.write_bytes(
        b"<x:xmpmeta></x:xmpmeta>"
        + empty
        + b"\0" * 5_000_000
        + XMP.encode()
        + b"<x:xmpmeta" * 90_000
    )
    assert description(path) == "A dog & 狗"


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"<x:xmpmeta" * 9, b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]
)
def test_damaged_pictures_have_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    assert description(path) == ""


@pytest.mark.parametrize(
    "data",
    [
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        b"<a>&b;</a>",
        b"\xff\xfe<\0a\0",
        b"<a>",
    ],
)
def test_xmp_that_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        xmp_description(data)


def test_deeply_nested_xmp_is_read() -> None:
    depth = 200_000
    assert xmp_description(b"<a>" * depth + b"</a>" * depth) == ""


def test_presets() -> None:
    presets = builtin_presets()
    assert {"short", "long", "tags", "training", "alt-text", "ocr"} <= set(presets)
    assert all(PromptTemplate(str(p.prompt)).text for p in presets.values())
    own = parse_presets({"a": "Say it.", "b": {"seed": 3}}, "sage.toml")
    assert (own["a"].prompt, own["b"].prompt, own["b"].options) == ("Say it.", None, {"seed": 3})


@pytest.mark.parametrize("table", [3, {"a": 3}, {"a": " "}, {"a": {}}, {"a": {"prompt": 1}}])
def test_presets_that_are_none(table: Any) -> None:
    with pytest.raises(OptionError, match=r"sage\.toml"):
        parse_presets(table, "sage.toml")
