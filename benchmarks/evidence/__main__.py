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

from benchmarks import environment
from benchmarks.evidence import (
    ablation,
    calibrated,
    drawing,
    entropy,
    everything,
    lengths,
    ratios,
    shares,
    table1,
    timed,
)
from benchmarks.evidence.bench import CLOCKS, Bench
from benchmarks.pairs import measured_pair

PARTS: dict[str, Any] = {
    "table1": table1,
    "pruning": ratios,
    "lengths": lengths,
    "shares": shares,
    "entropy": entropy,
    "ablation": ablation,
    "ablation-timed": timed,
    "calibration": calibrated,
    "compare-all": everything,
}
FOLDER = "benchmarks/results/evidence"


def measure(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Run the parts and write each as soon as it is there."""
    pair = measured_pair(arguments.pair, arguments.device)
    described = environment.describe("benchmarks.evidence")
    described["pair"] = f"{pair.target_id} with {pair.draft_id}; {pair.device}, {pair.dtype}"
    for name in names:
        bench = Bench(
            pair,
            arguments.items,
            arguments.repeats,
            arguments.max_new_tokens,
            clock=arguments.clock,
        )
        data = {**PARTS[name].run(bench), "environment": described}
        bench.tell("")
        write(name, data, Path(arguments.output))


def write(name: str, data: dict[str, Any], folder: Path) -> None:
    """The data, the page and the figure of one part."""
    stem = folder / name
    markdown = report(name, data)
    environment.write(str(stem), data, markdown)
    if not drawing.save(PARTS[name], data, stem):
        print("no plot: pip install 'sage-vlm[plots]'", file=sys.stderr)


def report(name: str, data: dict[str, Any]) -> str:
    """One part as Markdown."""
    part = PARTS[name]
    lines = [f"# {part.TITLE}", "", *environment.as_markdown(data["environment"])]
    lines += [f"- {data['environment']['pair']}", "", *part.page(data)]
    return "\n".join([*lines, "", f"![{part.TITLE}]({name}.png)"])


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help=f"parts between commas: {', '.join(PARTS)}")
    parser.add_argument("--pair", help="a folder with target/ and draft/; default: the bundled")
    parser.add_argument("--items", type=int, help="texts, in place of each part's own number")
    parser.add_argument("--repeats", type=int, help="of what is timed")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: the processor's own time"
    )
    parser.add_argument("--redraw", action="store_true", help="measure nothing")
    parser.add_argument("--output", default=FOLDER, help=f"folder; default: {FOLDER}")
    arguments = parser.parse_args(argv)
    arguments.names = arguments.only.split(",") if arguments.only else list(PARTS)
    for name in arguments.names:
        if name not in PARTS:
            parser.error(f"there is no part {name!r}: choose from {', '.join(PARTS)}")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    if not arguments.redraw:
        measure(arguments.names, arguments)
        return 0
    for name in arguments.names:
        path = Path(arguments.output) / f"{name}.json"
        if path.is_file():
            write(name, json.loads(path.read_text(encoding="utf-8")), Path(arguments.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
