"""The result page: tables of training and decoding, and a plot of τ along the training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import environment, plots
from benchmarks.distill.speed import BUNDLED, LONG, POLICIES, SETTINGS, SPEEDS
from benchmarks.distill.train import LONGER, MAIN, ROWS, VARIANTS
from benchmarks.harness import number, report, table

TAU = "τ: draft tokens accepted per step, without the bonus token; chain τ: of a chain of six"
POINTS = 6
"""Points of the training whose τ is shown."""
Rows = Sequence[Mapping[str, Any]]


def write(out: Path, output: str | None) -> None:
    """Gather the files of the stages in ``out`` into one result; what is missing is left out."""
    data: dict[str, Any] = {"environment": environment.describe("benchmarks.distill")}
    rows = map(json.loads, (out / ROWS).read_text("utf-8").splitlines())
    data["trained"] = {row["kind"]: row for row in rows}  # the last row of a kind is complete
    for name in (SPEEDS, LONG):
        file = out / name
        data[file.stem] = json.loads(file.read_text("utf-8")) if file.is_file() else []
    environment.write(output, data, page(data))
    if output is not None:
        plots.save(plot, data["trained"], Path(output))


def page(data: Mapping[str, Any]) -> str:
    groups = {"Kinds": MAIN, "Branches and variants": VARIANTS, "Trained for longer": LONGER}
    blocks = []
    for title, names in groups.items():
        if rows := [data["trained"][name] for name in names if name in data["trained"]]:
            blocks += [[f"## {title}"], _training(rows, data["speed"])]
    if data["speed"]:
        note = "Speed relative to decoding without a draft, τ in brackets."
        blocks += [["## Under several trees"], [note], _speeds(data["speed"])]
    if data["long"]:
        blocks += [["## Many visual tokens"], _long(data["long"])]
    return report("Kinds of draft, trained side by side", data, [TAU], *blocks)


def _training(rows: Rows, speeds: Rows) -> list[str]:
    steps = [int(step) for step in rows[0]["tau_by_step"]]
    shown = sorted({steps[round(k * (len(steps) - 1) / (POINTS - 1))] for k in range(POINTS)})
    head = ["kind", "trained weights", f"chain τ at step {shown[0]}", *map(str, shown[1:])]
    head += ["training, s", "τ under `sage`", "draft pass, ms", "speed-up"]

    def cells(row: Mapping[str, Any]) -> list[str]:
        speed = _find(speeds, row["kind"], "sage", "greedy") or {}
        return [
            row["kind"],
            f"{row['parameters'] / 1e6:.2f} M",
            *(number(row["tau_by_step"].get(str(step))) for step in shown),
            f"{max(row['seconds_by_step'].values()):.0f}",
            *(number(speed.get(name)) for name in ("mean_accepted", "level_ms", "ratio")),
        ]

    return table(head, map(cells, rows))


def _find(speeds: Rows, kind: str, policy: str, setting: str) -> Mapping[str, Any] | None:
    wanted = {"kind": kind, "policy": policy, "setting": setting}
    return next((one for one in speeds if wanted.items() <= one.items()), None)


def _speeds(speeds: Rows) -> list[str]:
    trees = [(policy, setting) for setting in SETTINGS for policy in POLICIES]
    rows = []
    for name in (BUNDLED, *MAIN, *LONGER):
        found = [one for tree in trees if (one := _find(speeds, name, *tree))]
        if found:
            cells = [f"{one['ratio']:.2f} ({one['mean_accepted']:.2f})" for one in found]
            exact = f"{sum(s['exact'] for s in found)}/{sum(s['texts'] for s in found)}"
            rows.append([name, *cells, exact])
    return table(["kind", *(f"{policy}, {setting}" for policy, setting in trees), "exact"], rows)


LONG_COLUMNS = {
    "prompt": ("prompt", ""),
    "kind": ("kind", ""),
    "visual_tokens": ("visual tokens", ".0f"),
    "kept": ("in the draft's cache", ".0f"),
    "prefill_ms": ("draft prefill, ms", ".1f"),
    "level_ms": ("draft pass, ms", ".2f"),
    "step_ms": ("step, ms", ".1f"),
    "accepted": ("τ", ".2f"),
}


def _long(rows: Rows) -> list[str]:
    head = [title for title, _ in LONG_COLUMNS.values()]
    cells = ([format(row[name], form) for name, (_, form) in LONG_COLUMNS.items()] for row in rows)
    return table(head, cells)


def plot(trained: Mapping[str, Any]) -> Any:
    """τ of the held-out scenes by step, a line for each of `train.MAIN` and `train.LONGER`."""
    lines: dict[str, plots.Line] = {}
    for name in (*MAIN, *LONGER):
        if name in trained:
            taus = trained[name]["tau_by_step"]
            lines[name] = ([int(step) for step in taus], list(taus.values()), None)
    return plots.panels([("τ of held-out scenes, chain of six", "training steps", lines)])
