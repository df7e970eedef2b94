"""Calibration of the draft's confidence, and the bounds on its first choice.

Confidence is α = 1 - H / log k over the k largest draft probabilities, renormalised. Lemma 4.3 of
SAGE (arXiv 2602.00523) says p₁ >= 1/k + α(k-1)/k, which is false; p₁ >= exp(-H) = k^(α-1) holds,
since the greatest of any probabilities is at least exp of their negative entropy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.evidence.bench import Bench, Part
from benchmarks.evidence.recording import K, Recording, record
from benchmarks.evidence.series import Bin, binned, calibration_error, ratio_of_sums
from benchmarks.harness import number, percent, span, table

ITEMS = 40
ALPHA = tuple(i / 10 for i in range(11))
PROBABILITY = (0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0001)
EPSILON = 0.05
FIRST = 0.5 + 2 * EPSILON
"""The probability of a first choice that both confidences should guarantee: 0.6 for ε = 0.05."""

Pair = tuple[np.ndarray, np.ndarray]


def lemma(alpha: np.ndarray | float, k: int) -> np.ndarray:
    """Lemma 4.3's lower bound on the greatest of k probabilities, as published."""
    return 1 / k + np.asarray(alpha) * (k - 1) / k


def corrected(alpha: np.ndarray | float, k: int) -> np.ndarray:
    """The lower bound that holds: k^(α-1)."""
    return np.asarray(k ** (np.asarray(alpha, dtype=np.float64) - 1))


def confidence_published(first: float, k: int) -> float:
    """The confidence from which Lemma 4.3 guarantees a first choice of probability ``first``."""
    return (first - 1 / k) * k / (k - 1)


def confidence_needed(first: float, k: int) -> float:
    """The confidence from which the first choice surely has probability ``first``.

    Raises:
        ValueError: ``first`` is no probability above 1/k.
    """
    if not 1 / k <= first <= 1:
        raise ValueError(f"a first choice of k = {k} has a probability from 1/k to 1, not {first}")
    return 1 - float(np.log(1 / first) / np.log(k))


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
    """How often the target's token has each rank in the draft, and the draft's probability."""
    hits = np.array([[(one.ranks == r).sum() for r in range(K)] for one in found])
    counts = np.array([[len(one.ranks)] * K for one in found])
    rate, low, high = ratio_of_sums(hits, counts)
    predicted = np.concatenate([one.probs for one in found]).mean(axis=0)
    return [
        {"rank": r, "rate": float(rate[r]), "interval": (float(low[r]), float(high[r]))}
        | {"probability": float(predicted[r])}
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
            | observed(alpha >= threshold, first, whole[:, 0], right, gaps)
            for name, threshold in _thresholds()
        ],
    }


def _thresholds() -> Iterator[tuple[str, float]]:
    yield "published", confidence_published(FIRST, K)
    yield "corrected", confidence_needed(FIRST, K)


def observed(
    taken: np.ndarray, first: np.ndarray, whole: np.ndarray, right: np.ndarray, gaps: np.ndarray
) -> dict[str, Any]:
    """Figures of the places that are confident enough.

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
    """Two tokens at a half each, of ten: the lemma's bound on the greater, and its value."""
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
        "over texts. The calibration error is the mean distance between predicted and observed "
        "rate, weighted by count.",
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
        predicted = "mean α" if name == "alpha" else "draft's probability"
        rows = [_bin_row(Bin(**b)) for b in data["bins"][name]]
        error = "" if name == "alpha" else f" (calibration error {number(data['errors'][name], 3)})"
        lines += ["", f"{title}{error}:", ""]
        lines += table(["from – to", counted, predicted, "accepted", "95%"], rows)
    rows = [
        [r["rank"] + 1, percent(r["probability"]), percent(r["rate"]), _percents(r["interval"])]
        for r in data["ranks"]
    ]
    lines += ["", "By rank among the draft's choices:", ""]
    lines += table(["rank", "draft's probability", "accepted", "95%"], rows)
    return lines + _bounds_page(data["bounds"])


def _bin_row(b: Bin) -> list[Any]:
    high = min(b.high, 1.0)
    predicted = number(b.mean, 3)
    return [f"{b.low:g} – {high:g}", b.count, predicted, percent(b.rate), _percents(b.interval)]


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
        "Lemma 4.3 guarantees a first choice of at least 1/k + α(k−1)/k. For two tokens at a half, "
        f"α = {c['alpha']:.3f}, that is {c['lemma']:.3f} where the value is {c['first']:.1f}; "
        f"k^(α−1) gives {c['corrected']:.3f}. Of the places here {percent(b['lemma_broken'])} "
        f"violate the lemma, the worst by {b['lemma_worst']:.3f}, and "
        f"{percent(b['corrected_broken'])} violate "
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
    predicted = {title: data["bins"][name] for name, title in titles.items()}
    return plots.reliability(
        predicted, data["bins"]["alpha"], data["points"], alpha.tolist(), curves
    )


PART = Part("Calibration of the draft's confidence, and the bounds on it", run, page, draw)
