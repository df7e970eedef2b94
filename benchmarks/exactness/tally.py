"""Texts compared with the oracle's, and their counts."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.exactness.ways import Decoded, Models, Prompt, Way, decode
from benchmarks.harness import progress
from tests.tiny.oracle import check_steps, first_mismatch

AXES = ("group", "what", "policy")
COUNTED = ("cases", "exact", "near_ties", "wrong", "new_tokens", "steps", "accepted")


@dataclass(frozen=True, eq=False)
class Case:
    """Prompts that belong together, to be decoded in several ways."""

    name: str
    group: str
    setting: str
    models: Models
    prompts: list[Prompt]
    ways: tuple[Way, ...]


@dataclass
class Record:
    """Counts by group (family or kind of input), by what is varied and by policy."""

    counts: dict[str, dict[str, Counter[str]]] = field(
        default_factory=lambda: {axis: {} for axis in AXES}
    )
    mismatches: list[dict[str, Any]] = field(default_factory=list)

    def add(self, group: str, what: str, policy: str, counted: Counter[str]) -> None:
        """Count a text along every axis."""
        for axis, name in zip(AXES, (group, what, policy), strict=True):
            self.counts[axis].setdefault(name, Counter()).update(counted)

    def merge(self, other: Record) -> None:
        """Add the counts and mismatches of another record."""
        for axis, entries in other.counts.items():
            for name, counted in entries.items():
                self.counts[axis].setdefault(name, Counter()).update(counted)
        self.mismatches += other.mismatches

    @property
    def total(self) -> Counter[str]:
        """All counts together."""
        return sum(self.counts["group"].values(), Counter())

    def as_dict(self) -> dict[str, Any]:
        counts = {
            axis: {name: {key: c[key] for key in COUNTED} for name, c in entries.items()}
            for axis, entries in self.counts.items()
        }
        return {**counts, "mismatches": self.mismatches}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        counts = {axis: {n: Counter(c) for n, c in data[axis].items()} for axis in AXES}
        return cls(counts, list(data["mismatches"]))


def compared(cases: Iterable[Case]) -> Record:
    """Decode every case in its ways and compare."""
    record = Record()
    done = 0
    for case in cases:
        for way in case.ways:
            for counted, mismatch in _compare(case, way):
                record.add(case.group, way.what or case.setting, way.shown, counted)
                if mismatch is not None:
                    record.mismatches.append(mismatch)
                    print(f"\nMISMATCH {mismatch}", file=sys.stderr, flush=True)
            done += len(case.prompts)
        progress(f"{done} texts")
    return record


def _compare(case: Case, way: Way) -> Iterator[tuple[Counter[str], dict[str, Any] | None]]:
    """Each text of a case in one way: its counts, and its first difference if there is one."""
    where = {
        "what": way.what or case.setting,
        "draft": way.draft,
        "policy": way.shown,
        "options": way.options,
    }
    try:
        decoded = decode(case.models, way, case.prompts)
    except Exception as error:  # reported, and the matrix goes on
        failed = {"case": case.name, **where, "error": f"{type(error).__name__}: {error}"}
        yield Counter(cases=len(case.prompts), wrong=len(case.prompts)), failed
        return
    for number, (prompt, text) in enumerate(zip(case.prompts, decoded, strict=True)):
        name = f"{case.name}, text {number + 1}" if len(case.prompts) > 1 else case.name
        counted, found = _checked(case.models.target, prompt, text)
        yield counted, None if found is None else {"case": name, **where, **found}


def _checked(
    target: Any, prompt: Prompt, text: Decoded
) -> tuple[Counter[str], dict[str, Any] | None]:
    start = prompt.inputs["input_ids"].shape[1]
    counted = Counter(
        cases=1,
        new_tokens=text.sequences.shape[1] - start,
        steps=sum(not step.is_prefill for step in text.steps),
        accepted=sum(len(step.accepted) for step in text.steps),
    )
    found = first_mismatch(
        target,
        prompt.inputs,
        prompt.expected,
        text.sequences,
        seed=prompt.seed,
        **prompt.options,
    )
    mismatch = None if found is None else asdict(found)
    if found is None and text.steps:
        try:
            check_steps(text.steps, text.sequences[0, start:].tolist())
        except AssertionError as error:
            mismatch = {"error": f"the step records do not give the text: {error}"}
    near = found is not None and found.near_tie
    counted["exact" if mismatch is None else "near_ties" if near else "wrong"] += 1
    return counted, mismatch
