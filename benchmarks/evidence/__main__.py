"""The tables and figures of the papers on one pair.

    python -m benchmarks.evidence                          all of them, about half an hour
    python -m benchmarks.evidence --only entropy           one of them
    python -m benchmarks.evidence --only table1 --items 4 --repeats 1 --output runs/try
    python -m benchmarks.evidence --redraw                 pages and plots of what is there

Each part writes NAME.json, NAME.md and, where matplotlib is installed, NAME.png and NAME.svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import environment, harness, plots
from benchmarks.evidence import calibrated, entropy, lengths, speed
from benchmarks.evidence.bench import CLOCKS, Bench, Part

PARTS: dict[str, Part] = {
    "table1": speed.TABLE1,
    "pruning": speed.PRUNING,
    "lengths": lengths.PART,
    "shares": speed.SHARES,
    "entropy": entropy.PART,
    "ablation-timed": speed.ABLATION,
    "calibration": calibrated.PART,
}
FOLDER = "benchmarks/results/evidence"


def measure(arguments: argparse.Namespace) -> None:
    """Run the parts and write each as soon as it is there."""
    pair = harness.load(arguments)
    described = environment.describe("benchmarks.evidence")
    described["pair"] = f"{pair.target_id} with {pair.draft_id}; {pair.device}, {pair.dtype}"
    limit = arguments.max_new_tokens
    bench = Bench(pair, arguments.items, arguments.repeats, limit, clock=arguments.clock)
    for name in arguments.only:
        data = {**PARTS[name].run(bench), "environment": described}
        harness.progress("")
        write(name, data, Path(arguments.output))


def write(name: str, data: dict[str, Any], folder: Path) -> None:
    """The data, the page and the figure of one part."""
    environment.write(str(folder / name), data, report(name, data))
    plots.save(PARTS[name].draw, data, folder / name)


def report(name: str, data: dict[str, Any]) -> str:
    """One part as Markdown."""
    part = PARTS[name]
    figure = [f"![{part.title}]({name}.png)"]
    return harness.report(part.title, data, [data["environment"]["pair"]], part.page(data), figure)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = harness.options(__doc__, only=tuple(PARTS), max_new_tokens=256)
    parser.add_argument("--items", type=int, help="texts, in place of each part's own number")
    parser.add_argument("--repeats", type=int, help="of what is timed")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: the processor's own time"
    )
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.set_defaults(output=FOLDER, device="auto")
    arguments = parser.parse_args(argv)
    for name in arguments.only:
        if name not in PARTS:
            parser.error(f"no part {name!r}: choose from {', '.join(PARTS)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if not arguments.redraw:
        measure(arguments)
        return 0
    for name in arguments.only:
        path = Path(arguments.output) / f"{name}.json"
        if path.is_file():
            write(name, json.loads(path.read_text(encoding="utf-8")), Path(arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
