"""Loss curves from a training log: `python -m training.plot --csv FILE --out FILE.png`."""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Curves = dict[tuple[str, str], tuple[list[float], list[float]]]


def read_curves(path: Path) -> Curves:
    """Minutes and values by (stage, name)."""
    out: Curves = defaultdict(lambda: ([], []))
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            minutes, values = out[row["stage"], row["name"]]
            minutes.append(float(row["seconds"]) / 60)
            values.append(float(row["value"]))
    return dict(out)


def plot(curves: Curves, out: Path) -> None:
    panels = (
        ("target", ("loss", "facts"), "target: cross-entropy", True),
        ("target", ("right", "facts_right"), "target: tokens right", False),
        ("draft", ("divergence",), "draft: divergence from the target", True),
        ("draft", ("agree",), "draft: agreement with the target", False),
    )
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), dpi=100)
    for axis, (stage, names, title, logarithmic) in zip(axes.flat, panels, strict=True):
        for name in names:
            if (stage, name) in curves:
                axis.plot(*curves[stage, name], label=name)
        axis.set_title(title)
        axis.set_xlabel("minutes")
        axis.grid(alpha=0.3)
        axis.legend(loc="best")
        if logarithmic:
            axis.set_yscale("log")
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("training/results/loss.png"))
    arguments = parser.parse_args()
    plot(read_curves(arguments.csv), arguments.out)


if __name__ == "__main__":
    main()
