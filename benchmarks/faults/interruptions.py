"""``sage caption`` interrupted at random moments of its life."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ("shapes.png", "chart.png", "two.png", "moving.mp4", "shapes.png", "chart.png")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAIT = 30.0
"""Seconds in which a run must end after its signal."""
WAYS: tuple[tuple[str, ...], ...] = (
    (),
    ("--jsonl",),
    ("--batch", "3"),
    ("--jsonl", "--batch", "3"),
    ("--output", "out"),
    ("--jsonl", "--output", "out"),
    ("--batch", "3", "--output", "out"),
)


@dataclass(frozen=True)
class Interruption:
    """One run: when which signal came, and what was wrong with its end."""

    way: str
    signal: str
    share: float
    """Of the time of a whole run, at which the signal came."""
    repeated: bool
    code: int
    seconds: float
    """From the signal to the end."""
    wrong: str


def start(way: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """A run in ``folder``, whose standard output and error go to files there."""
    paths = [str(ROOT / "examples" / name) for name in FILES]
    command = [sys.executable, "-m", "sage_cli", "caption", *paths, "--max-new-tokens", "16"]
    environment = os.environ | {"SAGE_COSTS": "off", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [*command, *way], cwd=folder, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=errors,
            preexec_fn=_not_ignored,
        )  # fmt: skip


def _not_ignored() -> None:
    """A run in the background inherits that SIGINT is ignored."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def texts(folder: Path) -> bytes:
    """All results that a run left."""
    for name in ("out", "out.partial", "stdout"):
        if (folder / name).is_file() and (folder / name).stat().st_size:
            return (folder / name).read_bytes()
    return b""


class Interrupter:
    """Makes whole runs first, to compare with and to know how long they take.

    ``folder`` holds a folder for each run; ``quick`` tries fewer ways.
    """

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self._folder = folder
        self._ways = WAYS[-2:] if quick else WAYS
        self._whole = cache(self._whole_run)

    def prepare(self) -> None:
        """Make the whole runs."""
        for way in self._ways:
            self._whole("--jsonl" in way)

    def interrupted(self, number: int, seed: int) -> Interruption:
        """Run number ``number``: its way, signal and moment follow from it and the seed."""
        dice = random.Random(f"{seed} {number}")
        way, which = self._ways[number % len(self._ways)], dice.choice(SIGNALS)
        share, repeated = dice.random(), dice.random() < 0.25
        folder = self._folder / f"run-{number}"
        folder.mkdir()
        process = start(way, folder)
        time.sleep(share * self._whole("--jsonl" in way)[1])
        sent = time.perf_counter()
        os.killpg(process.pid, which)
        if repeated:
            time.sleep(dice.random() * 0.3)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, dice.choice(SIGNALS))
        try:
            code = process.wait(WAIT)
        except subprocess.TimeoutExpired:
            code = 124
        seconds = time.perf_counter() - sent
        wrong = self._wrong(folder, way, code, _left(process.pid))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shown = " ".join(way) or "text"
        return Interruption(shown, which.name, share, repeated, code, seconds, "; ".join(wrong))

    def _whole_run(self, lines: bool) -> tuple[list[bytes], float]:
        """What can be there after any number of results, and seconds of a run."""
        folder = self._folder / f"whole-{lines}"
        folder.mkdir()
        started = time.perf_counter()
        code = start(("--jsonl",) if lines else (), folder).wait()
        seconds = time.perf_counter() - started
        if code:
            raise RuntimeError((folder / "stderr").read_text())
        return results(texts(folder), lines=lines), seconds

    def _wrong(self, folder: Path, way: Sequence[str], code: int, left: bool) -> list[str]:
        wrong = []
        if code not in (0, *(128 + s for s in SIGNALS), *(-s for s in SIGNALS)):
            wrong.append(f"exit code {code}")
        if left:
            wrong.append("a process is left")
        stray = [
            line
            for line in (folder / "stderr").read_text(errors="replace").splitlines()
            if not line.startswith("sage: ") or "internal error" in line
        ]
        if stray:
            wrong.append(f"standard error: {' / '.join(stray)[:400]}")
        names = {path.name for path in folder.iterdir()} - {"stdout", "stderr"}
        if names - {"out", "out.partial"} or len(names) > 1:
            wrong.append(f"files left: {', '.join(sorted(names))}")
        found, lines = texts(folder), "--jsonl" in way
        whole = self._whole(lines)[0]
        there = results(found, lines=lines)
        if there != whole[: len(there)] or not found.endswith(b"\n" if found else b""):
            wrong.append(f"not a beginning of the results: {found[-200:]!r}")
        elif code == 0 and len(there) < len(whole):
            wrong.append("exit code 0 without all results")
        return wrong


def _left(group: int) -> bool:
    """Whether a process of the group is there two seconds after the first one ended."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def results(data: bytes, *, lines: bool) -> list[bytes]:
    """The results in what was written; of JSON what does not depend on time."""
    if not lines:
        return data.split(b"\n==> ") if data else []
    objects = (json.loads(line) for line in data.decode().splitlines() if line.endswith("}"))
    return [json.dumps([one["files"], one.get("text")]).encode() for one in objects]
