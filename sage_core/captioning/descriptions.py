"""The description that a picture already has: in XMP, IPTC or EXIF. Pictures are not decoded."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sage_core.errors import InputError
from sage_core.files.reading import read_bytes

__all__ = ["description", "xmp_description"]

_XMP_LIMIT = 4 * 1024**2
_LONGEST = 16 * 1024
"""Characters of a description; the rest is left out."""
_SCANNED = 2 * 1024**2
"""Bytes at the beginning and at the end of a file in which XMP is looked for."""
_PACKET, _PACKET_END = b"<x:xmpmeta", b"</x:xmpmeta>"
_CAMERAS = frozenset(
    ("OLYMPUS DIGITAL CAMERA", "SONY DSC", "MINOLTA DIGITAL CAMERA", "DCIM", "DIGITAL CAMERA")
)
"""What cameras write as the description of every picture."""
_PADDING = "\0 \n\r\t"
_DC = "{http://purl.org/dc/elements/1.1/}description"
_LI = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_IPTC_CAPTION = (2, 120)
_EXIF_DESCRIPTION = 270


def description(path: Path) -> str:
    """The description of a picture; empty if it has none.

    That of ``NAME.xmp`` or ``NAME.jpg.xmp`` beside it comes first, then those in the file: XMP,
    IPTC, EXIF, text in PNG.

    Raises:
        InputError: the XMP file cannot be read, or is none.
    """
    for beside in (path.with_suffix(".xmp"), path.with_name(path.name + ".xmp")):
        if beside != path and beside.is_file():
            data = read_bytes(beside, limit=_XMP_LIMIT)
            try:
                return xmp_description(data)
            except ValueError as error:
                raise InputError(f"{beside}: not XMP ({error}): correct or remove it") from error
    return _inside(path)


def _inside(path: Path) -> str:
    """The description in a file. Damage is found and reported when it is decoded."""
    try:
        return _embedded_xmp(path) or _metadata(path) if path.is_file() else ""
    except OSError:
        return ""


def _embedded_xmp(path: Path) -> str:
    """XMP of any format, by scanning for its packets (XMP part 3), in which it is plain text."""
    with path.open("rb") as file:
        data = file.read(_SCANNED)
        file.seek(max(file.tell(), path.stat().st_size - _SCANNED))
        data += file.read(_SCANNED)
    start, end = data.find(_PACKET), 0
    while start >= 0 and (end := data.find(_PACKET_END, start)) >= 0:
        with suppress(ValueError):
            if found := xmp_description(data[start : end + len(_PACKET_END)]):
                return found
        start = data.find(_PACKET, end)
    return ""


def _metadata(path: Path) -> str:
    """IPTC, EXIF or text, in formats of which Pillow reads these in Python: a library that crashes
    would end the run."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("JPEG", "PNG", "TIFF")) as image:
                return _iptc(image) or _exif(image) or _text(image.info.get("Description", ""))
    except Exception:
        return ""


def _iptc(image: Any) -> str:
    from PIL.IptcImagePlugin import getiptcinfo

    value = (getiptcinfo(image) or {}).get(_IPTC_CAPTION, b"")
    return _text(value[0] if isinstance(value, list) else value)


def _exif(image: Any) -> str:
    text = _text(image.getexif().get(_EXIF_DESCRIPTION, ""))
    return "" if text.upper() in _CAMERAS else text


def _text(value: Any) -> str:
    """Metadata as text: UTF-8 if it is, else Latin-1, which Pillow takes it for."""
    data = value
    if isinstance(value, str):
        try:
            data = value.encode("latin-1")
        except UnicodeEncodeError:
            return value.strip(_PADDING)[:_LONGEST]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return str(text.strip(_PADDING)[:_LONGEST])


def xmp_description(data: bytes) -> str:
    """``dc:description`` of an XMP packet, in its default language; empty if it has none.

    Raises:
        ValueError: not XML in UTF-8, or with a document type, which XMP does not have and which
            could define entities without bound.
    """
    text = data.decode("utf-8-sig").strip(_PADDING)
    if "<!DOCTYPE" in text:
        raise ValueError("it has a document type")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error
    for element in root.iter():
        if _DC in element.attrib:
            return element.attrib[_DC].strip()[:_LONGEST]
        if element.tag == _DC:
            items = {item.get(_LANG, ""): item.text or "" for item in element.iter(_LI)}
            found = items.get("x-default") or next(iter(items.values()), element.text or "")
            return found.strip()[:_LONGEST]
    return ""
