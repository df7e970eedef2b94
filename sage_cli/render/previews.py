"""Small JPEG copies of opened pictures and clips, for pages that hold all that they show."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_cli.console import display_name

if TYPE_CHECKING:
    from PIL import Image

    from sage_core.media import Clip, Picture

__all__ = ["is_page", "preview"]

_PIXELS = 2**20  # of all copies in a page: some 300 KB of JPEG, at most about 1 MB
_PICTURE = 640 * 640  # most pixels of a picture
_FRAME = 320 * 320  # most pixels of a frame
_FRAMES = 24  # most frames of all clips in a page
_SIDE = 4096  # longest side: one of very thin pictures may exceed what JPEG can hold
_QUALITY = 80


def is_page(path: Path | None) -> bool:
    """Whether a saved view is a page, which shows media, and not a picture."""
    return path is not None and path.suffix.lower() == ".html"


def preview(media: Picture | Clip, files: int = 1) -> dict[str, Any]:
    """One of ``files`` inputs as page data.

    ``name``; ``clip``: whether it is one; ``count``: its sampled frames; ``frames``: copies of the
    picture or of frames that are evenly spread, each with ``src`` (a data URL), ``width`` and
    ``height`` in pixels and ``time`` in seconds (None for a picture).
    """
    from PIL import Image

    from sage_core.media import Clip

    if isinstance(media, Clip):
        count = len(media.frames)
        kept = min(count, max(1, _FRAMES // files))
        share = min(_FRAME, _PIXELS // (files * kept))
        chosen = [round(i * (count - 1) / max(1, kept - 1)) for i in range(kept)]
        copies = [
            _copy(Image.fromarray(media.frames[i]), share, float(media.timestamps[i]))
            for i in chosen
        ]
    else:
        count, copies = 1, [_copy(media.image, min(_PICTURE, _PIXELS // files), None)]
    return {
        "name": display_name(media.name),
        "clip": isinstance(media, Clip),
        "count": count,
        "frames": copies,
    }


def _copy(image: Image.Image, pixels: int, time: float | None) -> dict[str, Any]:
    from sage_core.media.types import fit

    width, height = fit(*image.size, max(1, pixels))
    size = min(width, _SIDE), min(height, _SIDE)
    stream = io.BytesIO()
    image.resize(size, reducing_gap=2.0).save(stream, "JPEG", quality=_QUALITY)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    src = f"data:image/jpeg;base64,{data}"
    return {"src": src, "width": size[0], "height": size[1], "time": time}
