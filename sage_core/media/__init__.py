"""Images and videos: files, bytes or Pillow images in, upright RGB images or sampled frames out.

Belongs here: file formats, decoding, orientation, frame times, frame sampling, limits of size. Must
not: anything of a model. Resizing to a model's input, tiles and placeholders belong to
`models.families`, which pass their limits in as a `Sampling`.
"""

from sage_core.media.isolate import MediaLimits, MediaWorker
from sage_core.media.open import Opener, check_media, is_url, open_media
from sage_core.media.types import Clip, FrameRate, Picture, Sampling

__all__ = [
    "Clip",
    "FrameRate",
    "MediaLimits",
    "MediaWorker",
    "Opener",
    "Picture",
    "Sampling",
    "check_media",
    "is_url",
    "open_media",
]
