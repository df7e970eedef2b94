"""What was found, as Markdown."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks import environment
from benchmarks.exactness.matrix import PARTS
from benchmarks.exactness.pair import TITLE
from benchmarks.exactness.tally import AXES, Record

TITLES = {name: part.title for name, part in PARTS.items()} | {"pair": TITLE}
HEADINGS = {"group": "", "what": "what", "policy": "policy"}


def markdown(data: dict[str, Any], records: dict[str, Record]) -> str:
    """A table for each part: by family or kind of input, by what is tried, by policy."""
    whole: Counter[str] = sum((record.total for record in records.values()), Counter())
    lines = ["# Exactness: the engine against `generate`, id by id", ""]
    lines += environment.as_markdown(data["environment"])
    lines += [
        f"- {data['device']}, {data['dtype']}, {data['passes']} passes; {data['seconds']:.0f} s",
        "",
        f"**{whole['exact']} of {whole['cases']} texts equal, {whole['near_ties']} near ties, "
        f"{whole['wrong']} wrong.**",
        "",
        "τ is the mean number of draft tokens accepted in a step.",
        "",
    ]
    for part, record in records.items():
        total = record.total
        lines += [f"## {TITLES[part]}: {total['exact']} of {total['cases']} equal", ""]
        for axis in AXES:
            lines += _table(HEADINGS[axis], record.counts[axis])
        lines += [f"- {told(mismatch)}" for mismatch in record.mismatches]
        lines += [""] if record.mismatches else []
    return "\n".join(lines).rstrip()


def _table(heading: str, entries: dict[str, Counter[str]]) -> list[str]:
    lines = [
        f"| {heading} | texts | equal | near ties | wrong | new tokens | τ |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, counted in entries.items():
        shown = ("cases", "exact", "near_ties", "wrong", "new_tokens")
        counts = " | ".join(str(counted[column]) for column in shown)
        tau = f"{counted['accepted'] / counted['steps']:.2f}" if counted["steps"] else "–"
        name = f"`{name}`" if heading == "policy" else name
        lines.append(f"| {name} | {counts} | {tau} |")
    return [*lines, ""]


def told(mismatch: dict[str, Any]) -> str:
    """A mismatch in a sentence."""
    way = f"{mismatch['draft']}, `{mismatch['policy']}`, {mismatch['what']}"
    way += f" ({mismatch['options']})" if mismatch["options"] else ""
    if "error" in mismatch:
        return f"WRONG: {mismatch['case']}, {way}: {mismatch['error']}"
    margin = mismatch["margin"]
    kind = "near tie" if mismatch["near_tie"] else "WRONG"
    shown = "no margin" if margin is None else f"margin {margin:.2e}"
    return (
        f"{kind}: {mismatch['case']}, {way}: token {mismatch['position']} is "
        f"{mismatch['got']}, not {mismatch['expected']} ({shown})"
    )
