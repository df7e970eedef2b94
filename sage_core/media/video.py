"""Clips: which decoder reads a file, and one clear line when none can."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sage_core.errors import InputError
from sage_core.media import video_decord as with_decord
from sage_core.media import video_pyav as with_pyav
from sage_core.media.containers.probe import Facts, inspect
from sage_core.media.types import Clip, Sampling
from sage_core.media.video_timeline import NO_PICTURES, UnreadableError

Reader = Callable[[Path | bytes, Facts, Sampling, str], Clip]


def read_clip(source: Path | bytes, sampling: Sampling, name: str) -> Clip:
    """Decode the sampled frames of a video.

    decord goes first where it is known to be right, PyAV elsewhere: see `with_decord`. Each stands
    in for the other where it is missing, as far as it can.

    Raises:
        InputError: damaged, cut off, without pictures, absurdly large, the sampling lies outside,
            or no decoder is installed that knows it.
    """
    try:
        facts = inspect(source)
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    if facts.without_pictures:
        raise InputError(f"{name}: {NO_PICTURES}")
    if missing := facts.missing_bytes:
        raise InputError(
            f"{name}: the clip is cut off, {missing:,} bytes are missing: get a whole copy"
        )
    failures: list[UnreadableError] = []
    missing_modules: list[str] = []
    for module, reader in _readers(facts):
        try:
            return reader(source, facts, sampling, name)
        except ImportError:
            missing_modules.append(module)
        except UnreadableError as failure:
            failures.append(failure)
            if failure.final:
                break
    if not failures:
        raise InputError(f"{name}: no video decoder is installed: pip install decord av")
    helps = "av" in missing_modules and not failures[-1].final
    hint = " (or try: pip install av, which reads more kinds)" if helps else ""
    raise InputError(f"{name}: {failures[-1]}{hint}") from failures[-1].__cause__


def _readers(facts: Facts) -> list[tuple[str, Reader]]:
    readers: list[tuple[str, Reader]] = [("decord", with_decord.read), ("av", with_pyav.read)]
    first = with_decord.is_exact(facts) and facts.size <= with_decord.LARGEST_FILE
    return readers if first else readers[::-1]
