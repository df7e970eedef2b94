"""What a measurement ran on: written beside every result."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def describe(module: str) -> dict[str, Any]:
    """Date, command, machine and versions, as plain data. ``module`` is what was run."""
    import torch

    import sage_core

    names = ("torch", "transformers", "numpy")
    described: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"sage": sage_core.__version__} | {name: _version(name) for name in names},
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


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
    if output is None:
        return
    stem = Path(output).with_suffix("") if output.endswith((".json", ".md")) else Path(output)
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    stem.with_suffix(".json").write_text(text, encoding="utf-8")
    stem.with_suffix(".md").write_text(markdown + "\n", encoding="utf-8")
