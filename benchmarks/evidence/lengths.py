"""Figure 3: accepted length and speed as a text grows to 2,048 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.evidence.bench import REFERENCE, Bench, Part
from benchmarks.evidence.speed import TIME
from benchmarks.harness import number, percent, rotated, table
from sage_core.trees.steps import Step

ITEMS = 2
LENGTHS = (64, 128, 256, 512, 1024, 2048)
METHODS = (REFERENCE, "static", "sage-paper", "sage")
_GRAM = 8  # tokens in a row that count as a repetition


@dataclass(frozen=True)
class Reach:
    """Totals of the steps until a text has so many new tokens; seconds since the first one."""

    tokens: int
    steps: int
    accepted: int
    seconds: float


def reached(steps: Sequence[Step], times: Sequence[float], lengths: Sequence[int]) -> list[Reach]:
    """The totals when a text first has each of the ``lengths``, as far as it comes.

    The prefill's own token counts for the length and for nothing else.

    Args:
        steps: of one text.
        times: seconds from the first token to the end of each step.
        lengths: in tokens.
    """
    found: list[Reach] = []
    tokens = count = accepted = 0
    left = sorted(lengths)
    for step, seconds in zip(steps, times, strict=True):
        tokens += len(step.tokens)
        if not step.is_prefill:
            count += 1
            accepted += len(step.accepted)
        while left and tokens >= left[0]:
            found.append(Reach(tokens, count, accepted, seconds))
            left.pop(0)
    return found


def repeated(tokens: Sequence[int], start: int, end: int, size: int = _GRAM) -> float:
    """The share of runs of ``size`` tokens beginning in [start, end) that occurred before."""
    seen: set[tuple[int, ...]] = set()
    again = total = 0
    for place in range(min(end, len(tokens) - size + 1)):
        run = tuple(tokens[place : place + size])
        if place >= start:
            total += 1
            again += run in seen
        seen.add(run)
    return again / total if total else 0.0


def run(bench: Bench) -> dict[str, Any]:
    longest = LENGTHS[-1]
    engine = bench.engine(longest, min_new_tokens=longest)  # no end of text before that
    texts: list[dict[str, Any]] = []
    for place, item in enumerate(bench.inputs(ITEMS, engine)):
        found: dict[str, Any] = {"item": item.id, "methods": {}, "exact": True}
        tokens: tuple[int, ...] = ()
        for name in rotated(METHODS, place):
            steps, times = bench.clocked(name, item)
            written = tuple(token for step in steps for token in step.tokens)
            tokens = tokens or written
            found["exact"] &= written == tokens
            found["methods"][name] = [asdict(r) for r in reached(steps, times, LENGTHS)]
        places = pairwise((0, *LENGTHS))
        found["said_before"] = [repeated(tokens, low, high) for low, high in places]
        texts.append(found)
    return {"lengths": LENGTHS, "clock": bench.clock, "texts": texts}


def figures(data: dict[str, Any], name: str, *, within: bool) -> list[dict[str, float]]:
    """By length: τ over all texts, and the median text's tokens/s.

    ``within`` takes the stretch since the length before; otherwise the text from its start.
    """
    rows = []
    for place in range(len(data["lengths"])):
        parts = []
        for text in data["texts"]:
            reach = text["methods"][name]
            zero = {"tokens": 1, "steps": 0, "accepted": 0, "seconds": 0.0}
            before = reach[place - 1] if within and place else zero
            parts.append({key: reach[place][key] - before[key] for key in zero})
        steps = sum(part["steps"] for part in parts)
        rates = [part["tokens"] / part["seconds"] for part in parts if part["seconds"] > 0]
        rows.append(
            {
                "accepted": sum(part["accepted"] for part in parts) / max(1, steps),
                "rate": float(np.median(rates)) if rates else 0.0,
            }
        )
    return rows


def page(data: dict[str, Any]) -> list[str]:
    exact = sum(text["exact"] for text in data["texts"])
    lines = [
        "The bundled pair ends a description after about a hundred tokens. Here the end of the "
        f"text was forbidden (`min_new_tokens={data['lengths'][-1]}`), and what follows is no "
        "description: the last column is the share of it that repeats earlier text, in runs of "
        f"{_GRAM} tokens. {len(data['texts'])} texts, one repeat, methods in rotated "
        f"order; all methods gave the same ids in {exact} of {len(data['texts'])}. Speed-up: the "
        f"ratio of the median texts, {TIME[data['clock']]}. Forbidding the end of the text takes "
        "a logits processor, which costs every method a little.",
    ]
    repeats = np.mean([text["said_before"] for text in data["texts"]], axis=0)
    for title, within in (("From the start of the text", False), ("Since the row above", True)):
        by_name = {name: figures(data, name, within=within) for name in METHODS}
        base = by_name[REFERENCE]
        drafting = [name for name in METHODS if name != REFERENCE]
        head = ["tokens"]
        for name in drafting:
            head += [f"{name}: τ", "tokens/s", "speed-up"]
        head += [f"{REFERENCE}: tokens/s", *(["repeated"] if within else [])]
        rows = []
        for place, length in enumerate(data["lengths"]):
            row = [str(length)]
            for name in drafting:
                one = by_name[name][place]
                row += [number(one["accepted"]), number(one["rate"], 1)]
                row += [number(one["rate"] / base[place]["rate"])]
            row += [number(base[place]["rate"], 1), *([percent(repeats[place])] if within else [])]
            rows.append(row)
        lines += ["", f"{title}:", "", *table(head, rows)]
    return lines


def draw(data: dict[str, Any]) -> Any:
    x = list(data["lengths"])
    tau: dict[str, Any] = {}
    speed: dict[str, Any] = {}
    base = figures(data, REFERENCE, within=True)
    for name in METHODS[1:]:
        found = figures(data, name, within=True)
        tau[name] = (x, [row["accepted"] for row in found], None)
        ratios = [row["rate"] / b["rate"] for row, b in zip(found, base, strict=True)]
        speed[name] = (x, ratios, None)
    label = "new tokens, each point the stretch since the one before"
    return plots.panels(
        [("accepted length τ", label, tau), ("speed-up over autoregressive", label, speed)],
        logarithmic=True,
    )


PART = Part("Accepted length and speed against the length of the text (Figure 3)", run, page, draw)
