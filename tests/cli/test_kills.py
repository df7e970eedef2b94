"""A run over many files that is killed again and again loses and repeats nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

FILES, KILLS = 200, 10
TAKES = 120.0
"""Seconds in which something must have been written."""


@pytest.fixture
def folder() -> Path:
    root, chance = Path("pictures"), random.Random(3)
    for number in range(FILES):
        path = root / f"{number % 4}" / f"picture {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = tuple(chance.randrange(256) for _ in range(3))
        image = Image.new("RGB", (24, 24), colours)
        image.paste(tuple(chance.randrange(256) for _ in range(3)), (4, 4, 12, 20))
        image.save(path)
    return root


def start(output: str, *more: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "sage_cli",
        "caption",
        "pictures",
        "-r",
        "--max-new-tokens",
        "4",
    ]
    command += ["--jsonl", "--output", output, "--resume", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def texts(path: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in Path(path).read_text().splitlines():
        record = json.loads(line)
        (name,) = record["files"]
        assert name not in found, f"{name} is there twice"
        found[name] = record["text"]
    return found


@pytest.mark.slow
def test_killed_ten_times_every_file_is_there_once(folder):
    chance = random.Random(7)
    output = Path("killed.jsonl")
    for _ in range(KILLS):
        before, run = size(output), start(str(output), "--sidecar", "txt")
        end = time.monotonic() + TAKES
        while size(output) == before and run.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        time.sleep(chance.random() * 0.15)
        run.send_signal(signal.SIGKILL)
        run.wait()
    assert start(str(output), "--sidecar", "txt").wait() == 0
    assert start("whole.jsonl").wait() == 0
    found = texts("killed.jsonl")
    assert found == texts("whole.jsonl") and len(found) == FILES
    sidecars = {path: path.read_text() for path in folder.rglob("*.txt")}
    assert sidecars == {Path(name).with_suffix(".txt"): f"{text}\n" for name, text in found.items()}
    assert len(list(folder.rglob("*"))) == 2 * FILES + 4  # nothing else is left there
