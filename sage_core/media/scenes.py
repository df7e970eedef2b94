"""Scene cuts by PySceneDetect (extra ``scenes``), on small frames that come one by one.

PySceneDetect opens files itself as well, but then with every protocol and container of FFmpeg, and
without the index that tells a part's frames. Its detector is used alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec

import numpy as np

from sage_core.errors import OptionError

PIXELS = 256 * 144
"""Of a frame: enough for the mean change of colours, which is what cuts are found by."""


def require_scenes() -> None:
    """Raises:
    OptionError: PySceneDetect is not installed.
    """
    if find_spec("scenedetect") is None:
        raise OptionError("scenes need the extra 'scenes': pip install 'sage-vlm[scenes]'")


def cuts(frames: Iterable[np.ndarray], fps: float) -> Iterator[int]:
    """The numbers of those frames that begin a scene, counted from 0; the first is none.

    ``frames`` are uint8 of shape (height, width, 3), RGB, of one size. Whether a frame is a cut
    depends on it and the one before it only.
    """
    require_scenes()
    try:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import ContentDetector
    except ImportError as error:  # OpenCV without a library of the system, such as libGL
        raise OptionError(
            f"PySceneDetect cannot be loaded ({error}): pip install opencv-python-headless in "
            "place of opencv-python"
        ) from error

    # Short scenes are joined later, by their length in seconds.
    detector = ContentDetector(min_scene_len=0)
    for number, frame in enumerate(frames):
        bgr = np.ascontiguousarray(frame[..., ::-1])
        if detector.process_frame(FrameTimecode(number, fps), bgr):
            yield number
