"""How far the draft's confidence can be believed, and what its bounds promise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.evidence.bench import Bench
from benchmarks.evidence.bins import Bin, binned, calibration_error
from benchmarks.evidence.bounds import confidence_needed, confidence_published, corrected, lemma
from benchmarks.evidence.drawing import reliability
from benchmarks.evidence.page import number, percent, span, table
from benchmarks.evidence.recording import K, Recording, record
from benchmarks.evidence.series import ratio_of_sums

TITLE = "Calibration of the draft's confidence, and the bounds on it"
ITEMS = 40
ALPHA = tuple(i / 10 for i in range(11))
PROBABILITY = (0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0001)
EPSILON = 0.05
FIRST = 0.5 + 2 * EPSILON
"""The first choice that both confidences are meant to promise: 0.6 for ε = 0.05."""

Pair = tuple[np.ndarray, np.ndarray]


def run(bench: Bench) -> dict[str, Any]:
    found = record(bench, ITEMS)
    tables = {
        "alpha": binned([(one.alpha, one.right) for one in found], ALPHA),
        "first": binned([(one.probs[:, 0], one.right) for one in found], PROBABILITY),
        "candidates": binned([_candidates(one) for one in found], PROBABILITY),
        "cumulative": binned([_nodes(one) for one in found], PROBABILITY),
    }
    return {
        "texts": len(found),
        "places": sum(len(one.probs) for one in found),
        "nodes": sum(len(step.tree) for one in found for step in one.steps),
        "bins": {name: [asdict(b) for b in bins] for name, bins in tables.items()},
        "errors": {name: calibration_error(bins) for name, bins in tables.items()},
        "ranks": ranks(found),
        "bounds": bounds(found),
        "points": _points(found),
    }


def _candidates(one: Recording) -> Pair:
    """Each of the K likeliest tokens of each place: its probability, and if it was the one."""
    right = one.ranks[:, None] == np.arange(K)[None, :]
    return one.probs.ravel(), right.ravel()


def _nodes(one: Recording) -> Pair:
    """Each node of each tree: the draft's probability of its path, and if it was accepted."""
    pairs = [
        (value, node in step.accepted)
        for step in one.steps
        for node, value in enumerate(step.tree.cumulative)
    ]
    return np.array([value for value, _ in pairs]), np.array([hit for _, hit in pairs])


def ranks(found: Sequence[Recording]) -> list[dict[str, Any]]:
    """How often the target's token is the draft's choice of each rank, and what the draft said."""
    hits = np.array([[(one.ranks == r).sum() for r in range(K)] for one in found])
    counts = np.array([[len(one.ranks)] * K for one in found])
    rate, low, high = ratio_of_sums(hits, counts)
    said = np.concatenate([one.probs for one in found]).mean(axis=0)
    return [
        {"rank": r, "rate": float(rate[r]), "interval": (float(low[r]), float(high[r]))}
        | {"probability": float(said[r])}
        for r in range(K)
    ]


def bounds(found: Sequence[Recording]) -> dict[str, Any]:
    """Lemma 4.3 and the guarantee of Theorem 4.4, published and corrected, at every place."""
    alpha, first, right, gaps, whole = (
        np.concatenate([getattr(one, name) for one in found])
        for name in ("alpha", "first", "right", "gaps", "probs")
    )
    short = lemma(alpha, K) - first
    return {
        "k": K,
        "epsilon": EPSILON,
        "first": FIRST,
        "counterexample": counterexample(),
        "lemma_broken": float((short > 1e-9).mean()),
        "lemma_worst": float(short.max()),
        "corrected_broken": float((corrected(alpha, K) - first > 1e-9).mean()),
        "close": float((gaps <= EPSILON).mean()),
        "thresholds": [
            {"name": name, "alpha": threshold}
            | promised(alpha >= threshold, first, whole[:, 0], right, gaps)
            for name, threshold in _thresholds()
        ],
    }


def _thresholds() -> Iterator[tuple[str, float]]:
    yield "published", confidence_published(FIRST, K)
    yield "corrected", confidence_needed(FIRST, K)


def promised(
    taken: np.ndarray, first: np.ndarray, whole: np.ndarray, right: np.ndarray, gaps: np.ndarray
) -> dict[str, Any]:
    """What is seen at the places that are confident enough.

    Args:
        taken: bool (n,), which places those are.
        first: (n,) the first choice's probability among the K likeliest.
        whole: (n,) the same among all tokens, which is what is accepted or not.
        right: bool (n,), whether the first choice was accepted.
        gaps: (n,) greatest difference of the two models' probabilities.
    """
    count = int(taken.sum())
    close = taken & (gaps <= EPSILON)
    if not count:
        return {"places": 0}
    return {
        "places": count,
        "share": float(taken.mean()),
        "least_first": float(first[taken].min()),
        "first_below": float((first[taken] < FIRST - 1e-9).mean()),
        "whole_below": float((whole[taken] < FIRST - 1e-9).mean()),
        "accepted": float(right[taken].mean()),
        "close": float(close.sum() / count),
        "accepted_close": float(right[close].mean()) if close.any() else None,
        "accepted_apart": float(right[taken & ~close].mean()) if (taken & ~close).any() else None,
    }


def counterexample() -> dict[str, float]:
    """Two tokens at a half each, of ten: what the lemma says of the greater, and what it is."""
    alpha = 1 - float(np.log(2) / np.log(K))
    return {
        "alpha": alpha,
        "lemma": float(lemma(alpha, K)),
        "corrected": float(corrected(alpha, K)),
        "first": 0.5,
    }


def _points(found: Sequence[Recording], most: int = 1500) -> list[tuple[float, float]]:
    """(α, first choice) of places spread over all texts, for the plot."""
    alpha = np.concatenate([one.alpha for one in found])
    first = np.concatenate([one.first for one in found])
    chosen = np.random.default_rng(0).permutation(len(alpha))[:most]
    return [(round(float(alpha[i]), 4), round(float(first[i]), 4)) for i in chosen]


def page(data: dict[str, Any]) -> list[str]:
    lines = [
        f"{data['texts']} texts, {data['places']} places along the target's own text, and "
        f"{data['nodes']} nodes of the trees of `sage-paper`. Accepted: the target chose it. 95%: "
        "over texts. The calibration error is the mean distance between what was said and what "
        "came, weighted by count.",
    ]
    titles = {
        "alpha": ("By confidence α, the first choice", "places"),
        "first": ("By its probability, the first choice", "places"),
        "candidates": (
            "By a candidate's probability, the ten likeliest of each place",
            "candidates",
        ),
        "cumulative": ("By the probability of a node's path, nodes of `sage-paper`", "nodes"),
    }
    for name, (title, counted) in titles.items():
        said = "mean α" if name == "alpha" else "draft says"
        rows = [_bin_row(Bin(**b)) for b in data["bins"][name]]
        error = "" if name == "alpha" else f" (calibration error {number(data['errors'][name], 3)})"
        lines += ["", f"{title}{error}:", ""]
        lines += table(["from – to", counted, said, "accepted", "95%"], rows)
    rows = [
        [r["rank"] + 1, percent(r["probability"]), percent(r["rate"]), _percents(r["interval"])]
        for r in data["ranks"]
    ]
    lines += ["", "By rank among the draft's choices:", ""]
    lines += table(["rank", "draft says", "accepted", "95%"], rows)
    return lines + _bounds_page(data["bounds"])


def _bin_row(b: Bin) -> list[Any]:
    high = min(b.high, 1.0)
    said = number(b.mean, 3)
    return [f"{b.low:g} – {high:g}", b.count, said, percent(b.rate), _percents(b.interval)]


def _percents(interval: Sequence[float]) -> str:
    return span([100 * end for end in interval], 1) + "%"


def _bounds_page(b: dict[str, Any]) -> list[str]:
    c = b["counterexample"]
    head = ["confidence", "α from", "share of places", f"first choice below {b['first']:g}"]
    head += ["of all tokens", "least seen", "accepted", f"models within {b['epsilon']:g}"]
    head += ["accepted there", "accepted elsewhere"]
    rows = [
        [
            t["name"],
            number(t["alpha"], 3),
            percent(t.get("share")),
            percent(t.get("first_below"), 2),
            percent(t.get("whole_below"), 2),
            number(t.get("least_first"), 3),
            percent(t.get("accepted"), 2),
            percent(t.get("close")),
            percent(t.get("accepted_close"), 2),
            percent(t.get("accepted_apart"), 2),
        ]
        for t in b["thresholds"]
    ]
    return [
        "",
        "## The bounds",
        "",
        f"Lemma 4.3 promises a first choice of at least 1/k + α(k−1)/k. Two tokens at a half: α = "
        f"{c['alpha']:.3f}, promised {c['lemma']:.3f}, and it is {c['first']:.1f}; k^(α−1) gives "
        f"{c['corrected']:.3f}. Of the places here {percent(b['lemma_broken'])} break the lemma, "
        f"the worst by {b['lemma_worst']:.3f}, and {percent(b['corrected_broken'])} break "
        "k^(α−1).",
        "",
        f"Theorem 4.4 in our reading: where no token's probability differs by more than "
        f"ε = {b['epsilon']:g} between the models, a first choice of ½ + 2ε = {b['first']:g} or "
        "more is accepted. The published confidence that should give one follows from the lemma, "
        "the corrected one from k^(α−1). The ten likeliest tokens are not all tokens: the fifth "
        "column counts first choices that are too weak among all.",
        "",
        *table(head, rows),
        "",
        f"Over all places the models are within {b['epsilon']:g} of each other in "
        f"{percent(b['close'])}.",
    ]


def draw(data: dict[str, Any]) -> Any:
    alpha = np.linspace(0, 1, 101)
    curves = {
        "Lemma 4.3, published": lemma(alpha, K).tolist(),
        "k^(α−1), holds": corrected(alpha, K).tolist(),
    }
    titles = {"first": "first choice", "candidates": "candidates", "cumulative": "paths of nodes"}
    said = {title: data["bins"][name] for name, title in titles.items()}
    return reliability(said, data["bins"]["alpha"], data["points"], alpha.tolist(), curves)
