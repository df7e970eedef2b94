"""Results and failures as JSON objects: the schema of docs/output.md, version 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sage_core.errors import (
    InputError,
    MemoryExhaustedError,
    ModelError,
    OptionError,
    SageError,
    kind_of,
)

if TYPE_CHECKING:
    from sage_core.pipeline import Pipeline
    from sage_core.stream import Result

__all__ = ["SCHEMA", "error_of", "failure_record", "result_record"]

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
