"""Results as JSON: the schema of docs/output.md, version 1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sage_cli.exit_codes import code_of, kind_of

if TYPE_CHECKING:
    from sage_core import Pipeline, Result

__all__ = ["SCHEMA", "dump", "failure_object", "result_object"]

SCHEMA = 1
"""Version of the format. Within a version fields may be added; none is changed or removed."""


def result_object(
    result: Result, *, files: tuple[str, ...], pipeline: Pipeline, seed: int
) -> dict[str, Any]:
    """The object of one result. ``files`` are the inputs as the user named them."""
    return {
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
        "tokens": list(result.tokens),
        "stats": result.stats.as_dict(),
    }


def failure_object(error: BaseException, *, files: tuple[str, ...]) -> dict[str, Any]:
    """The object of files without a result; it has ``error`` in place of ``text``."""
    return {
        "schema": SCHEMA,
        "files": list(files),
        "error": {
            "kind": kind_of(error),
            "exit_code": int(code_of(error)),
            "message": " ".join(str(error).split()),
        },
    }


def dump(data: Mapping[str, Any] | list[Any], *, indent: int | None = None) -> str:
    """JSON in ASCII, safe for every terminal, locale and file name."""
    return json.dumps(data, indent=indent, allow_nan=False)
