"""How often a drafted node is accepted, by its depth and rank: the table of `optimal-static`.

    python -m benchmarks.acceptance --output sage_core/assets/acceptance.json
    python -m benchmarks.acceptance --model TARGET --draft DRAFT --output table.json

The texts are decoded with a probe tree: the draft's likeliest path, at each of 12 levels its 8
likeliest tokens. The items are rendered ones that no comparison measures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sage_core.bench.calibration import FixedTree
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.pair_loading import LoadedPair, load_pair
from sage_core.pipeline import Options
from sage_core.trees.policies import optimal_static
from sage_core.trees.steps import Step
from training.bench_items import CALIBRATION_SEED, held_out

SEED = CALIBRATION_SEED + 1
"""Neither what a comparison measures nor what it chooses settings on."""


def probe(pair: LoadedPair, items: int, seed: int, limit: int) -> list[Step]:
    """The steps of all items under the probe tree."""
    from sage_core.bench.engine import PairEngine

    engine = PairEngine(pair, Options(max_new_tokens=limit))
    decoder = SpeculativeDecoder(pair.target, pair.draft, FixedTree(optimal_static.PROBE))
    steps: list[Step] = []
    for number, item in enumerate(held_out(items, seed), 1):
        prepared = engine.prepare(item.request(0, ()))
        output = decoder.generate(**prepared.inputs, **prepared.options)
        steps += output.steps
        print(f"\r{number} of {items} items", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return steps


def as_json(data: dict[str, Any]) -> str:
    """The table as a file has it: a depth to a line."""
    rows = {depth: json.dumps(ranks) for depth, ranks in data["acceptance"].items()}
    text = json.dumps(data | {"acceptance": {depth: f"@{depth}" for depth in rows}}, indent=1)
    for depth, row in rows.items():
        text = text.replace(f'"@{depth}"', row)
    return text + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="the target (default: the bundled pair)")
    parser.add_argument("--draft", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--output", type=Path, help="write JSON here instead of standard output")
    arguments = parser.parse_args(argv)
    pair = load_pair(arguments.model, arguments.draft, arguments.device)
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
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
