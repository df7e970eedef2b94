"""How often a drafted node is accepted, by its depth and rank: the table of `optimal-static`.

    python -m benchmarks.acceptance --draft auto --output sage_core/assets/acceptance.json
    python -m benchmarks.acceptance --pair DIR --output table.json

The texts are decoded with a probe tree: the draft's likeliest path, with its 8 likeliest tokens at
each of 12 levels. The items are rendered ones that no comparison measures.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import harness
from sage_core.bench.calibration import FixedTree
from sage_core.bench.engine import PairEngine
from sage_core.options import Options
from sage_core.pair_loading import LoadedPair
from sage_core.trees.policies import optimal_static
from sage_core.trees.steps import Step
from training.bench_items import CALIBRATION_SEED, held_out

SEED = CALIBRATION_SEED + 1
"""Neither what a comparison measures nor what it chooses settings on."""


def probe(pair: LoadedPair, items: int, seed: int, limit: int) -> list[Step]:
    """The steps of all items under the probe tree."""
    engine = PairEngine(pair, Options(max_new_tokens=limit))
    decoder = harness.decoder(pair, FixedTree(optimal_static.PROBE))
    steps: list[Step] = []
    for number, item in enumerate(held_out(items, seed), 1):
        prepared = engine.prepare(item.request(0, ()))
        steps += decoder.generate(**prepared.inputs, **prepared.options).steps
        harness.progress(f"{number} of {items} items")
    harness.progress("")
    return steps


def as_json(data: dict[str, Any]) -> str:
    """The table as a file has it: a depth to a line."""
    depths = {depth: json.dumps(ranks) for depth, ranks in data["acceptance"].items()}
    text = json.dumps(data | {"acceptance": {depth: f"@{depth}" for depth in depths}}, indent=1)
    for depth, ranks in depths.items():
        text = text.replace(f'"@{depth}"', ranks)
    return text + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = harness.options(
        __doc__, items=60, seed=SEED, max_new_tokens=256, files="JSON to this file"
    )
    arguments = parser.parse_args(argv)
    pair = harness.load(arguments)
    steps = probe(pair, arguments.items, arguments.seed, arguments.max_new_tokens)
    data: dict[str, Any] = {
        "target": pair.target_id,
        "draft": pair.draft_id,
        "items": arguments.items,
        "seed": arguments.seed,
        "steps": len(steps),
        "tokens": sum(len(step.tokens) for step in steps),
        "acceptance": optimal_static.rates_to_json(optimal_static.acceptance_rates(steps)),
    }
    text = as_json(data)
    print(text, end="")
    if arguments.output:
        Path(arguments.output).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
