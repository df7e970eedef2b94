"""Is sampled text distributed as the target's own? At length, where the tests take samples.

    python -m benchmarks.sampling --only tables --output benchmarks/results/sampling-tables
    python -m benchmarks.sampling --only tables --policies sage
    python -m benchmarks.sampling --only pair --output benchmarks/results/sampling-pair
    python -m benchmarks.sampling --draws 2000 --texts 20

Tables: models so small that the probability of every text of four tokens is known. Texts are drawn
by the real loop, drafter and rules and compared with these probabilities by χ² and total variation
distance, and so are texts by deliberately wrong rules, which must be detected. Every way to choose
candidates goes with every policy that allows it and every warper, and looked-up branches join the
trees of two. The texts of such a comparison are drawn all at once (`tests.tiny.together`); some
are drawn one by one as well.
The pair: the place of each drawn token in the distribution that the target alone gives, from a
plain pass over the finished text, must be uniform. (That a seeded text is `generate`'s own is part
of `benchmarks.exactness`; accepted lengths of both ways to choose candidates are compared by
`sage bench --temperature T --compare static,static+drawn`.)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from benchmarks import environment, harness
from benchmarks.harness import number
from benchmarks.sampling_tables import DETECTED, PLAUSIBLE, Comparison, singles, tables, together
from sage_core.generation.prepare import prepare
from sage_core.pair_loading import LoadedPair
from tests.tiny.tables import chi2_p_value
from training.world.inputs import items

SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 1.2, "top_k": 50, "top_p": 0.95}
LIMIT = 48


def places(pair: LoadedPair, texts: int) -> Iterator[Comparison]:
    """Places of the drawn tokens in the target's own distribution: uniform, if drawn from it."""
    for policy, candidates in (("sage", "topk"), ("static", "drawn"), ("sage-paper", "drawn")):
        decoder = harness.decoder(pair, policy, candidates=candidates)
        random = np.random.default_rng(5)
        found: list[float] = []
        accepted = []
        for seed, item in enumerate(items(texts)):
            inputs = harness.prepared(pair, item)
            output = decoder.generate(**inputs, **SAMPLING, max_new_tokens=LIMIT, seed=seed)
            found += _places(pair.target, inputs, output.sequences, random)
            accepted.append(output.stats.mean_accepted)
        counts = np.bincount((np.array(found) * 20).astype(int).clip(max=19), minlength=20)
        due = len(found) / 20
        chi2 = float(((counts - due) ** 2 / due).sum())
        yield Comparison(
            *("places of tokens", candidates, policy, len(found)),
            *(chi2, 19, chi2_p_value(chi2, 19), None, None, float(np.mean(accepted))),
        )


def _places(target: Any, inputs: Any, sequences: torch.Tensor, random: Any) -> list[float]:
    """For every new token a number that is uniform on [0, 1) if it was drawn from the target.

    The probability of all likelier tokens, plus a random share of its own.
    """
    rules = prepare(target, {**inputs, **SAMPLING, "max_new_tokens": LIMIT}).processors
    prompt = inputs["input_ids"].shape[1]
    whole = {**inputs, "input_ids": sequences, "attention_mask": torch.ones_like(sequences)}
    with torch.inference_mode():
        logits = target(**whole).logits[0].float()
    found = []
    for position in range(prompt, sequences.shape[1]):
        scores = rules(sequences[:, :position], logits[position - 1 : position].clone())
        probs = scores[0].double().softmax(-1)
        own = probs[sequences[0, position]]
        found.append(float(probs[probs > own].sum() + random.random() * own))
    return found


def report(data: dict[str, Any], rows: list[Comparison]) -> str:
    wrong = sum(not row.as_it_should_be for row in rows)
    verdict = f"{wrong} are not as they should be" if wrong else "all are as they should be"
    notes = [
        "p: the chance of so large a χ² if the texts follow the target; distance: total variation "
        "from the exact probabilities, and in brackets what chance alone gives on average",
        f"right rules need p above {PLAUSIBLE}, wrong ones must come out below {DETECTED}: "
        f"{verdict}; {harness.TAU_ALONE}",
    ]
    head = ["candidates and warpers", "policy", "draws", "χ² (freedom)", "p", "distance", "τ"]
    blocks = []
    for part in dict.fromkeys(row.part for row in rows):
        cells = [
            [
                *(row.what, row.policy, f"{row.draws:,}", f"{row.chi2:.0f} ({row.freedom})"),
                f"{row.p_value:.2g}",
                "" if row.distance is None else f"{row.distance:.4f} ({row.by_chance:.4f})",
                number(row.accepted),
            ]
            for row in rows
            if row.part == part
        ]
        blocks.append([f"## {part.capitalize()}", "", *harness.table(head, cells)])
    return harness.report("Sampling", data, notes, *blocks)


def done(rows: Iterator[Comparison]) -> list[Comparison]:
    """The comparisons, each reported as it is done."""
    found = []
    for row in rows:
        print(f"{row.part}: {row.what}, {row.policy}: p {row.p_value:.2g}", file=sys.stderr)
        found.append(row)
    return found


def main(argv: list[str] | None = None) -> int:
    """Run all parts; 1 if any comparison is not as it should be."""
    parser = harness.options(__doc__, draws=200_000, singles=17_000, texts=120)
    parser.set_defaults(dtype="float32")
    parser.add_argument("--only", choices=("tables", "pair"), help="the other parts are left out")
    parser.add_argument(
        "--policies", type=harness.listed(str), default=(), help="only these policies' tables"
    )
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows: list[Comparison] = []
    pair = None
    if arguments.only != "pair":
        rows += done(tables(arguments.draws, arguments.policies))
        rows += together(rows)
        if not arguments.policies:
            rows += done(singles(arguments.singles))
    if arguments.only != "tables":
        pair = harness.load(arguments)
        rows += done(places(pair, arguments.texts))
    data = harness.described("benchmarks.sampling", arguments, pair)
    data["comparisons"] = [asdict(row) for row in rows]
    environment.write(arguments.output, data, report(data, rows))
    return int(not all(row.as_it_should_be for row in rows))


if __name__ == "__main__":
    sys.exit(main())
