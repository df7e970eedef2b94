"""The description that a picture already has: in XMP, IPTC or EXIF. Pictures are not decoded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from sage_core.errors import InputError
from sage_core.files.reading import read_bytes

__all__ = ["description", "xmp_description"]

_XMP_LIMIT = 4 * 1024**2
_LONGEST = 16 * 1024
"""Characters of a description; the rest is left out."""
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")
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
    """The description in a file. Damage is found and reported when the picture is decoded."""
    from PIL import Image

    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats) as image:
                return next(filter(None, (find(image) for find in (_xmp, _iptc, _exif, _png))), "")
    except Exception:
        return ""


def _xmp(image: Any) -> str:
    data = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    data = data.encode() if isinstance(data, str) else bytes(data)
    try:
        return xmp_description(data) if 0 < len(data) <= _XMP_LIMIT else ""
    except ValueError:
        return ""


def _iptc(image: Any) -> str:
    from PIL.IptcImagePlugin import getiptcinfo

    value = (getiptcinfo(image) or {}).get(_IPTC_CAPTION, b"")
    return _text(value[0] if isinstance(value, list) else value)


def _exif(image: Any) -> str:
    text = _text(image.getexif().get(_EXIF_DESCRIPTION, ""))
    return "" if text.upper() in _CAMERAS else text


def _png(image: Any) -> str:
    return _text(image.info.get("Description", ""))


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
