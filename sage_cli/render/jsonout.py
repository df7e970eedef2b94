"""JSON documents: the schema of docs/output.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sage_cli.exit_codes import code_of_kind
from sage_core.captioning.records import SCHEMA, failure_record

__all__ = ["SCHEMA", "dump", "failure_object"]


def failure_object(
    error: BaseException, *, files: Sequence[str], key: str | None = None
) -> dict[str, Any]:
    """The record of a failure with the exit code."""
    record = failure_record(error, files=files, key=key)
    kind, message = record["error"]["kind"], record["error"]["message"]
    code = int(code_of_kind(kind))
    return {**record, "error": {"kind": kind, "exit_code": code, "message": message}}


def dump(data: Mapping[str, Any] | list[Any], *, indent: int | None = None) -> str:
    """JSON in ASCII, safe for every terminal, locale and file name."""
    return json.dumps(data, indent=indent, allow_nan=False)
