"""Clips by decord: fast, but only as right as the file is simple.

decord 0.6 counts frames instead of reading their times. Where a keyframe is followed by frames that
are shown before it (open groups of pictures, the default of x265), where an edit list leaves frames
out, and in MPEG streams, it is off by some frames after a jump and does not notice. So it jumps
only in files whose headers rule that out, and otherwise reads in order.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.media.containers.probe import Facts
from sage_core.media.frame_sampling import check_shape, choose_frames
from sage_core.media.types import Clip, Sampling, fit
from sage_core.media.video_timeline import (
    DAMAGED,
    EMPTY,
    NO_PICTURES,
    UnreadableError,
    stacked,
    timeline,
)

LARGEST_FILE = 256 * 2**20
"""Bytes. decord passes over a whole file to open it; a larger one is left to PyAV."""

_STDERR = threading.Lock()
"""Held while file descriptor 2 points elsewhere."""
_NATIVE = re.compile(rb"(?m)^\[(\d\d:\d\d:\d\d|[\w,]+ @ 0x[0-9a-f]+)\] .*\n?")
"""A line of decord's, ``[12:00:00] video_reader.cc:7: ...``, or FFmpeg's, ``[mov @ 0x1f] ...``."""
_MADE_UP = b"recovered from nearest frames"


def is_exact(facts: Facts) -> bool:
    """True if decord can jump in the file and hit the right frames."""
    track = facts.video
    return track is not None and track.closed and not track.turn.mirrored


def read(source: Path | bytes, facts: Facts, sampling: Sampling, name: str) -> Clip:
    """Decode the sampled frames.

    Raises:
        UnreadableError: decord cannot, or would get the wrong frames.
        InputError: absurdly large, or the sampling lies outside.
        ImportError: decord is not installed.
    """
    import decord

    if facts.kind == "other" or any(t.edited or t.turn.mirrored for t in facts.tracks):
        raise UnreadableError("this kind of clip needs PyAV: pip install av", final=True)
    decord.logging.set_level(decord.logging.QUIET)  # FFmpeg's own lines
    # Frames that it cannot decode decord replaces by others. It says so on descriptor 2 alone.
    os.environ.setdefault("DECORD_DUPLICATE_WARNING_THRESHOLD", "0.0")
    failures = (RuntimeError, decord.DECORDError, AssertionError, IndexError, StopIteration)
    reader: Any = None
    said = bytearray()
    try:
        reader = _open(decord, source)
        with _heard_stderr(said):
            times = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
            height, width = _tight(reader[0]).shape[:2]
    except failures as error:
        raise UnreadableError(_reason(error), final=reader is not None) from error
    check_shape(width, height, name)
    _check_count(times, facts)
    starts, duration, fps = timeline(times[:, 0], float(times[-1, 1]), reader.get_avg_fps())
    chosen = choose_frames(starts, duration, sampling, name)
    size = fit(width, height, sampling.largest_frame(len(chosen)))
    try:
        if size != (width, height):
            reader = _open(decord, source, *size)
        with _heard_stderr(said):
            found = _jumping(reader, chosen) if is_exact(facts) else _in_order(reader, chosen)
            frames = stacked(found, len(chosen))
    except failures as error:
        raise UnreadableError(_reason(error), final=True) from error
    if _MADE_UP in said:
        raise UnreadableError(DAMAGED, final=True)
    return Clip(frames, starts[chosen], fps, duration, name)


def _open(decord: Any, source: Path | bytes, width: int = -1, height: int = -1) -> Any:
    # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    if isinstance(opened, str) and not _is_utf8(opened):
        opened = io.BytesIO(Path(opened).read_bytes())
    threads = min(4, os.cpu_count() or 1)
    with _heard_stderr(bytearray()):
        return decord.VideoReader(opened, width=width, height=height, num_threads=threads)


def _is_utf8(path: str) -> bool:
    """False for a file name that decord cannot be given."""
    try:
        return bool(path.encode("utf-8"))
    except UnicodeEncodeError:
        return False


@contextmanager
def _heard_stderr(said: bytearray) -> Iterator[None]:
    """Collect in ``said`` what native code writes to file descriptor 2, past `sys.stderr`.

    The descriptor belongs to the whole process: one thread at a time, and what others write
    meanwhile is passed on afterwards.
    """
    with _STDERR, tempfile.TemporaryFile() as page:
        try:
            saved = os.dup(2)
        except OSError:  # closed already: nobody listens
            yield
            return
        try:
            os.dup2(page.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            page.seek(0)
            said += page.read()
            with suppress(OSError):
                os.write(saved, _NATIVE.sub(b"", said))
            os.close(saved)


def _check_count(times: np.ndarray, facts: Facts) -> None:
    """Refuse a file whose frames decord counts differently from its headers."""
    stamps = facts.video.stamps if facts.video is not None else None
    if stamps is not None and len(times) != len(stamps.shown):
        raise UnreadableError(DAMAGED)


def _jumping(reader: Any, chosen: np.ndarray) -> Iterator[np.ndarray]:
    for index in chosen:
        yield _tight(reader[int(index)])


def _in_order(reader: Any, chosen: np.ndarray) -> Iterator[np.ndarray]:
    wanted = set(chosen.tolist())
    reader.seek(0)
    for index in range(int(chosen[-1]) + 1):
        frame = reader.next()
        if index in wanted:
            yield _tight(frame)


def _tight(frame: Any) -> np.ndarray:
    """uint8 (height, width, 3). decord gives narrow frames with the padding of FFmpeg's rows."""
    pixels: np.ndarray = frame.asnumpy()
    height, width, channels = pixels.shape
    if channels > 3:
        pixels = pixels.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
    return np.ascontiguousarray(pixels)


def _reason(error: Exception) -> str:
    """decord's messages are stack traces: say instead which of a few things happened."""
    if "cannot find video stream" in str(error):
        return NO_PICTURES
    if isinstance(error, AssertionError | IndexError | StopIteration):
        return EMPTY
    return DAMAGED
