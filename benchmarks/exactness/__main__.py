"""Is the output the target's own? Everything that drafts, against `generate`, id by id.

    python -m benchmarks.exactness                        a subset, a few minutes
    python -m benchmarks.exactness --full --only tiny --output benchmarks/results/exactness-tiny
    python -m benchmarks.exactness --full --only pair --output benchmarks/results/exactness-pair
    python -m benchmarks.exactness --pair DIR             another pair than the bundled one

With --output, results are written after each family of a part; --resume continues from there.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment, harness
from benchmarks.exactness import matrix
from benchmarks.exactness.pair import AT_ONCE, pair_cases, pair_models
from benchmarks.exactness.prompts import made, tiny_models
from benchmarks.exactness.report import markdown
from benchmarks.exactness.tally import Case, Record, compared
from sage_core.runtime.backend import EagerBackend
from sage_core.runtime.cpu.executor import CpuBackend
from tests.tiny import FAMILIES

Unit = tuple[str, str, Callable[[], Iterator[Case]]]
"""What is done between two writes: its part, its name within it, and its cases."""
ASKED = ("full", "pair", "draft", "seed", "plain", "device", "dtype")
"""Arguments that a run must share with the one it continues; it may do other parts."""


def tiny_units(arguments: argparse.Namespace) -> Iterator[Unit]:
    """Every part with every family; a family's models are made once."""
    dtype = getattr(torch, arguments.dtype)
    backend = EagerBackend() if arguments.plain else CpuBackend()
    for family in arguments.family:
        models = tiny_models(family, arguments.device, dtype, backend)
        for part in arguments.part:

            def cases(
                family: str = family, part: str = part, models: Any = models
            ) -> Iterator[Case]:
                exact = dtype == torch.float32
                wanted = matrix.groups(part, family, full=arguments.full, cut_offs=exact)
                for number, (spec, ways) in enumerate(wanted):
                    prompts = made(models, family, spec, seed=number)
                    name = f"{family} {spec}"
                    yield Case(name, family, spec.setting, models, prompts, ways)

            yield part, family, cases


def pair_units(arguments: argparse.Namespace) -> Iterator[Unit]:
    """The items of the trained pair, some at a time."""
    models, family = pair_models(arguments)
    for start in range(0, arguments.items, AT_ONCE):
        end = min(start + AT_ONCE, arguments.items)

        def cases(start: int = start, end: int = end) -> Iterator[Case]:
            return pair_cases(models, family, arguments.seed, start, end)

        yield "pair", f"items {start} to {end}", cases


def units(arguments: argparse.Namespace) -> Iterator[Unit]:
    if arguments.only != "pair":
        yield from tiny_units(arguments)
    if arguments.only != "tiny":
        yield from pair_units(arguments)


class Results:
    """The results so far, written to a file after each unit.

    Raises:
        SystemExit: the file to continue is of a run with other arguments.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._output = arguments.output
        self._asked = {name: getattr(arguments, name) for name in ASKED}
        self._arguments = arguments
        self._before = 0.0
        self._started = time.perf_counter()
        self.done: list[str] = []
        self.records: dict[str, Record] = {}
        file = Path(f"{self._output}.json")
        if arguments.resume and file.is_file():
            data = json.loads(file.read_text(encoding="utf-8"))
            if any(data["asked"].get(name) != value for name, value in self._asked.items()):
                sys.exit(f"{file} is of a run with other arguments: omit --resume")
            self.done, self._before = data["done"], data["seconds"]
            self.records = {p: Record.from_dict(r) for p, r in data["results"].items()}

    def add(self, part: str, name: str, record: Record) -> None:
        self.records.setdefault(part, Record()).merge(record)
        self.done.append(f"{part} {name}")
        total = record.total
        equal = f"{total['exact']} of {total['cases']} equal"
        print(f"\r{time.strftime('%H:%M:%S')} {part} {name}: {equal}", file=sys.stderr, flush=True)
        if self._output:
            environment.save(self._output, *self.report())

    def data(self) -> dict[str, Any]:
        a = self._arguments
        packed = not a.plain and a.device == "cpu" and a.dtype == "float32"
        return {
            "environment": environment.describe("benchmarks.exactness"),
            "asked": self._asked,
            "passes": "traced, with packed weights" if packed else "plain",
            "seconds": self._before + time.perf_counter() - self._started,
            "results": {part: record.as_dict() for part, record in self.records.items()},
            "done": self.done,
        }

    def report(self) -> tuple[dict[str, Any], str]:
        """As data and as Markdown."""
        data = self.data()
        return data, markdown(data, self.records)


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = harness.options(__doc__, seed=0)
    parser.set_defaults(dtype="float32")
    parser.add_argument("--full", action="store_true", help="the whole matrix")
    parser.add_argument("--only", choices=["tiny", "pair"], help="one half of it")
    parser.add_argument("--part", nargs="+", choices=matrix.PARTS, default=[*matrix.PARTS])
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=[*FAMILIES])
    parser.add_argument("--items", type=int, help="held-out items on the pair (12, or 216 if full)")
    parser.add_argument(
        "--plain", action="store_true", help="without traced passes, packed weights"
    )
    parser.add_argument("--resume", action="store_true", help="continue FILE.json")
    arguments = parser.parse_args(argv)
    if arguments.items is None:
        arguments.items = 216 if arguments.full else 12
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run, report, and return 1 if a text differs that is no near tie."""
    arguments = parse_arguments(argv)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    results = Results(arguments)
    for part, name, cases in units(arguments):
        if f"{part} {name}" not in results.done:
            results.add(part, name, compared(cases()))
    print(results.report()[1])
    return 1 if any(record.total["wrong"] for record in results.records.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
