"""Is sampled text distributed as the target's own? At length, where the tests take samples.

    python -m benchmarks.sampling --only tables --output benchmarks/results/sampling-tables
    python -m benchmarks.sampling --only pair --output benchmarks/results/sampling-pair
    python -m benchmarks.sampling --policies sage --output benchmarks/results/sampling-tables
    python -m benchmarks.sampling --draws 2000 --texts 20 --repeats 50

Tables: models so small that the probability of every text of four tokens is known;
texts are drawn by the real loop, drafter and rules and compared with these probabilities by χ² and
total variation distance, and so are texts by deliberately wrong rules, which must be found out.
Every way to choose candidates goes with every policy that allows it and every warper, and branches
that are looked up join the trees of two. The texts of
such a row are drawn all at once (`tests.tiny.together`); some rows are drawn one by one as well.
The bundled pair against itself: the place of each drawn token in the distribution that the target
alone gives, worked out by a plain pass over the finished text, must be uniform. The bundled pair
against `generate`: how often each beginning of three tokens comes, from both. Beside these,
accepted length by temperature for both ways to choose candidates.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import environment
from benchmarks.pairs import measured_pair
from benchmarks.sampling_tables import (
    FOUND_OUT,
    PLAUSIBLE,
    Row,
    renewed,
    singles,
    tables,
    together,
)
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.generation.prepare import prepare
from sage_core.pair_loading import LoadedPair
from tests.tiny.tables import chi2_p_value
from training.world.inputs import items

FIGURES: dict[str, Any] = {"do_sample": True, "temperature": 1.2, "top_k": 50, "top_p": 0.95}


def places(pair: LoadedPair, texts: int) -> Iterator[Row]:
    """Where in the target's own distribution the drawn tokens lie: uniform, if they are drawn
    from it."""
    for policy, candidates in (("sage", "topk"), ("static", "drawn"), ("sage-paper", "drawn")):
        decoder = SpeculativeDecoder(pair.target, pair.draft, policy, candidates=candidates)
        random = np.random.default_rng(5)
        found: list[float] = []
        accepted = []
        for number, item in enumerate(items(texts)):
            inputs = pair.family.prepare(item.media, item.prompt)
            output = decoder.generate(**inputs, **FIGURES, max_new_tokens=48, seed=number)
            found += _places(pair.target, inputs, output.sequences, random)
            accepted.append(output.stats.mean_accepted)
        counts = np.bincount((np.array(found) * 20).astype(int).clip(max=19), minlength=20)
        due = len(found) / 20
        chi2 = float(((counts - due) ** 2 / due).sum())
        yield Row(
            *("places of tokens", candidates, policy, len(found)),
            *(chi2, 19, chi2_p_value(chi2, 19), None, None, float(np.mean(accepted))),
        )


def _places(target: Any, inputs: Any, sequences: torch.Tensor, random: Any) -> list[float]:
    """For every new token a number that is uniform on [0, 1) if it was drawn from the target.

    The probability of all likelier tokens, plus a random share of its own.
    """
    rules = prepare(target, {**inputs, **FIGURES, "max_new_tokens": 48}).processors
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


def beginnings(pair: LoadedPair, repeats: int) -> Iterator[Row]:
    """How often each beginning of three tokens comes: from `generate`, and from the engine."""
    item = next(items(1))
    inputs = pair.family.prepare(item.media, item.prompt)
    prompt, limit = inputs["input_ids"].shape[1], 6
    torch.manual_seed(0)
    theirs = Counter(
        tuple(ids[0, prompt : prompt + 3].tolist())
        for ids in (
            pair.target.generate(**inputs, **FIGURES, max_new_tokens=limit) for _ in range(repeats)
        )
    )
    for policy, candidates in (("sage", "topk"), ("static", "drawn")):
        decoder = SpeculativeDecoder(pair.target, pair.draft, policy, candidates=candidates)
        ours: Counter[Any] = Counter()
        accepted = []
        for number in range(repeats):
            output = decoder.generate(**inputs, **FIGURES, max_new_tokens=limit, seed=1000 + number)
            ours[tuple(output.sequences[0, prompt : prompt + 3].tolist())] += 1
            accepted.append(output.stats.mean_accepted)
        chi2, freedom = _two_samples(ours, theirs)
        yield Row(
            *("beginnings beside generate", candidates, policy, repeats, chi2, freedom),
            *(chi2_p_value(chi2, freedom), None, None, float(np.mean(accepted))),
        )


def _two_samples(ours: Counter[Any], theirs: Counter[Any]) -> tuple[float, int]:
    """χ² of two samples of one size, and its degrees of freedom; rare ones are taken together."""
    both = ours + theirs
    cells = [(ours[key], theirs[key]) for key, count in both.items() if count >= 10]
    rest = [(ours[key], theirs[key]) for key, count in both.items() if count < 10]
    if rest:
        cells.append((sum(a for a, _ in rest), sum(b for _, b in rest)))
    return sum((a - b) ** 2 / (a + b) for a, b in cells), len(cells) - 1


def lengths(pair: LoadedPair, texts: int) -> list[dict[str, Any]]:
    """Mean accepted length by temperature, policy and candidates, on the same inputs."""
    inputs = [pair.family.prepare(item.media, item.prompt) for item in items(texts, seed=7)]
    found = []
    for temperature in (0.3, 0.7, 1.0, 1.5):
        for policy in ("chain", "static"):
            row: dict[str, Any] = {"temperature": temperature, "policy": policy}
            for candidates in ("topk", "drawn"):
                decoder = SpeculativeDecoder(pair.target, pair.draft, policy, candidates=candidates)
                figures = {"do_sample": True, "temperature": temperature, "top_k": 0}
                stats = [
                    decoder.generate(**one, **figures, max_new_tokens=48, seed=number).stats
                    for number, one in enumerate(inputs)
                ]
                steps = sum(s.steps for s in stats)
                row[candidates] = sum(s.accepted for s in stats) / max(1, steps)
            found.append(row)
    return found


def as_markdown(
    rows: list[Row],
    taus: list[dict[str, Any]],
    env: dict[str, Any],
    later: Sequence[dict[str, Any]] = (),
) -> str:
    """The report; ``later`` are the runs that have renewed some of its rows."""
    lines = ["# Sampling", "", *environment.as_markdown(env)]
    for run in later:
        names = ", ".join(run["policies"])
        lines += [
            f"- then the rows of {names} again:",
            *environment.as_markdown(run["environment"]),
        ]
    lines.append("")
    for part in dict.fromkeys(row.part for row in rows):
        lines += [f"## {part.capitalize()}", ""]
        lines.append(
            "| candidates and warpers | policy | draws | χ² (freedom) | p | distance | τ |"
        )
        lines.append("|---|---|---|---|---|---|---|")
        for row in rows:
            if row.part != part:
                continue
            distance = "" if row.distance is None else f"{row.distance:.4f} ({row.by_chance:.4f})"
            lines.append(
                f"| {row.what} | {row.policy} | {row.draws:,} | {row.chi2:.0f} ({row.freedom}) "
                f"| {row.p_value:.2g} | {distance} | {row.accepted:.2f} |"
            )
        lines.append("")
    if taus:
        lines += ["## Accepted length τ by temperature, bundled pair", ""]
        lines += ["| temperature | policy | topk | drawn |", "|---|---|---|---|"]
        lines += [
            f"| {t['temperature']} | {t['policy']} | {t['topk']:.2f} | {t['drawn']:.2f} |"
            for t in taus
        ]
        lines.append("")
    bad = [row for row in rows if not row.as_it_should_be]
    verdict = (
        "All is as it should be." if not bad else f"{len(bad)} rows are not as they should be."
    )
    lines += [
        "p: the chance of so large a χ² if the texts follow the target. Distance: total variation "
        "from the exact probabilities, and in brackets what chance alone gives on average. τ: mean "
        f"accepted length. Right rules need p above {PLAUSIBLE}, wrong ones must come out below "
        f"{FOUND_OUT}. {verdict}",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run all parts; 1 if any row is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200_000, help="texts for each row of tables")
    parser.add_argument("--singles", type=int, default=17_000, help="texts drawn one by one a row")
    parser.add_argument("--texts", type=int, default=120, help="texts of the pair a policy")
    parser.add_argument("--repeats", type=int, default=1000, help="beginnings by each method")
    parser.add_argument("--only", choices=("tables", "pair"), help="the other parts are left out")
    parser.add_argument(
        "--policies",
        default="",
        help="measure the tables' rows of these policies alone, between commas, and put them into "
        "the report that --output names",
    )
    parser.add_argument("--pair", type=Path, help="a pair in place of the bundled one")
    parser.add_argument("--output", help="FILE.json and FILE.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.policies:
        return renew(arguments.output, arguments.policies.split(","), arguments.draws)
    rows: list[Row] = []
    taus: list[dict[str, Any]] = []
    if arguments.only != "pair":
        rows += _told(tables(arguments.draws))
        rows += together(rows)
        rows += _told(singles(arguments.singles))
    if arguments.only != "tables":
        pair = measured_pair(arguments.pair, "cpu", "float32")
        rows += _told(places(pair, arguments.texts))
        rows += _told(beginnings(pair, arguments.repeats))
        taus = lengths(pair, arguments.texts // 6)
    env = environment.describe("benchmarks.sampling")
    data = {"environment": env, "rows": [asdict(row) for row in rows], "accepted": taus}
    environment.write(arguments.output, data, as_markdown(rows, taus, env))
    return int(not all(row.as_it_should_be for row in rows))


def renew(output: str, names: list[str], draws: int) -> int:
    """Measure some policies' rows anew in a report that is there; 1 if any row is not right."""
    data = json.loads(Path(output).with_suffix(".json").read_text(encoding="utf-8"))
    rows = renewed(data, _told(tables(draws, names)))
    run = {"policies": names, "environment": environment.describe("benchmarks.sampling")}
    data |= {"rows": [asdict(row) for row in rows], "later": [*data.get("later", []), run]}
    markdown = as_markdown(rows, data["accepted"], data["environment"], data["later"])
    environment.write(output, data, markdown)
    return int(not all(row.as_it_should_be for row in rows))


def _told(rows: Iterator[Row]) -> list[Row]:
    """The rows, each told as it is done."""
    done = []
    for row in rows:
        print(f"{row.part}: {row.what}, {row.policy}: p {row.p_value:.2g}", file=sys.stderr)
        done.append(row)
    return done


if __name__ == "__main__":
    sys.exit(main())
