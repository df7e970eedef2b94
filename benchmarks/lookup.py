"""What looked-up drafts bring: several questions about one video or image, some asked twice.

    python -m benchmarks.lookup --output benchmarks/results/lookup

A conversation each: a caption, two questions, the caption again, the first question again. All
methods decode the same conversations in rotated order; their texts are compared.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks import environment, harness
from benchmarks.harness import LEAST, REFERENCE, Decoded, Tally
from sage_core.drafts.ngram import Ngram
from sage_core.media import Sampling
from sage_core.pair_loading import LoadedPair
from sage_core.pipeline import Pipeline
from training.bench_items import Rendered
from training.world import heldout
from training.world.questions import ask

SCENES = ("motion", "text", "charts")
"""Categories of the held-out world: videos, words to read, bar charts."""
METHODS: dict[str, dict[str, Any]] = {
    REFERENCE: {"policy": REFERENCE},
    "ngram": {"policy": "sage", "draft": False},
    "static": {"policy": "static"},
    "static with lookup": {"policy": "static", "draft_lookup": True},
    "sage": {"policy": "sage"},
    "sage with lookup": {"policy": "sage", "draft_lookup": True},
}
"""Options of a conversation by method; without ``draft`` n-grams alone draft."""
Talk = tuple[str, Any, list[str]]
"""Category, media, and the prompts in order."""


def conversations(count: int, seed: int) -> Iterator[Talk]:
    """Conversations about ``count`` scenes, the categories in turn."""
    for number in range(count):
        category = SCENES[number % len(SCENES)]
        source = Rendered(category, number // len(SCENES), seed)
        held = source.item()
        rng = np.random.default_rng([seed, number])
        questions = [ask(rng, held.scene).question for _ in range(2)]
        caption = heldout.VIDEO_PROMPT if held.video else heldout.IMAGE_PROMPT
        yield category, source.open(Sampling()), [caption, *questions, caption, questions[0]]


def answers(pair: LoadedPair, options: dict[str, Any], limit: int, talk: Talk) -> list[Decoded]:
    """All answers of one conversation."""
    _, media, prompts = talk
    if not options.get("draft", True):
        pair = replace(pair, draft=None, lookup=Ngram(), draft_id="ngram")
    options = {name: value for name, value in options.items() if name != "draft"}
    chat = Pipeline(pair).chat(media, **options, max_new_tokens=limit)
    return [Decoded.of(chat.ask(prompt)) for prompt in prompts]


def measure(pair: LoadedPair, arguments: Namespace) -> dict[str, dict[str, Tally]]:
    """Tallies by kind of answer and method."""
    limit = arguments.max_new_tokens
    methods = {name: partial(answers, pair, options, limit) for name, options in METHODS.items()}
    tallies: dict[str, dict[str, Tally]] = defaultdict(lambda: {name: Tally() for name in METHODS})
    talks = conversations(arguments.conversations, arguments.seed)
    for (category, _, prompts), found in harness.interleaved(talks, methods):
        for place, prompt in enumerate(prompts):
            kind = f"{category}, {'again' if prompt in prompts[:place] else 'first time'}"
            expected = found[REFERENCE][0][place].tokens
            for name, (texts,) in found.items():
                for key in (kind, "all"):
                    tallies[key][name].add([texts[place]], expected)
    return dict(sorted(tallies.items()))


def report(data: dict[str, Any]) -> str:
    columns = [
        harness.SPEED,
        ("× autoregressive", harness.SPEEDUP[1]),
        *(harness.ACCEPTED, harness.NODES, harness.PASSES, harness.EXACT),
    ]
    notes = [
        f"{data['conversations']} conversations of five turns, seed {data['seed']}",
        f"tokens/s: median over answers of at least {LEAST} tokens, after the first; × "
        f"autoregressive: median of the answers' own ratios; {harness.TAU}",
    ]
    blocks = [
        [f"## {kind}", "", *harness.methods_table(rows, columns)]
        for kind, rows in data["results"].items()
    ]
    return harness.report("Looked-up drafts", data, notes, *blocks)


def main(argv: list[str] | None = None) -> int:
    """Measure, report; returns 1 if any answer differs from autoregressive decoding's."""
    parser = harness.options(__doc__, conversations=12, max_new_tokens=192, seed=2)
    arguments = parser.parse_args(argv)
    pair = harness.load(arguments)
    results = {kind: harness.figures(each) for kind, each in measure(pair, arguments).items()}
    data = {**harness.described("benchmarks.lookup", arguments, pair), "results": results}
    environment.write(arguments.output, data, report(data))
    return int(not all(harness.all_exact(rows.values()) for rows in results.values()))


if __name__ == "__main__":
    sys.exit(main())
