"""Figure 2: autocorrelation of the draft's entropy, and whether it predicts accepted length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.evidence.bench import Bench, Part
from benchmarks.evidence.recording import Recording, record
from benchmarks.evidence.series import autocorrelation, correlation
from benchmarks.harness import number, span, table

ITEMS = 40
LAGS = {"token": 24, "step": 8}
AHEAD = 10
"""Right choices in a row are counted up to here."""


def right_ahead(right: np.ndarray, cap: int) -> np.ndarray:
    """For each place how many of the draft's first choices in a row are the target's, from it on.

    Counted up to ``cap``; the last ``cap`` - 1 places are left out, where the text's end would
    cut the count short.

    Args:
        right: bool (n,).

    Returns:
        int (max(0, n - cap + 1),).
    """
    found = [
        next((k for k in range(cap) if not right[place + k]), cap)
        for place in range(len(right) - cap + 1)
    ]
    return np.array(found, dtype=np.int64)


def run(bench: Bench) -> dict[str, Any]:
    found = record(bench, ITEMS)
    series = {
        "token": [one.entropy for one in found],
        "step": [one.entropy[one.roots] for one in found],
    }
    return {
        "texts": len(found),
        "places": sum(len(one.probs) for one in found),
        "steps": sum(len(one.steps) for one in found),
        "autocorrelation": {
            name: [asdict(lag) for lag in autocorrelation(values, LAGS[name])]
            for name, values in series.items()
        },
        "one_mean": {
            name: [asdict(lag) for lag in autocorrelation(values, LAGS[name], own_means=False)]
            for name, values in series.items()
        },
        "foresight": [
            {"by": name, "correlation": value, "interval": interval}
            for name, (value, interval) in foresight(found).items()
        ],
    }


def foresight(found: Sequence[Recording]) -> dict[str, tuple[float, tuple[float, float]]]:
    """What correlates with the right choices ahead of a step's root, and how much.

    Right choices ahead are a matter of the two models alone: unlike accepted lengths they do not
    hang on the tree that the rule happened to build.
    """
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for one in found:
        ahead = right_ahead(one.right, AHEAD)
        roots = [place for place in one.roots if place < len(ahead)]
        if len(roots) < 2:
            continue
        here, before = np.array(roots[1:]), np.array(roots[:-1])
        coming = ahead[here]
        known = {
            "α of this step's own root": one.alpha[here],
            "α of the step before, as published": one.alpha[before],
            "accepted length of the step before": one.accepted[: len(here)],
        }
        for name, values in known.items():
            pairs.setdefault(name, []).append((values, coming))
    return {name: correlation(values) for name, values in pairs.items()}


def page(data: dict[str, Any]) -> list[str]:
    lines = [
        f"{data['texts']} texts, {data['places']} places, {data['steps']} steps of `sage-paper`. "
        "Entropy of the draft's ten likeliest tokens, along the target's own text. Each text's "
        "mean is taken off first. 95%: over texts. Chance: the 95% range when each text's values "
        "are shuffled. With one mean for all texts, a text that is hard throughout counts as "
        "memory too.",
    ]
    for name, title in (("token", "From token to token"), ("step", "From step to step")):
        pooled = [number(lag["value"], 3) for lag in data["one_mean"][name]]
        rows = [
            [lag["lag"], number(lag["value"], 3), span(lag["interval"]), span(lag["chance"]), one]
            for lag, one in zip(data["autocorrelation"][name], pooled, strict=True)
        ]
        head = ["lag", "autocorrelation", "95%", "chance", "with one mean for all texts"]
        lines += ["", f"{title}:", "", *table(head, rows)]
    rows = [
        [one["by"], number(one["correlation"], 3), span(one["interval"])]
        for one in data["foresight"]
    ]
    return [
        *lines,
        "",
        f"How many of the draft's first choices in a row will be right from a step's root on (at "
        f"most {AHEAD} counted), and what is known of it; Pearson's correlation:",
        "",
        *table(["known", "correlation", "95%"], rows),
    ]


def draw(data: dict[str, Any]) -> Any:
    titles = {"token": "lag in tokens", "step": "lag in steps"}
    return plots.lags([(titles[k], v) for k, v in data["autocorrelation"].items()])


PART = Part("Autocorrelation of the draft's entropy (Figure 2)", run, page, draw)
