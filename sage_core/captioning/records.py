"""Results and failures as JSON objects: the schema of docs/output.md, version 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sage_core.captioning.subtitles import timed_lines
from sage_core.errors import (
    InputError,
    MemoryExhaustedError,
    ModelError,
    OptionError,
    SageError,
    kind_of,
)

if TYPE_CHECKING:
    from sage_core.captioning.film import Film, Segment
    from sage_core.pipeline import Pipeline
    from sage_core.stream import Result

__all__ = [
    "SCHEMA",
    "error_of",
    "failure_record",
    "film_record",
    "result_record",
    "segment_record",
]

SCHEMA = 1
"""Version of the format. Within a version fields may be added; none is changed or removed."""


def result_record(
    result: Result, *, files: Sequence[str], pipeline: Pipeline, seed: int, key: str | None = None
) -> dict[str, Any]:
    """The object of one result. ``files`` are the inputs as the user named them."""
    record = {
        "schema": SCHEMA,
        "files": list(files),
        "prompt": result.prompt,
        "text": result.text,
        "finish_reason": result.finish_reason,
        "context_reached": result.context_reached,
        "models": {"target": pipeline.target_id, "draft": pipeline.draft_id},
        "device": pipeline.device,
        "dtype": pipeline.dtype,
        "policy": result.policy,
        "seed": seed,
        "sampling": None if result.sampling is None else dict(result.sampling),
        "lossy": result.lossy,
        "reproducible": result.reproducible,
        "edits": None if result.edits is None else dict(result.edits),
        "tokens": list(result.tokens),
        "stats": result.stats.as_dict(),
    }
    return record if key is None else {**record, "key": key}


def film_record(
    film: Film, *, files: Sequence[str], pipeline: Pipeline, seed: int, key: str | None = None
) -> dict[str, Any]:
    """The object of a video that was described in segments."""
    results = [one.result for one in film.segments if one.result is not None]
    lines, whole = timed_lines(film.cues), film.summary
    reasons = [one.finish_reason for one in results] + ([whole.finish_reason] if whole else [])
    record = {
        **result_record(results[0], files=files, pipeline=pipeline, seed=seed, key=key),
        "text": lines if whole is None else f"{lines}\n\n{whole.text.strip()}",
        "finish_reason": next((one for one in reasons if one != "eos"), "eos"),
        "context_reached": next((n for one in results if (n := one.context_reached)), None),
        "tokens": [] if whole is None else list(whole.tokens),
        "stats": film.stats.as_dict(),
        "segments": [segment_record(one) for one in film.segments],
    }
    return record if whole is None else {**record, "summary": whole.text}


def segment_record(segment: Segment) -> dict[str, Any]:
    """The object of one segment."""
    part = {"start": segment.start, "end": segment.end}
    if segment.result is None:
        error = segment.error or ValueError("not described")
        return {**part, "error": failure_record(error, files=())["error"]}
    return {
        **part,
        "text": segment.result.text,
        "finish_reason": segment.result.finish_reason,
        "new_tokens": segment.result.stats.new_tokens,
        "tokens": list(segment.result.tokens),
        "seconds": segment.seconds,
    }


def failure_record(
    error: BaseException, *, files: Sequence[str], key: str | None = None
) -> dict[str, Any]:
    """The object of files without a result; it has ``error`` in place of ``text``."""
    record = {
        "schema": SCHEMA,
        "files": list(files),
        "error": {"kind": kind_of(error), "message": " ".join(str(error).split())},
    }
    return record if key is None else {**record, "key": key}


_ERRORS: Mapping[str, type[SageError]] = MappingProxyType(
    {"usage": OptionError, "input": InputError, "model": ModelError, "memory": MemoryExhaustedError}
)


def error_of(record: Mapping[str, Any]) -> Exception:
    """The error that a failure's record tells of."""
    error = record["error"]
    return _ERRORS.get(error["kind"], RuntimeError)(error["message"])
