"""What packed weights and traced passes save of a target's pass on a CPU, by tokens in the pass.

    python -m benchmarks.cpu_passes --output benchmarks/results/cpu-passes
    python -m benchmarks.cpu_passes --model "$(python -m benchmarks.real_weights)"

Passes over a chain behind a prompt of 200 tokens, by each executor in rotated order; the least of
all rounds counts, since other processes only ever add time.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks import environment, harness
from sage_core.generation.prepare import prepare
from sage_core.pair_loading import load_pair
from sage_core.runtime.cpu.executor import CpuBackend, CpuExecutor
from sage_core.runtime.cpu.packed_weights import PackedWeights
from sage_core.runtime.runner import Runner
from sage_core.runtime.tree_runner import EagerExecutor, Executor

TOKENS = (1, 2, 4, 8, 16, 32)
PROMPT = 200
COLUMNS = ("eager", "packed", "traced", "both")


def executors(model: Any) -> dict[str, Executor]:
    """The model's own modules, and what is done beyond them, alone and together."""
    both = CpuBackend(max_bytes=1 << 33).executor(model)
    assert isinstance(both, CpuExecutor)
    nothing = PackedWeights(0)
    made = (EagerExecutor(), both.observable(), CpuExecutor(nothing, both.traced), both)
    return dict(zip(COLUMNS, made, strict=True))


@torch.inference_mode()
def times(model: Any, rounds: int) -> dict[str, dict[int, float]]:
    """Milliseconds of a pass by executor and number of tokens."""
    ids = torch.arange(PROMPT)[None] % 500 + 100
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    runners = {name: Runner(model, made) for name, made in executors(model).items()}
    for runner in runners.values():
        runner.prefill(prepare(model, inputs, {"max_new_tokens": 8}), 2 * max(TOKENS))
    found: dict[str, dict[int, float]] = defaultdict(lambda: dict.fromkeys(TOKENS, np.inf))
    for turn in range(rounds + 3):  # the first three rounds trace and allocate
        for tokens in TOKENS:
            causal = np.tril(np.ones((tokens, tokens), dtype=bool))
            for name in harness.rotated(COLUMNS, turn):
                runner = runners[name]
                begun = perf_counter()
                runner.forward([150] * tokens, range(tokens), causal)
                took = 1000 * (perf_counter() - begun)
                runner.commit([0] if turn < 3 else [])  # a trace needs texts of two lengths
                if turn >= 3:
                    found[name][tokens] = min(found[name][tokens], took)
    return dict(found)


def main(argv: list[str] | None = None) -> int:
    parser = harness.options(__doc__, pair=False, model="", rounds=15)
    arguments = parser.parse_args(argv)
    pair = load_pair(arguments.model or None, None, "cpu", "float32")
    found = times(pair.target, arguments.rounds)
    lines = ["| tokens | " + " | ".join(COLUMNS) + " |", "|--:" * (1 + len(COLUMNS)) + "|"]
    lines += [
        f"| {n} | " + " | ".join(f"{found[name][n]:.2f}" for name in COLUMNS) + " |" for n in TOKENS
    ]
    where = environment.describe("benchmarks.cpu_passes")
    text = [f"# Milliseconds of a target pass: {pair.target_id}", "", *lines, ""]
    data = {"environment": where, "target": pair.target_id, "milliseconds": found}
    environment.write(arguments.output, data, "\n".join([*text, *environment.as_markdown(where)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
