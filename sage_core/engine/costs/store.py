"""Pass costs and planner states by machine and pair, optionally kept in a file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

import msgspec

from sage_core.errors import InputError, OptionError
from sage_core.files.atomic_write import write_atomically
from sage_core.files.reading import read_json
from sage_core.trees.pass_costs import Costs, Curve
from sage_core.trees.steps import PhaseSeconds, Step

VARIABLE = "SAGE_COSTS"
"""Environment variable: the file, or ``off``."""
Learned = Mapping[str, float]
"""A planner's state, see `TreePlanner.learned`."""
_VERSION = 1
MAX_ENTRIES = 256
"""Most entries of costs, and of planner states, in the file."""
_PRIOR_STEPS = 16  # weight of known costs, in steps of a text
_MIN_STEPS = 5  # steps that a median needs
_MAX_BYTES = 16 * 1024**2
# What numbers of the file may be; others were not written by sage.
_LEAST, _MOST = 1e-7, 1e4  # seconds of a pass
_MAX_TOKENS = 2**20
_MAX_LEARNED = 1e6


def default_path() -> Path | None:
    """The default file: ``$SAGE_COSTS``, or ``costs.json`` in the user's cache folder."""
    given = os.environ.get(VARIABLE)
    if given:
        return None if given.lower() == "off" else Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "sage" / "costs.json"
    except RuntimeError:  # no home folder
        return None


class CostStore:
    """Pass costs by key and context length, and planner states by pair.

    Context lengths are rounded up to powers of two. Missing costs are measured once; later texts
    correct them by the time of their own passes. `save` writes the file, which keeps the
    `MAX_ENTRIES` latest entries. A file that cannot be read or written is ignored.

    Args:
        path: the file; None keeps everything in memory.
    """

    refines = True
    """Whether remaining sizes are measured between later steps."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = Lock()
        self._new_costs: dict[str, Costs] = {}
        self._new_learned: dict[str, Learned] = {}

    @cached_property
    def _found(self) -> tuple[dict[str, Costs], dict[str, Learned]]:
        """The content of the file, read at the first use."""
        return _read(self._path)

    def learned(self, pair: str) -> Learned:
        """The planner state of a pair; empty at first."""
        return self._new_learned.get(pair) or self._found[1].get(pair, {})

    def keep(self, pair: str, learned: Learned) -> None:
        """Store a pair's planner state."""
        if learned:
            with self._lock:
                self._new_learned[pair] = learned

    def costs(self, key: str, context: int) -> Costs | None:
        """The costs of a key at a context length; None if unknown."""
        place = _place(key, context)
        return self._new_costs.get(place) or self._found[0].get(place)

    def add(self, key: str, context: int, costs: Costs) -> Costs:
        """Store measured costs unless there are some by now; returns the stored ones."""
        with self._lock:
            return self._new_costs.setdefault(_place(key, context), costs)

    def replace(self, key: str, context: int, costs: Costs) -> None:
        """Store costs in place of earlier ones."""
        with self._lock:
            self._new_costs[_place(key, context)] = costs

    def correct(self, key: str, context: int, steps: Sequence[Step]) -> None:
        """Correct stored costs by the steps of a text, for later texts."""
        known = self.costs(key, context)
        if known is not None:
            self.replace(key, context, corrected(known, steps))

    def save(self) -> None:
        """Merge new entries into the file, which other processes may have changed."""
        path = self._path
        if path is None or not (self._new_costs or self._new_learned):
            return
        with self._lock:
            old_costs, old_learned = _read(path)
            costs = _latest(old_costs, self._new_costs)
            learned = _latest(old_learned, self._new_learned)
        data = {
            "version": _VERSION,
            "costs": {place: vars(one) for place, one in costs.items()},
            "learned": learned,
        }
        with suppress(OSError, ValueError):  # a ValueError is a NUL in the name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(data))


def _latest(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The `MAX_ENTRIES` latest entries; new ones are last."""
    merged = {key: value for key, value in old.items() if key not in new} | dict(new)
    return dict(list(merged.items())[-MAX_ENTRIES:])


def corrected(known: Costs, steps: Sequence[Step]) -> Costs:
    """Costs moved towards the times of the steps, if there are enough steps.

    Each curve is scaled as a whole, because the few sizes of a run determine its level rather than
    its shape. The weight of the steps grows with their number.
    """
    drafted = [step for step in steps if not step.is_prefill and step.draft_passes]
    if len(drafted) < _MIN_STEPS:
        return known
    verifying = median(
        step.seconds.verify / float(known.verify([len(step.tree) + 1])[0]) for step in drafted
    )
    one = float(known.propose([1])[0])
    drafting = median(
        (step.seconds.draft + step.seconds.plan) / (one * step.draft_passes) for step in drafted
    )
    around = median(step.seconds.accept + step.seconds.commit for step in drafted)
    blend = len(drafted) / (len(drafted) + _PRIOR_STEPS)
    return replace(
        known,
        target=_scaled(known.target, 1 + blend * (verifying - 1)),
        draft=_scaled(known.draft, 1 + blend * (drafting - 1)),
        step=known.step + blend * (around - known.step) if known.step else around,
    )


def _scaled(curve: Curve, factor: float) -> Curve:
    return tuple((tokens, seconds * factor) for tokens, seconds in curve)


def _place(key: str, context: int) -> str:
    return f"{key} @{1 << max(8, (context - 1).bit_length())}"


def _read(path: Path | None) -> tuple[dict[str, Costs], dict[str, Learned]]:
    found: dict[str, Costs] = {}
    learned: dict[str, Learned] = {}
    if path is None:
        return found, learned
    with suppress(InputError):
        content: _File = read_json(path, _File, limit=_MAX_BYTES)
        if content.version == _VERSION:
            for place, costs in content.costs.items():
                with suppress(OptionError):  # each entry stands for itself
                    found[place] = _checked(costs)
            learned |= {pair: v for pair, v in content.learned.items() if _plausible(v)}
    return found, learned


class _StoredCosts(msgspec.Struct):
    """One entry of costs as it is in the file."""

    target: Curve
    draft: Curve
    step: float


class _File(msgspec.Struct):
    """The content of the file."""

    version: int
    costs: dict[str, _StoredCosts]
    learned: dict[str, dict[str, float]] = {}


def _checked(stored: _StoredCosts) -> Costs:
    """Costs of plausible passes.

    Raises:
        OptionError: not in order, or sizes or seconds that no pass has.
    """
    points = (*stored.target, *stored.draft)
    if not all(tokens <= _MAX_TOKENS and _LEAST <= cost <= _MOST for tokens, cost in points):
        raise OptionError("costs of no pass")
    if stored.step > _MOST:
        raise OptionError("costs of no step")
    return Costs(stored.target, stored.draft, stored.step)


def _plausible(learned: Learned) -> bool:
    """Whether a planner can have learned these numbers."""
    return all(abs(value) <= _MAX_LEARNED for value in learned.values())


class BatchCostStore(CostStore):
    """Costs of passes that the texts of a batch share.

    Only the first texts time passes, together, so that passes of a full batch are timed. The times
    of later passes include waiting and do not correct the costs; the time of a text between its
    passes does, multiplied by the number of texts.

    Args:
        store: of the costs.
        width: texts at once.
    """

    refines = False

    def __init__(self, store: CostStore, width: int) -> None:
        super().__init__()
        self._store = store
        self._width = width
        self._context: int | None = None
        self._costs: Costs | None = None

    def costs(self, key: str, context: int) -> Costs | None:
        self._context = self._context or context
        self._costs = self._costs or self._store.costs(key, self._context)
        return self._costs

    def add(self, key: str, context: int, costs: Costs) -> Costs:
        if self._costs is None:
            self._costs = self._store.add(key, self._context or context, costs)
        return self._costs

    def learned(self, pair: str) -> Learned:
        return self._store.learned(pair)

    def keep(self, pair: str, learned: Learned) -> None:
        self._store.keep(pair, learned)

    def correct(self, key: str, context: int, steps: Sequence[Step]) -> None:
        assert self._costs is not None and self._context is not None
        expected = [_as_expected(step, self._costs, self._width) for step in steps]
        self._store.correct(key, self._context, expected)


def _as_expected(step: Step, costs: Costs, width: int) -> Step:
    """A step with the known pass costs, and its other times those of ``width`` texts."""
    seconds = PhaseSeconds(
        draft=float(costs.propose([1])[0]) * step.draft_passes,
        verify=float(costs.verify([len(step.tree) + 1])[0]),
        accept=step.seconds.accept * width,
        commit=step.seconds.commit * width,
    )
    return replace(step, seconds=seconds)
