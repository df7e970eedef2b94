"""What a token costs as an answer grows: one long text, in windows of ever more tokens.

    python -m benchmarks.growth_length --output benchmarks/results/growth-length
    python -m benchmarks.growth_length --tokens 512,1024 --pair DIR --device cuda

Every method writes the same text, as many tokens as the last window's end, behind a short prompt,
in turn, several times. A method's row gives the milliseconds a token within each window; medians
count. A pair that ends its answers is made to go on: what it says then does not matter.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks import environment
from benchmarks.growth import prompt
from benchmarks.pairs import measured_pair, pair_arguments
from benchmarks.policies import now
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.pair_loading import LoadedPair

PROMPT = 256
METHODS = ("generate", "autoregressive", "chain", "sage")
Clock = list[tuple[int, float]]
"""(new tokens so far, seconds)."""


class Watch(StoppingCriteria):
    """Notes when `generate` has each of its tokens; stops nothing."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.times.append(now(input_ids.device))
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def written(pair: LoadedPair, method: str, new: int) -> tuple[Clock, list[int]]:
    """When each token was there, and the text."""
    inputs = prompt(pair, PROMPT)
    limits: dict[str, Any] = {"max_new_tokens": new, "min_new_tokens": new}
    if method == "generate":
        watch = Watch()
        criteria = StoppingCriteriaList([watch])
        ids = pair.target.generate(**inputs, **limits, do_sample=False, stopping_criteria=criteria)
        return list(enumerate(watch.times, 1)), ids[0].tolist()
    stream = SpeculativeDecoder(pair.target, pair.draft, method).stream(**inputs, **limits)
    clock: Clock = []
    count = 0
    for step in stream:
        count += len(step.tokens)
        clock.append((count, now(pair.target.device)))
    return clock, stream.output().sequences[0].tolist()


def windows(clock: Clock, ends: list[int]) -> list[float]:
    """Milliseconds a token from each end to the next, the first window from the first token."""
    marks = [clock[0]]
    for end in ends:
        marks.append(next(mark for mark in clock if mark[0] >= end))
    return [1e3 * (b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(marks)]


def measure(pair: LoadedPair, ends: list[int], repeats: int) -> list[dict[str, Any]]:
    """A row a method."""
    found: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    texts: dict[str, list[int]] = {}
    for _ in range(repeats):
        for method in METHODS:
            clock, texts[method] = written(pair, method, ends[-1])
            found[method].append(windows(clock, ends))
            print(method, [round(x, 2) for x in found[method][-1]], flush=True)
    return [
        {
            "method": method,
            "ms_per_token": [round(median(each), 3) for each in zip(*found[method], strict=True)],
            "exact": texts[method] == texts["generate"],
        }
        for method in METHODS
    ]


def report(data: dict[str, Any]) -> str:
    """The rows as Markdown."""
    ends = data["ends"]
    spans = [f"{a + 1} to {b}" for a, b in pairwise([1, *ends])]
    lines = ["# Time against generated length", "", *environment.as_markdown(data["environment"])]
    lines += [
        f"- {data['pair']}, {data['device']}, {data['dtype']}; behind {PROMPT} tokens, medians of "
        f"{data['repeats']}; milliseconds a token",
        "",
        f"| new tokens | {' | '.join(spans)} | as `generate` |",
        "|---|" + "--:|" * (len(ends) + 1),
    ]
    for row in data["rows"]:
        values = " | ".join(f"{value:.2f}" for value in row["ms_per_token"])
        lines.append(f"| {row['method']} | {values} | {'yes' if row['exact'] else 'NO'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    pair_arguments(parser)
    parser.add_argument("--tokens", default="128,256,512,1024,1536,2048", help="ends of windows")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    arguments = parser.parse_args()
    pair = measured_pair(arguments.pair, arguments.device, arguments.dtype)
    ends = [int(text) for text in arguments.tokens.split(",")]
    rows = measure(pair, ends, arguments.repeats)
    data = {
        "environment": environment.describe("benchmarks.growth_length"),
        "pair": pair.target_id,
        "device": pair.device,
        "dtype": pair.dtype,
        "repeats": arguments.repeats,
        "ends": ends,
        "rows": rows,
    }
    environment.write(arguments.output, data, report(data))


if __name__ == "__main__":
    main()
