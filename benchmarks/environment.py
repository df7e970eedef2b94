"""What a measurement ran on, as Markdown, and results written beside it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import sage_core
from sage_core.bench import environment


def describe(module: str) -> dict[str, Any]:
    """Date, command, machine and versions, as plain data. ``module`` is what was run."""
    command = shlex.join(["python", "-m", module, *sys.argv[1:]])
    return environment.describe(command, sage_core.__version__)


def as_markdown(environment: dict[str, Any]) -> list[str]:
    """The environment as lines of Markdown."""
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    where = environment.get("gpu") or f"{environment['cpu']}, {environment['cores']} cores"
    return [
        f"- {environment['date']}: `{environment['command']}`",
        f"- {where}, {environment['threads']} threads; Python {environment['python']}; {versions}",
    ]


def write(output: str | None, data: dict[str, Any], markdown: str) -> None:
    """Print the Markdown; with ``output`` also write it and the JSON beside each other."""
    print(markdown)
    if output is not None:
        save(output, data, markdown)


def save(output: str, data: dict[str, Any], markdown: str) -> None:
    """Write FILE.json and FILE.md; ``output`` may have either suffix or none."""
    stem = Path(output).with_suffix("") if output.endswith((".json", ".md")) else Path(output)
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    stem.with_suffix(".json").write_text(text, encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown + "\n", encoding="utf-8")
