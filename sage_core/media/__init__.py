"""Pictures and clips: from a file, bytes or a Pillow image to what a model family can take."""

from sage_core.media.open import check_media, open_media
from sage_core.media.types import Clip, Picture, Rate, Sampling

__all__ = ["Clip", "Picture", "Rate", "Sampling", "check_media", "open_media"]
