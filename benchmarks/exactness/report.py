"""The results as Markdown."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks import harness
from benchmarks.exactness.matrix import PARTS
from benchmarks.exactness.pair import TITLE
from benchmarks.exactness.tally import AXES, Record

TITLES = {name: part.title for name, part in PARTS.items()} | {"pair": TITLE}
HEADINGS = {"group": "", "what": "what", "policy": "policy"}
COLUMNS = {
    "texts": "cases",
    "equal": "exact",
    "near ties": "near_ties",
    "wrong": "wrong",
    "new tokens": "new_tokens",
}


def markdown(data: dict[str, Any], records: dict[str, Record]) -> str:
    """A table for each part: by family or kind of input, by what is varied, by policy."""
    whole: Counter[str] = sum((record.total for record in records.values()), Counter())
    notes = [
        f"{data['asked']['device']}, {data['asked']['dtype']}; passes: {data['passes']}; "
        f"{data['seconds']:.0f} s",
        harness.TAU_ALONE,
    ]
    summary = (
        f"**{whole['exact']} of {whole['cases']} texts equal, {whole['near_ties']} near ties, "
        f"{whole['wrong']} wrong.**"
    )
    blocks = [[summary]]
    for part, record in records.items():
        total = record.total
        blocks.append([f"## {TITLES[part]}: {total['exact']} of {total['cases']} equal"])
        blocks += [_table(HEADINGS[axis], record.counts[axis]) for axis in AXES]
        if record.mismatches:
            blocks.append([f"- {described(mismatch)}" for mismatch in record.mismatches])
    title = "Exactness: the engine against `generate`, id by id"
    return harness.report(title, {"environment": data["environment"]}, notes, *blocks)


def _table(heading: str, entries: dict[str, Counter[str]]) -> list[str]:
    def row(name: str, counted: Counter[str]) -> list[Any]:
        tau = counted["accepted"] / counted["steps"] if counted["steps"] else None
        shown = f"`{name}`" if heading == "policy" else name
        return [shown, *(counted[key] for key in COLUMNS.values()), harness.number(tau)]

    rows = [row(name, counted) for name, counted in entries.items()]
    return harness.table([heading, *COLUMNS, "τ"], rows)


def described(mismatch: dict[str, Any]) -> str:
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
