"""Mutated files, bombs and interruptions: nothing crashes, hangs, takes all memory or loses text.

python -m benchmarks.faults --output benchmarks/results/faults     10 minutes
python -m benchmarks.faults --quick                                2 minutes

Fails if a file gives a traceback, a crash, a line on standard error, or takes more than 60 seconds
or 2.5 GiB; or if an interrupted run ends otherwise than `docs/output.md` says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from benchmarks import environment
from benchmarks.faults.bombs import bombs
from benchmarks.faults.interruptions import Interrupter, Interruption
from benchmarks.faults.metered import ENDS, Ending, Opener
from benchmarks.faults.mutated import mutations, sources

SECONDS = 60.0
GRACE = 10.0
"""Seconds beyond the limit after which a file is given up."""
MEMORY = int(2.5 * 2**30)
ON_COMMAND_LINE = 20
PARALLEL = 2

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True)
class File:
    """A file that was opened."""

    kind: str
    """``mutated`` or ``bomb``."""
    name: str
    how: str
    """What was done to it."""
    bytes: int
    ending: Ending

    @property
    def fault(self) -> str:
        """What is wrong with its end; empty if nothing is."""
        end = self.ending
        if end.how not in ("opened", "refused"):
            return f"{end.how}: {end.says}"
        if end.lines:
            return f"standard error: {end.lines[:400]}"
        if "\n" in end.says or len(end.says) > 250:
            return f"not one clear line: {end.says[:400]!r}"
        if end.peak > MEMORY:
            return f"{end.peak / 2**30:.1f} GiB of memory"
        return f"{end.seconds:.0f} seconds" if end.seconds > SECONDS else ""


def opened(tasks: Iterable[tuple[str, str, str, bytes]], folder: Path) -> list[File]:
    """Open files given by kind, name, what was done and data, two at once, in their order."""
    openers: SimpleQueue[Opener] = SimpleQueue()
    for number in range(PARALLEL):
        place = folder / f"opener-{number}"
        place.mkdir(exist_ok=True)
        (place / "stderr").touch()
        openers.put(Opener(place, SECONDS + GRACE))

    def one(task: tuple[str, str, str, bytes]) -> File:
        kind, name, how, data = task
        mine = openers.get()
        try:
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".bin") as file:
                file.write(data)
                file.flush()
                return File(kind, name, how, len(data), mine.open(Path(file.name)))
        finally:
            openers.put(mine)

    try:
        return list(_each(one, tasks))
    finally:
        while not openers.empty():
            openers.get().close()


def _each(act: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """Results in order; a few tasks at once, since their data may be large."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        waiting = []
        for task in tasks:
            waiting.append(pool.submit(act, task))
            if len(waiting) >= 2 * PARALLEL:
                yield waiting.pop(0).result()
        for later in waiting:
            yield later.result()


def on_command_line(files: Iterable[tuple[str, bytes]], folder: Path) -> list[str]:
    """Give some of the files to ``sage caption`` together; returns what is wrong."""
    names = []
    for number, (name, data) in enumerate(files):
        path = folder / f"{number}-{name}"
        path.write_bytes(data)
        names.append(str(path))
    command = [sys.executable, "-m", "sage_cli", "caption", *names]
    options = ["--jsonl", "--max-new-tokens", "4", "--quiet"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [line for line in done.stderr.splitlines() if not line.startswith("sage: ")]
    wrong += [line for line in done.stderr.splitlines() if "internal error" in line]
    if done.returncode not in (0, 3):
        wrong.append(f"exit code {done.returncode}")
    if [line["files"] for line in lines] != [[name] for name in names]:
        wrong.append("not one line for each file, in their order")
    return wrong


def measured(given: Any) -> dict[str, Any]:
    """All parts, as plain data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = list(mutations(sources(folder), given.mutated, given.seed))
        started = time.perf_counter()
        files = opened((("mutated", name, how, data) for name, how, data in made), folder)
        mutated = time.perf_counter() - started
        huge = bombs()
        files += opened((("bomb", name, "bomb", data) for name, data in huge), folder)
        bombed = time.perf_counter() - started - mutated
        step = max(1, len(made) // ON_COMMAND_LINE)
        sample = [(name, data) for name, _, data in made[::step]][:ON_COMMAND_LINE]
        shell = on_command_line(sample, folder)
        runs, took = interrupted(given, folder)
    return {
        "bombs": len(huge),
        "limits": {"seconds": SECONDS, "bytes": MEMORY},
        "ends": _ends(files),
        "largest": _worst(files, lambda file: file.ending.peak),
        "slowest": _worst(files, lambda file: file.ending.seconds),
        "command_line": {"files": len(sample), "wrong": shell},
        "interruptions": [asdict(run) for run in runs],
        "faults": {f"{f.name}, {f.how} ({f.bytes} bytes)": f.fault for f in files if f.fault},
        "took": {"mutated": mutated, "bombs": bombed, "interruptions": took},
    }


def interrupted(given: Any, folder: Path) -> tuple[list[Interruption], float]:
    """The interrupted runs, and the seconds that they took."""
    place = folder / "runs"
    place.mkdir()
    interrupter = Interrupter(place, quick=given.quick)
    started = time.perf_counter()
    interrupter.prepare()
    act = lambda number: interrupter.interrupted(number, given.seed)  # noqa: E731
    return list(_each(act, range(given.interruptions))), time.perf_counter() - started


def _ends(files: Iterable[File]) -> dict[str, dict[str, int]]:
    """How many files ended how, by what was done to them."""
    found: dict[str, Counter[str]] = {}
    for file in files:
        count = found.setdefault(file.how, Counter(dict.fromkeys((*ENDS, "stray lines"), 0)))
        count[file.ending.how] += 1
        count["stray lines"] += bool(file.ending.lines)
    return {how: dict(count) for how, count in found.items()}


def _worst(files: list[File], key: Callable[[File], float]) -> dict[str, Any]:
    """The worst mutated file and the worst bomb."""
    found = {}
    for kind in ("mutated", "bomb"):
        chosen = [file for file in files if file.kind == kind]
        if chosen:
            worst = max(chosen, key=key)
            end = asdict(replace(worst.ending, lines="", says=worst.ending.says[:200]))
            found[kind] = {"name": worst.name, "mutation": worst.how, **end}
    return found


def failed(data: dict[str, Any]) -> bool:
    """Whether a goal is missed."""
    wrong = [run for run in data["interruptions"] if run["wrong"]]
    return bool(data["faults"] or wrong or data["command_line"]["wrong"])


def as_markdown(data: dict[str, Any]) -> str:
    from benchmarks.harness import table

    runs = data["interruptions"]
    wrong = [run for run in runs if run["wrong"]]
    signals = Counter((run["signal"], run["code"]) for run in runs)
    columns = (*ENDS, "stray lines")
    lines = ["# Faults", "", *environment.as_markdown(data["environment"])]
    files = f"{data['mutated']} mutated files and {data['bombs']} bombs, seed {data['seed']}"
    lines.append(f"- {files}, opened in the worker process")
    for kind, worst in data["largest"].items():
        slow = data["slowest"][kind]
        memory = f"{worst['peak'] / 2**30:.2f} GiB ({worst['name']}, {worst['mutation']})"
        longest = f"{slow['seconds']:.1f} s ({slow['name']}, {slow['mutation']})"
        lines.append(f"- {kind}: at most {memory} and {longest}")
    shell = data["command_line"]
    lines.append(f"- `sage caption` with {shell['files']} of them: {len(shell['wrong'])} faults")
    lines.append(f"- faults: {len(data['faults'])} files, {len(wrong)} interruptions")
    counts = ((how, *(count[end] for end in columns)) for how, count in data["ends"].items())
    lines += ["", *table(("file", *columns), counts)]
    rows = ((name, code, count) for (name, code), count in sorted(signals.items()))
    lines += ["", *table(("signal", "exit code", "runs"), rows)]
    if runs:
        last = max(run["seconds"] for run in runs)
        lines += ["", f"From the signal to the end of a run: at most {last:.1f} s.", ""]
    for name, says in data["faults"].items():
        first, *more = says.splitlines()
        lines.append(f"- {name}: {first}{f' ... {more[-1]}' if more else ''}")
    lines += [f"- {run['way']}, {run['signal']} at {run['share']:.3f}: {run['wrong']}"
              for run in wrong]  # fmt: skip
    lines += [f"- sage caption: {line}" for line in shell["wrong"]]
    return "\n".join(lines)


def main() -> int:
    from benchmarks.harness import described, options

    parser = options(__doc__, pair=False, mutated=2000, interruptions=100, seed=0)
    parser.add_argument("--quick", action="store_true", help="100 files, 6 interruptions")
    given = parser.parse_args()
    if given.quick:
        given.mutated, given.interruptions = 100, 6
    data = described("benchmarks.faults", given) | measured(given)
    environment.write(given.output, data, as_markdown(data))
    return int(failed(data))


if __name__ == "__main__":
    sys.exit(main())
