"""The machine and the versions of a measurement, for its report."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import Any

from sage_core.models.devices import processor, version_of

PACKAGES = ("torch", "transformers", "numpy")


def describe(command: str, version: str) -> dict[str, Any]:
    """Date, command, machine and versions, as plain data.

    Args:
        command: what was run.
        version: of sage.
    """
    import torch

    described: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {"sage": version, **{name: version_of(name) for name in PACKAGES}},
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described
