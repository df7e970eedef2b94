"""Video frames by decord, in files where it finds the right ones.

decord 0.6 finds frames by counting them. After a seek it is off by some frames where a keyframe is
followed by frames that are presented before it (open GOPs, the default of x265), where an edit list
leaves frames out, and in MPEG streams.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.media.types import fit
from sage_core.media.video_index import (
    LARGE_FILE,
    Orientation,
    VideoIndex,
    ffmpeg_source,
    stack_frames,
)
from sage_core.media.video_packets import CORRUPT, MATROSKA, UnreadableError

_STDERR = threading.Lock()
"""Held while file descriptor 2 is redirected."""
_LOG_LINE = re.compile(rb"(?m)^\[(\d\d:\d\d:\d\d|[\w,]+ @ 0x[0-9a-f]+)\] .*\n?")
"""A line of decord's, ``[12:00:00] video_reader.cc:7: ...``, or FFmpeg's, ``[mov @ 0x1f] ...``."""
_REPLACED = b"recovered from nearest frames"
"""decord's message when it returns another frame for one that it cannot decode."""


def is_exact(index: VideoIndex) -> bool:
    """True if decord finds the right frames after a seek and makes them upright.

    It does not mirror frames, nor rotate those of Matroska. It reads the whole file when it opens
    it, so large files are excluded.
    """
    plain = index.orientation == Orientation()
    upright = plain or (index.container != MATROSKA and not index.orientation.flipped)
    return index.seek_by_number and upright and index.file_size <= LARGE_FILE


def decode(
    source: Path | bytes, index: VideoIndex, chosen: np.ndarray, max_pixels: int | None
) -> np.ndarray:
    """The frames ``chosen`` of ``index``, upright: uint8 of shape (chosen, height, width, 3).

    ``chosen`` is int64 of shape (chosen,). Frames have at most ``max_pixels`` pixels.

    Raises:
        UnreadableError: decord cannot read the video or counts other frames than the index.
        ImportError: decord is not installed.
    """
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # FFmpeg's messages
    # decord says on file descriptor 2 only that it returned another frame.
    os.environ.setdefault("DECORD_DUPLICATE_WARNING_THRESHOLD", "0.0")
    size = fit(*index.size, max_pixels)
    output = bytearray()
    try:
        with _captured_stderr(output):
            reader = _open(decord, source, *(size if size != index.size else (-1, -1)))
            if len(reader) != len(index.pts):
                raise UnreadableError(CORRUPT)
            frames = stack_frames((_pixels(reader[int(i)]) for i in chosen), len(chosen))
    except (RuntimeError, decord.DECORDError, AssertionError, IndexError, StopIteration) as error:
        raise UnreadableError(CORRUPT) from error
    if _REPLACED in output:
        raise UnreadableError(CORRUPT)
    return frames


def _open(decord: Any, source: Path | bytes, width: int, height: int) -> Any:
    if isinstance(source, Path) and any("\ud800" <= c <= "\udfff" for c in str(source.absolute())):
        source = source.read_bytes()  # decord accepts file names in UTF-8 only
    return decord.VideoReader(
        ffmpeg_source(source), width=width, height=height, num_threads=min(4, os.cpu_count() or 1)
    )


@contextmanager
def _captured_stderr(output: bytearray) -> Iterator[None]:
    """Collect in ``output`` what native code writes to file descriptor 2, past `sys.stderr`.

    The descriptor belongs to the process: one thread at a time, and lines that neither decord nor
    FFmpeg wrote are passed on afterwards.
    """
    with _STDERR, tempfile.TemporaryFile() as file:
        try:
            saved = os.dup(2)
        except OSError:  # it is closed
            yield
            return
        try:
            os.dup2(file.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            file.seek(0)
            output += file.read()
            with suppress(OSError):
                os.write(saved, _LOG_LINE.sub(b"", output))
            os.close(saved)


def _pixels(frame: Any) -> np.ndarray:
    """uint8 (height, width, 3). decord returns narrow frames with FFmpeg's row padding."""
    pixels: np.ndarray = frame.asnumpy()
    height, width, channels = pixels.shape
    if channels > 3:
        pixels = pixels.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
    return np.ascontiguousarray(pixels)
