"""What was trained and measured, as tables and a plot."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import environment
from benchmarks.distill.long import LONG
from benchmarks.distill.speed import BUNDLED, POLICIES, SETTINGS, SPEEDS
from benchmarks.distill.train import LONGER, MAIN, ROWS, VARIANTS

POINTS = 6
"""Points of the training whose τ is shown."""


def write(out: Path, output: str | None) -> None:
    """Gather the stages' files in ``out`` into one result, with what is missing left out."""
    data: dict[str, Any] = {"environment": environment.describe("benchmarks.distill")}
    rows = map(json.loads, (out / ROWS).read_text("utf-8").splitlines())
    data["trained"] = {row["kind"]: row for row in rows}  # the last of a kind has all of it
    for name in (SPEEDS, LONG):
        file = out / name
        data[file.stem] = json.loads(file.read_text("utf-8")) if file.is_file() else []
    environment.write(output, data, page(data))
    if output is not None:
        plot(data["trained"], Path(output).with_suffix(".png"))


def page(data: Mapping[str, Any]) -> str:
    lines = ["# Kinds of draft, trained side by side", ""]
    lines += environment.as_markdown(data["environment"])
    for names, title in (
        (MAIN, "Kinds"),
        (VARIANTS, "Branches and variants"),
        (LONGER, "Trained for longer"),
    ):
        rows = [data["trained"][name] for name in names if name in data["trained"]]
        if rows:
            lines += ["", f"## {title}", "", *_training(rows, data["speed"])]
    if data["speed"]:
        lines += ["", "## Under several trees", "", *_speeds(data["speed"])]
    if data["long"]:
        lines += ["", "## Many visual tokens", "", *_long(data["long"])]
    return "\n".join(lines)


def _training(rows: list[dict[str, Any]], speeds: list[dict[str, Any]]) -> list[str]:
    steps = [int(step) for step in rows[0]["tau_by_step"]]
    shown = sorted({steps[round(k * (len(steps) - 1) / (POINTS - 1))] for k in range(POINTS)})
    heads = " | ".join(str(step) for step in shown)
    lines = [
        f"| kind | trained weights | τ at step {heads} | training, s | accepted under `sage` "
        "| a draft pass, ms | × no draft |",
        "|---|--:|" + "--:|" * len(shown) + "--:|--:|--:|--:|",
    ]
    for row in rows:
        taus = " | ".join(_tau(row, step) for step in shown)
        last = max(row["seconds_by_step"].values())
        speed = next((s for s in speeds if _is(s, row["kind"], "sage", "greedy")), None)
        measured = (
            f"{speed['accepted']:.2f} | {speed['level_ms']:.2f} | {speed['ratio']:.2f}"
            if speed
            else "– | – | –"
        )
        size = f"{row['parameters'] / 1e6:.2f} M"
        lines.append(f"| {row['kind']} | {size} | {taus} | {last:.0f} | {measured} |")
    return lines


def _tau(row: dict[str, Any], step: int) -> str:
    tau = row["tau_by_step"].get(str(step))
    return "–" if tau is None else f"{tau:.2f}"


def _is(speed: dict[str, Any], kind: str, policy: str, setting: str) -> bool:
    return (speed["kind"], speed["policy"], speed["setting"]) == (kind, policy, setting)


def _speeds(speeds: list[dict[str, Any]]) -> list[str]:
    ways = [(policy, setting) for setting in SETTINGS for policy in POLICIES]
    lines = [
        "Times the speed without a draft, and in brackets the accepted tokens a step.",
        "",
        "| kind | " + " | ".join(f"{policy}, {setting}" for policy, setting in ways) + " | exact |",
        "|---|" + "--:|" * (len(ways) + 1),
    ]
    for name in (BUNDLED, *MAIN, *LONGER):
        found = [s for way in ways for s in speeds if _is(s, name, *way)]
        if found:
            cells = " | ".join(f"{s['ratio']:.2f} ({s['accepted']:.2f})" for s in found)
            same, all_ = sum(s["same"] for s in found), sum(s["scenes"] for s in found)
            lines.append(f"| {name} | {cells} | {same}/{all_} |")
    return lines


def _long(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| prompt | visual tokens | kind | kept in the draft's cache | reading the prompt, ms "
        "| a draft pass, ms | a step, ms | accepted |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['prompt']} | {row['visual_tokens']:.0f} | {row['kind']} | {row['kept']:.0f} "
            f"| {row['prefill_ms']:.1f} | {row['level_ms']:.2f} | {row['step_ms']:.1f} "
            f"| {row['accepted']:.2f} |"
        )
    return lines


def plot(trained: Mapping[str, dict[str, Any]], path: Path) -> None:
    """τ of the held-out scenes along the training, a line for each of `train.MAIN` and
    `train.LONGER`. By steps: on a machine with other work seconds would tell another story."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("no plot: pip install matplotlib", file=sys.stderr)
        return
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name in (*MAIN, *LONGER):
        if name in trained:
            row = trained[name]
            steps = [int(step) for step in row["tau_by_step"]]
            axes.plot(steps, list(row["tau_by_step"].values()), marker="o", label=name)
    axes.set_xlabel(f"training steps of {row['batch']} samples")
    axes.set_ylabel("τ of held-out scenes, chain of six")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
