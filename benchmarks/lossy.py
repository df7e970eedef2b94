"""What lossy rules bring and what they cost, on the bundled pair.

    python -m benchmarks.lossy --output benchmarks/results/lossy

EARS: sampled captions and answers at temperature 1 with candidates drawn, by growing tolerance.
Spec-VLA: greedy texts about bar charts, by growing radius over the digit tokens. The bundled pair
has no action tokens; digits are ordered as action bins are, and a wrong one is a wrong fact.
Speed, accepted length, the share of texts that are not those of the exact rule, and facts and
answers that are right, judged against the drawn scenes. All ways decode the same inputs, in an
order that rotates. A sampled text also differs under another seed: that is a row of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks import environment
from benchmarks.pairs import measured_pair
from sage_core.bench.items import Rendered
from sage_core.media import Sampling
from sage_core.pipeline import Pipeline
from sage_core.stream import Result
from training.world.answers import right
from training.world.facts import score
from training.world.heldout import HeldOutItem

LEAST = 8
"""Texts of fewer tokens have no speed."""


@dataclass(frozen=True)
class Way:
    """One rule; the first of a part is the exact one that the others are held against."""

    name: str
    lossy: str | None = None
    another_seed: bool = False


@dataclass(frozen=True)
class Part:
    """Ways on the same inputs, with the options that all have in common."""

    title: str
    categories: Sequence[str]
    options: dict[str, Any]
    ways: Sequence[Way]


def parts(digits: tuple[int, int]) -> tuple[Part, ...]:
    """What is measured; ``digits`` are the first and last id of the ordered digit tokens."""
    where = f"first={digits[0]},last={digits[1]}"
    sampled = {"policy": "static", "temperature": 1.0, "top_k": 0, "candidates": "drawn"}
    return (
        Part(
            "EARS, sampled at temperature 1",
            ("captions", "charts", "text", "motion"),
            sampled,
            (
                Way("exact"),
                Way("exact, another seed", another_seed=True),
                *(Way(f"tolerance {t}", f"ears:tolerance={t}") for t in (0.1, 0.3, 1.0)),
            ),
        ),
        Part(
            "Spec-VLA on digit tokens, greedy, bar charts",
            ("charts",),
            {"policy": "static", "sample": False},
            (
                Way("exact"),
                *(Way(f"radius {r}", f"spec-vla:radius={r},{where}") for r in (1, 3, 9)),
            ),
        ),
    )


@dataclass
class Tally:
    """Of all texts of one way: sums, and the speed of each text that is long enough."""

    rates: list[float | None] = field(default_factory=list)
    steps: int = 0
    accepted: float = 0.0
    texts: int = 0
    differ: int = 0
    facts: int = 0
    facts_right: int = 0
    answers: int = 0
    answers_right: int = 0

    def add(self, result: Result, expected: Result, item: HeldOutItem) -> None:
        stats = result.stats
        self.rates.append(stats.tokens_per_second if stats.new_tokens >= LEAST else None)
        self.steps += stats.steps
        self.accepted += stats.accepted
        self.texts += 1
        self.differ += result.tokens != expected.tokens
        if item.facts is not None:
            good, total, _ = score(result.text, item.scene)  # type: ignore[arg-type]
            self.facts_right += good
            self.facts += total
        elif item.answer is not None:
            self.answers_right += right(result.text, item.answer)
            self.answers += 1


def inputs(categories: Sequence[str], count: int, seed: int) -> Iterator[tuple[HeldOutItem, Any]]:
    """``count`` held-out items with their media, the categories in turn."""
    for number in range(count):
        source = Rendered(categories[number % len(categories)], number // len(categories), seed)
        yield source.item(), source.open(Sampling())


def measure(pipeline: Pipeline, part: Part, count: int, seed: int) -> dict[str, Tally]:
    """Every way of a part on every input."""
    tallies = {way.name: Tally() for way in part.ways}
    for number, (item, media) in enumerate(inputs(part.categories, count, seed)):
        if not number:
            for way in part.ways:  # first calls belong to no way
                _decode(pipeline, part, way, item, media, 0)
        turn = number % len(part.ways)
        found = {
            way.name: _decode(pipeline, part, way, item, media, number)
            for way in (*part.ways[turn:], *part.ways[:turn])
        }
        for way in part.ways:
            tallies[way.name].add(found[way.name], found[part.ways[0].name], item)
        print(f"\r{part.title}: {number + 1} of {count}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return tallies


def _decode(
    pipeline: Pipeline, part: Part, way: Way, item: HeldOutItem, media: Any, number: int
) -> Result:
    seed = 2 * number + way.another_seed
    options = {**part.options, "seed": seed, "lossy": way.lossy, "max_new_tokens": 256}
    return pipeline.ask(media, item.prompt, **options)


def report(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Lossy rules", "", *environment.as_markdown(data["environment"])]
    lines += [
        f"- pair: {data['target']} with {data['draft']}; policy static; seed {data['seed']}; "
        f"tokens/s: median over texts of at least {LEAST} tokens; ×: median of the texts' own "
        "ratios to the exact rule",
        "- differ: texts that are not the exact rule's; facts, answers: right, of how many",
    ]
    for title, tallies in data["results"].items():
        exact = next(iter(tallies.values()))["rates"]
        lines += ["", f"## {title}", "", "| | tokens/s | × | τ | differ | facts | answers |"]
        lines.append("|---|--:|--:|--:|--:|--:|--:|")
        for name, tally in tallies.items():
            pairs = [(r, e) for r, e in zip(tally["rates"], exact, strict=True) if r and e]
            speed, ratio = median(r for r, _ in pairs), median(r / e for r, e in pairs)
            lines.append(
                f"| {name} | {speed:.0f} | {ratio:.2f} "
                f"| {tally['accepted'] / max(1, tally['steps']):.2f} "
                f"| {tally['differ'] / tally['texts']:.0%} "
                f"| {_share(tally['facts_right'], tally['facts'])} "
                f"| {_share(tally['answers_right'], tally['answers'])} |"
            )
    return "\n".join(lines)


def _share(good: int, total: int) -> str:
    return f"{good / total:.1%} of {total}" if total else ""


def main(argv: list[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=80, help="inputs of each part")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    arguments = parser.parse_args(argv)
    pair = measured_pair(dtype="float32")
    ids = pair.family.tokenizer.convert_tokens_to_ids(list("0123456789"))
    if ids != list(range(ids[0], ids[0] + 10)):
        raise SystemExit("the digits of this tokenizer are not in order")
    results = {
        part.title: {
            name: dict(vars(tally))
            for name, tally in measure(
                Pipeline(pair), part, arguments.items, arguments.seed
            ).items()
        }
        for part in parts((ids[0], ids[-1]))
    }
    data = {
        "environment": environment.describe("benchmarks.lossy"),
        "target": pair.target_id,
        "draft": pair.draft_id,
        "seed": arguments.seed,
        "results": results,
    }
    environment.write(arguments.output, data, report(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
