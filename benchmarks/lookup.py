"""What looking drafts up brings: several questions about one clip or picture, some asked twice.

    python -m benchmarks.lookup --output benchmarks/results/lookup

A conversation each: a caption, two questions, the caption again, the first question again. All
methods decode the same conversations, in an order that rotates; their texts are compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from benchmarks import environment
from benchmarks.pairs import measured_pair
from sage_core.bench.items import Rendered
from sage_core.drafts.ngram import Ngram
from sage_core.media import Sampling
from sage_core.pair_loading import LoadedPair
from sage_core.pipeline import Pipeline
from sage_core.stream import Result
from training.world import heldout
from training.world.questions import ask

SCENES = ("motion", "text", "charts")
"""Categories of the held-out world: clips, words to read, bar charts."""
LEAST = 8
"""Answers of fewer tokens have no speed."""


@dataclass(frozen=True)
class Way:
    """One way to decode."""

    name: str
    policy: str
    lookup: bool = False
    draft: bool = True


WAYS = (
    Way("autoregressive", "autoregressive"),
    Way("ngram", "sage", lookup=True, draft=False),
    Way("static", "static"),
    Way("static with lookup", "static", lookup=True),
    Way("sage", "sage"),
    Way("sage with lookup", "sage", lookup=True),
)


@dataclass
class Tally:
    """Of all answers of one kind: sums, and the speed of each answer that is long enough."""

    rates: list[float | None] = field(default_factory=list)
    steps: int = 0
    accepted: int = 0
    nodes: int = 0
    passes: int = 0
    exact: int = 0
    answers: int = 0

    def add(self, result: Result, expected: tuple[int, ...]) -> None:
        stats = result.stats
        timed = stats.new_tokens >= LEAST
        # The first token comes with the prefill.
        self.rates.append(stats.tokens_per_second if timed else None)
        self.steps += stats.steps
        self.accepted += stats.accepted
        self.nodes += stats.nodes_verified
        self.passes += stats.draft_passes
        self.exact += result.tokens == expected
        self.answers += 1

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Measured:
    """The tallies by kind of answer and way."""

    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)

    def of(self, kind: str, way: str) -> Tally:
        return self.tallies.setdefault(kind, {}).setdefault(way, Tally())


def conversations(count: int, seed: int) -> Iterator[tuple[str, Any, list[str]]]:
    """(category, media, what is asked) of ``count`` scenes, the categories in turn."""
    for number in range(count):
        category = SCENES[number % len(SCENES)]
        source = Rendered(category, number // len(SCENES), seed)
        held = source.item()
        rng = np.random.default_rng([seed, number])
        questions = [ask(rng, held.scene).question for _ in range(2)]
        caption = heldout.VIDEO_PROMPT if held.video else heldout.IMAGE_PROMPT
        asked = [caption, *questions, caption, questions[0]]
        yield category, source.open(Sampling()), asked


def talk(pair: LoadedPair, way: Way, media: Any, asked: list[str], limit: int) -> list[Result]:
    """All answers of one conversation."""
    if not way.draft:
        pair = replace(pair, draft=None, lookup=Ngram(), draft_id="ngram")
    chat = Pipeline(pair).chat(
        media, policy=way.policy, draft_lookup=way.lookup and way.draft, max_new_tokens=limit
    )
    return [chat.ask(question) for question in asked]


def measure(pair: LoadedPair, arguments: argparse.Namespace) -> Measured:
    """Every way on every conversation."""
    measured = Measured()
    for number, (category, media, asked) in enumerate(
        conversations(arguments.conversations, arguments.seed)
    ):
        if not number:
            for way in WAYS:  # first calls belong to no way
                talk(pair, way, media, asked[:1], 32)
        turn = number % len(WAYS)
        said: dict[str, list[Result]] = {}
        for way in (*WAYS[turn:], *WAYS[:turn]):
            said[way.name] = talk(pair, way, media, asked, arguments.max_new_tokens)
        expected = [result.tokens for result in said[WAYS[0].name]]
        for way in WAYS:
            for place, result in enumerate(said[way.name]):
                again = asked[place] in asked[:place]
                kind = f"{category}, {'again' if again else 'first time'}"
                measured.of(kind, way.name).add(result, expected[place])
                measured.of("all", way.name).add(result, expected[place])
        print(f"\r{number + 1} conversations", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return measured


def report(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Drafts that are looked up", ""]
    lines += environment.as_markdown(data["environment"])
    lines += [
        f"- pair: {data['target']} with {data['draft']}; {data['device']}, {data['dtype']}; "
        f"{data['conversations']} conversations of five turns, seed {data['seed']}",
        f"- tokens/s: median over answers of at least {LEAST} tokens, behind the first; × "
        "autoregressive: median of the answers' own ratios; τ, nodes, draft passes: a step",
    ]
    for kind, ways in data["results"].items():
        base = ways["autoregressive"]["rates"]
        lines += ["", f"## {kind}", ""]
        lines += ["| | tokens/s | × autoregressive | τ | nodes | draft passes | exact |"]
        lines += ["|---|--:|--:|--:|--:|--:|--:|"]
        for name, tally in ways.items():
            pairs = [(r, b) for r, b in zip(tally["rates"], base, strict=True) if r and b]
            speed = median(r for r, _ in pairs) if pairs else 0.0
            ratio = median(r / b for r, b in pairs) if pairs else 0.0
            steps = max(1, tally["steps"])
            lines.append(
                f"| {name} | {speed:.1f} | {ratio:.2f} | {tally['accepted'] / steps:.2f} "
                f"| {tally['nodes'] / steps:.1f} | {tally['passes'] / steps:.2f} "
                f"| {tally['exact']}/{tally['answers']} |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if any answer differs from autoregressive decoding's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pair", help="folder of target/ and draft/ (default: bundled)")
    parser.add_argument("--conversations", type=int, default=12)
    parser.add_argument("--max-new-tokens", type=int, default=192)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    arguments = parser.parse_args(argv)
    pair = measured_pair(arguments.pair, arguments.device)
    measured = measure(pair, arguments)
    results = {
        kind: {way: tally.as_dict() for way, tally in ways.items()}
        for kind, ways in sorted(measured.tallies.items())
    }
    data = {
        "environment": environment.describe("benchmarks.lookup"),
        "target": pair.target_id,
        "draft": pair.draft_id,
        "device": pair.device,
        "dtype": pair.dtype,
        "conversations": arguments.conversations,
        "seed": arguments.seed,
        "results": results,
    }
    environment.write(arguments.output, data, report(data))
    return int(any(t["exact"] < t["answers"] for ways in results.values() for t in ways.values()))


if __name__ == "__main__":
    sys.exit(main())
