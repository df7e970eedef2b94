"""Clips by decord, or by PyAV where decord cannot read them: a few frames, decoded small."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sage_core.errors import InputError
from sage_core.media.frames import check_shape, choose_frames
from sage_core.media.types import Clip, Sampling, fit

DAMAGED = "the clip is damaged, cut off or of an unknown format: get a whole copy or convert it"
EMPTY = "the clip has no frames: get a whole copy"
NO_PICTURES = "there are no pictures in it, only sound or data: give a picture or a video"

_STDERR = threading.Lock()
"""Held while file descriptor 2 points elsewhere."""


class _Unreadable(Exception):
    """A decoder gave up; ``args[0]`` says why and what to do. ``final``: another would not help."""

    def __init__(self, message: str, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


Reader = Callable[[Path | bytes, Sampling, str], Clip]


def read_clip(source: Path | bytes, sampling: Sampling, name: str) -> Clip:
    """Decode the sampled frames of a video.

    decord is tried first; what it refuses (AV1, odd containers) goes to PyAV if that is there.

    Raises:
        InputError: damaged, cut off, without pictures, absurdly large, the sampling lies outside,
            or no decoder is installed that knows it.
    """
    failures: list[_Unreadable] = []
    missing: list[str] = []
    readers: tuple[tuple[str, Reader], ...] = (("decord", _by_decord), ("av", _by_pyav))
    for module, reader in readers:
        try:
            return reader(source, sampling, name)
        except ImportError:
            missing.append(module)
        except _Unreadable as failure:
            failures.append(failure)
            if failure.final:
                break
    if not failures:
        raise InputError(f"{name}: no video decoder is installed: pip install decord")
    hint = "" if failures[-1].final or "av" not in missing else " (AV1 also needs: pip install av)"
    raise InputError(f"{name}: {failures[-1]}{hint}") from failures[-1].__cause__


def _by_decord(source: Path | bytes, sampling: Sampling, name: str) -> Clip:
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # FFmpeg's own lines on descriptor 2
    failures = (RuntimeError, decord.DECORDError, AssertionError, IndexError, StopIteration)
    reader: Any = None
    try:
        reader = _decord_reader(decord, source)
        times = np.asarray(reader.get_frame_timestamp(range(len(reader))), dtype=np.float64)
        height, width = reader[0].shape[:2]
    except failures as error:
        # It stumbles over the end of transport streams, which PyAV reads; other damage is damage.
        final = reader is not None and "Unable to handle EOF" not in str(error)
        raise _Unreadable(_reason(error), final) from error
    check_shape(width, height, name)
    times, duration, fps = _timeline(times[:, 0], float(times[-1, 1]), reader.get_avg_fps())
    chosen = choose_frames(times, duration, sampling, name)
    size = fit(width, height, sampling.largest_frame)
    try:
        if size != (width, height):
            reader = _decord_reader(decord, source, *size)
        frames = reader.get_batch(chosen).asnumpy()
    except failures as error:
        raise _Unreadable(_reason(error), final=True) from error
    return Clip(np.ascontiguousarray(frames[..., :3]), times[chosen], fps, duration, name)


def _decord_reader(decord: Any, source: Path | bytes, width: int = -1, height: int = -1) -> Any:
    # An absolute path: FFmpeg would take "a:b.mp4" for a protocol.
    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    if isinstance(opened, str) and not _is_utf8(opened):
        opened = io.BytesIO(Path(opened).read_bytes())
    with _silent_stderr():
        return decord.VideoReader(opened, width=width, height=height, num_threads=_threads())


def _is_utf8(path: str) -> bool:
    """False for a file name that decord cannot be given."""
    try:
        return bool(path.encode("utf-8"))
    except UnicodeEncodeError:
        return False


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Point file descriptor 2 at nothing: decord's native code logs there, past `sys.stderr`.

    The descriptor belongs to the whole process, so this is held only while a file is opened, which
    is when decord logs, and by one thread at a time.
    """
    with _STDERR:
        try:
            saved = os.dup(2)
        except OSError:  # closed already: nothing to silence
            yield
            return
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nothing, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nothing)


def _threads() -> int:
    return min(4, os.cpu_count() or 1)


def _timeline(times: np.ndarray, end: float, fps: float) -> tuple[np.ndarray, float, float]:
    """Times from 0, the duration and the rate, with what broken headers leave out filled in."""
    if not np.isfinite(fps) or fps <= 0:
        fps = 25.0
    if not np.all(np.isfinite(times)) or np.any(np.diff(times) < 0):
        times = np.arange(len(times)) / fps
        end = len(times) / fps
    first = float(times[0])
    duration = max(end - first, float(times[-1]) - first + 1 / fps)
    return times - first, duration, float(fps)


def _by_pyav(source: Path | bytes, sampling: Sampling, name: str) -> Clip:
    import av

    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source.absolute())
    try:
        with av.open(opened, "r", metadata_errors="replace") as container:
            if not container.streams.video:
                raise _Unreadable(NO_PICTURES, final=True)
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise _Unreadable("its codec is not known here: convert it to H.264", final=True)
            check_shape(stream.width or 1, stream.height or 1, name)
            stamps = []
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _Unreadable(DAMAGED, final=True)
                if packet.pts is not None and packet.time_base is not None:
                    stamps.append(float(packet.pts * packet.time_base))
            if len(stamps) < stream.frames:
                raise _Unreadable(DAMAGED, final=True)
        if not stamps:
            raise _Unreadable(EMPTY, final=True)
        rate = float(stream.average_rate or 0)
        order = np.sort(np.asarray(stamps))
        step = 1 / rate if rate > 0 else 0.04
        times, duration, fps = _timeline(order, float(order[-1]) + step, rate)
        chosen = choose_frames(times, duration, sampling, name)
        frames = _pyav_frames(av, opened, chosen, sampling)
    except av.FFmpegError as error:
        raise _Unreadable(DAMAGED) from error
    if len(frames) < len(chosen):
        raise _Unreadable(DAMAGED)
    return Clip(np.stack(frames), times[chosen], fps, duration, name)


def _pyav_frames(
    av: Any, opened: io.BytesIO | str, chosen: np.ndarray, sampling: Sampling
) -> list[np.ndarray]:
    """Decode in order and keep the frames whose index was chosen: (height, width, 3) uint8 each."""
    if isinstance(opened, io.BytesIO):
        opened.seek(0)
    wanted = {int(index) for index in chosen}
    kept: list[np.ndarray] = []
    with av.open(opened, "r", metadata_errors="replace") as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                width, height = fit(frame.width, frame.height, sampling.largest_frame)
                kept.append(frame.to_ndarray(width=width, height=height, format="rgb24"))
            if len(kept) == len(wanted):
                break
    return kept


def _reason(error: Exception) -> str:
    """decord's messages are stack traces: say instead which of a few things happened."""
    if "cannot find video stream" in str(error):
        return NO_PICTURES
    if isinstance(error, AssertionError | IndexError | StopIteration):
        return EMPTY
    return DAMAGED
