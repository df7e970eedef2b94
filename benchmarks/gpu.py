"""Everything that needs a GPU, in one command of under eight minutes, with a report of its own.

    python -m benchmarks.gpu                         benchmarks/results/gpu/report.{md,json}
    python -m benchmarks.gpu --pairs qwen-7b --minutes 5
    python -m benchmarks.gpu --dry-run               the same code on the CPU with tiny shapes

In this order, each written to the report as it is done: the floors at the measured bandwidth;
tests/gpu; exactness in float32 at small shapes; then for each pair of published shapes
(`benchmarks.expansion`) the passes of target and draft against their floors, and whole texts by
every method against `generate`, in bfloat16. A part that fails is reported and the next one begins;
a part that there is no time for is named.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from time import perf_counter
from typing import Any

import torch

from benchmarks import environment, harness
from benchmarks.expansion import (
    PAIRS,
    Floor,
    Shape,
    bundled_floors,
    differences,
    expand,
    fitted,
    floor_of,
    floors_table,
)
from benchmarks.gpu_measure import (
    EXECUTORS,
    GRAPHS,
    Method,
    Passes,
    PassTime,
    TextResults,
    Texts,
    bandwidth,
    decode_all,
    pass_times,
    with_models,
)
from benchmarks.harness import number
from benchmarks.pairs import measured_pair
from sage_core.pair_loading import LoadedPair

TESTS = ("tests/gpu/test_cuda_captured.py", "tests/core/test_tree_attention.py", "tests/gpu")
"""Kernels and graphs first, for the case that time runs out."""
SMALL = (
    Shape("small target", 18, 512, 8, 4, 128, 1024, 2048, False),
    Shape("small draft", 3, 384, 8, 4, 64, 1024, 2048, True),
)
"""For exactness in float32."""
TINY = (
    Shape("tiny target", 17, 264, 4, 4, 64, 800, 1416, False),
    Shape("tiny draft", 2, 264, 4, 4, 64, 800, 1416, True),
)
"""For the dry run."""
POLICIES = ("chain", "static", "sage-paper", "eagle2", "sage")
"""With CUDA graphs; the speed of speculation is that of the best of them."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    pairs: dict[str, tuple[Shape, Shape]]
    device: str
    dtype: torch.dtype
    passes: Passes
    texts: Texts
    exact_texts: Texts
    tests: tuple[str, ...]
    methods: tuple[Method, ...]
    copy_bytes: int


def plan_of(arguments: argparse.Namespace) -> Plan:
    """The plan for an H200, or a small one for any CPU."""
    if arguments.dry_run:
        methods: tuple[Method, ...] = (("autoregressive", GRAPHS), ("static", GRAPHS))
        passes, texts = Passes((1, 4), (24, 48), 1), Texts(1, 6)
        pairs = {"tiny": TINY}
        return Plan(pairs, "cpu", torch.float32, passes, texts, texts, (), methods, 2**20)
    methods = (
        *((policy, GRAPHS) for policy in ("autoregressive", *POLICIES)),
        *((policy, "eager") for policy in ("autoregressive", "static")),
    )
    return Plan(
        pairs={name: PAIRS[name] for name in arguments.pairs},
        device="cuda",
        dtype=torch.bfloat16,
        passes=Passes((1, 8, 16, 32, 65), (1024, 4096, 32768), 20),
        texts=Texts(3, 160),
        exact_texts=Texts(4, 96),
        tests=TESTS,
        methods=methods,
        copy_bytes=4 * 2**30,
    )


@dataclass
class Report:
    """Sections of Markdown and their data; the files are complete after every part."""

    output: str | None
    until: float
    data: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def part(self, name: str, work: Callable[[], list[str]], least: float = 0.0) -> None:
        """Do a part, or report why not; one that needs more than the time left is left out."""
        left = self.until - perf_counter()
        started = perf_counter()
        if left < least:
            lines = [f"Left out: {max(0, left):.0f} s are left, and it needs {least:.0f} s."]
        else:
            try:
                lines = work()
            except Exception as error:
                self.failed.append(name)
                print(traceback.format_exc(), file=sys.stderr)
                lines = [f"**Failed**: {type(error).__name__}: {_first_line(error)}"]
            lines += ["", f"({perf_counter() - started:.0f} s)"]
        self.lines += ["", f"## {name}", "", *lines]
        print(f"-- {name}: {perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        self.write()

    def write(self) -> None:
        if self.output:
            environment.save(self.output, self.data, "\n".join(self.lines))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def run(plan: Plan, report: Report) -> None:
    """All parts, in order."""
    bundled = measured_pair(dtype="float32")
    speeds: list[float] = []

    def floors() -> list[str]:
        speeds.append(bandwidth(torch.device(plan.device), plan.copy_bytes))
        found = bundled_floors(bundled, plan.pairs)
        report.data |= {"bandwidth": speeds[0], "floors": [_floor_data(f) for f in found]}
        return [*floors_table(found, speeds[0]), "", *differences(plan.pairs, found)]

    report.part("Floors", floors)
    if not speeds:
        return
    if plan.tests:
        report.part("Tests", lambda: run_tests(report, plan.tests))
    report.part("Exactness in float32", lambda: exactness(report, plan, bundled), 20)
    for place, (name, shapes) in enumerate(plan.pairs.items()):
        # A later pair may have what is left; the first must leave something for it.
        share = (report.until - perf_counter()) / (len(plan.pairs) - place)
        until = perf_counter() + share
        work = partial(whole_pair, report, plan, bundled, name, shapes, speeds[0], until)
        report.part(name, work, 45)


def run_tests(report: Report, paths: Sequence[str], seconds: float = 150.0) -> list[str]:
    """pytest in a process of its own, so that it leaves no memory in use on the GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *paths]
    shown = " ".join(["pytest", *command[3:]])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env=dict(os.environ)
        )
    except subprocess.TimeoutExpired as late:
        report.failed.append("tests")
        so_far = (late.stdout or b"").decode(errors="replace").strip().splitlines()[-12:]
        return [f"`{shown}`: not done after {seconds:.0f} s.", "", "```", *so_far, "```"]
    tail = done.stdout.strip().splitlines()[-12:]
    report.data["tests"] = {"command": shown, "code": done.returncode, "tail": tail}
    if done.returncode:
        report.failed.append("tests")
    return [f"`{shown}`: exit code {done.returncode}", "", "```", *tail, "```"]


def exactness(report: Report, plan: Plan, bundled: LoadedPair) -> list[str]:
    """Every method on small shapes in float32: texts equal `generate`'s id by id."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        pair = _built(bundled, SMALL if plan.tests else TINY, plan.device, torch.float32)
        results = decode_all(pair, plan.methods, plan.exact_texts, report.until)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    report.data["exactness"] = _text_data(results)
    if any(not mismatch["near_tie"] for mismatch in results.mismatches):
        report.failed.append("exactness in float32")
    return texts_table(results)


def whole_pair(
    report: Report,
    plan: Plan,
    bundled: LoadedPair,
    name: str,
    shapes: tuple[Shape, Shape],
    speed: float,
    until: float,
) -> list[str]:
    """Passes against floors, then texts, of one pair, whose memory is freed at the end."""
    started = perf_counter()
    pair = _built(bundled, shapes, plan.device, plan.dtype)
    built = perf_counter() - started
    floors = [
        floor_of(model, fitted(shape, small.config.text_config))
        for model, shape, small in zip(
            (pair.target, pair.draft), shapes, (bundled.target, bundled.draft), strict=True
        )
    ]
    data: dict[str, Any] = {"built_seconds": built}
    report.data.setdefault("pairs", {})[name] = data
    lines = [f"Built in {built:.1f} s, {plan.dtype}.", ""]
    try:
        times = list(_all_passes(pair, floors, plan, speed, until))
        data["passes"] = [time.as_dict() for time in times]
        lines += passes_table(times)
        results = decode_all(pair, plan.methods, plan.texts, until)
        data |= _text_data(results)
        lines += ["", *texts_table(results), "", *requirements(times, data["texts"])]
        if any(not mismatch["near_tie"] for mismatch in results.mismatches):
            report.failed.append(f"exactness of {name}")
    finally:
        del pair
        _free(plan.device)
    return lines


def _all_passes(
    pair: LoadedPair, floors: Sequence[Floor], plan: Plan, speed: float, until: float
) -> Any:
    """At most half of the time that is left."""
    until = perf_counter() + (until - perf_counter()) / 2
    for executor in (GRAPHS, "eager", *EXECUTORS[2:]):
        for role, model, floor in zip(
            ("target", "draft"), (pair.target, pair.draft), floors, strict=True
        ):
            if perf_counter() < until:
                yield from pass_times(role, model, executor, floor, plan.passes, speed)
                _free(plan.device)


def _built(
    bundled: LoadedPair, shapes: tuple[Shape, Shape], device: str, dtype: torch.dtype
) -> LoadedPair:
    torch.manual_seed(0)
    target, draft = (
        expand(small, shape, device, dtype)
        for small, shape in zip((bundled.target, bundled.draft), shapes, strict=True)
    )
    return with_models(bundled, target, draft)


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _floor_data(found: tuple[str, Floor, Floor]) -> dict[str, Any]:
    return {"pair": found[0], "target": asdict(found[1]), "draft": asdict(found[2])}


def _text_data(results: TextResults) -> dict[str, Any]:
    return {
        "texts": results.figures(),
        "mismatches": results.mismatches,
        "notes": results.notes,
        "captures": results.captures,
    }


def passes_table(times: Sequence[PassTime]) -> list[str]:
    """Floor, prediction and result, a line for each number of tokens."""
    head = ["pass", "tokens", "context", "floor ms", "predicted ms", "ms", "over the floor"]
    return harness.table(
        head,
        (
            [f"{t.role}, {t.executor}", t.tokens, f"{t.context:,}"]
            + [number(value) for value in (t.floor, t.predicted, t.milliseconds, t.ratio)]
            for t in times
        ),
    )


def texts_table(results: TextResults) -> list[str]:
    """Speed and exactness by method, then what was noted and captured."""
    columns = [
        harness.SPEED,
        ("over generate", lambda row: number(row["over_generate"])),
        ("over autoregressive", lambda row: number(row["speedup"])),
        *(harness.ACCEPTED, harness.EXACT),
        ("near ties", lambda row: str(row["near_ties"])),
        ("different", lambda row: str(row["different"])),
    ]
    lines = harness.methods_table({row["name"]: row for row in results.figures()}, columns)
    if results.captures:
        seconds = sum(capture["seconds"] for capture in results.captures)
        held = sum(capture["bytes"] for capture in results.captures) / 2**20
        count = sum(capture["captured"] for capture in results.captures)
        lines += ["", f"{count} captures took {seconds:.1f} s and {held:.0f} MiB in all."]
    return [*lines, *([""] if results.notes else []), *(f"- {note}" for note in results.notes)]


def requirements(times: Sequence[PassTime], texts: Sequence[dict[str, Any]]) -> list[str]:
    """Requirements beside what was measured; one without its measurement is left out."""
    found: list[tuple[str, str, float]] = []
    graphs = [t for t in times if t.executor == GRAPHS]
    verify = [t.ratio for t in graphs if (t.role, t.context) == ("target", 4096)]
    if verify:
        found.append(("verification over its floor, 64 nodes at 4k", "1.25", max(verify)))
    level = [t for t in graphs if (t.role, t.context) == ("draft", 1024)]
    if level:
        worst = max(level, key=lambda t: t.milliseconds)
        required = number(max(0.6, 2 * worst.floor))
        found.append(("a draft level, ms", required, worst.milliseconds))
    eight = {t.context: t.milliseconds for t in graphs if (t.role, t.tokens) == ("draft", 8)}
    if {1024, 4096} <= eight.keys():
        title = "a draft level at 4k (a tenth of 40k) over one at 1k"
        found.append((title, "1.20", eight[4096] / eight[1024]))
    drafted = [row for row in texts if row["mean_accepted"] and row["name"].endswith(GRAPHS)]
    if drafted:
        best = max(drafted, key=lambda row: row["tokens_per_second"])
        name = f"over `generate`, by {best['name']}"
        found.append((name, "12 (7B)", best["over_generate"]))
        found.append(("over our autoregressive loop", "3 (7B), 4 (32B)", best["speedup"]))
    return harness.table(
        ["requirement", "required", "measured"], [(a, b, number(c)) for a, b, c in found]
    )


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = harness.options(__doc__, pair=False, pairs=("qwen-7b", "qwen-32b"), minutes=7.5)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.set_defaults(output="benchmarks/results/gpu/report")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.pairs if name not in PAIRS]
    if unknown:
        parser.error(f"no pair {unknown[0]!r}: {', '.join(PAIRS)}")
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device: --dry-run tries the code on the CPU")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Measure and report; 1 if a part failed or a text differed by more than rounding."""
    arguments = parse_arguments(argv)
    described = environment.describe("benchmarks.gpu")
    report = Report(arguments.output, perf_counter() + 60 * arguments.minutes)
    report.data["environment"] = described
    report.lines = ["# On a GPU", "", *environment.as_markdown(described)]
    if arguments.dry_run:
        report.lines += ["", "A dry run on the CPU: its figures say nothing about a GPU."]
    run(plan_of(arguments), report)
    if report.failed:
        report.lines += ["", f"Failed: {', '.join(report.failed)}."]
        report.write()
    print("\n".join(report.lines))
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
