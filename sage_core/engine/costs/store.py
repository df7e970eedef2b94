"""What was measured and learned, by device and pair, kept in a file from one run to the next."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from statistics import median
from threading import Lock
from typing import Any

from sage_core.errors import OptionError
from sage_core.models.atomic_write import write_atomically
from sage_core.trees.pass_costs import Costs, Curve
from sage_core.trees.steps import PhaseSeconds, Step

VARIABLE = "SAGE_COSTS"
"""Environment variable: the file, or ``off``."""
Learned = Mapping[str, float]
"""A policy's own, see `TreePlanner.learned`."""
_VERSION = 1
MAX_ENTRIES = 256
"""Of costs, and of what was learned, that the file keeps."""
_TRUSTED = 16  # steps of a text that count as much as all that was known before it
_FEW = 5  # passes of a size that a median needs


def default_path() -> Path | None:
    """The file that costs are kept in: ``$SAGE_COSTS``, or ``costs.json`` in the user's cache."""
    given = os.environ.get(VARIABLE)
    if given:
        return None if given.lower() == "off" else Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "sage" / "costs.json"
    except RuntimeError:  # no home folder
        return None


class CostStore:
    """What passes cost, by key and length of the context, and what policies learned of a pair.

    A key names the machine, the models and the number format. Contexts count by powers of two. What
    is missing is measured once; later texts correct it by the passes that they made anyhow. `save`
    writes the file, which keeps the `MAX_ENTRIES` latest entries. A file that cannot be read or
    written is as good as none.

    Args:
        path: the file; None keeps everything in memory.
    """

    refines = True
    """Whether costs that were measured in part are to be completed between later steps."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = Lock()
        self._new_costs: dict[str, Costs] = {}
        self._new_learned: dict[str, Learned] = {}

    @cached_property
    def _found(self) -> tuple[dict[str, Costs], dict[str, Learned]]:
        """What the file said: read when first asked for."""
        return _read(self._path)

    def learned(self, pair: str) -> Learned:
        """What was last kept of a policy with a pair; nothing at first."""
        return self._new_learned.get(pair) or self._found[1].get(pair, {})

    def keep(self, pair: str, learned: Learned) -> None:
        """Keep what a policy learned with a pair, by a name of both."""
        if learned:
            with self._lock:
                self._new_learned[pair] = learned

    def costs(self, key: str, context: int) -> Costs | None:
        """The costs of a key at a context of so many tokens; None if they are unknown."""
        place = _place(key, context)
        return self._new_costs.get(place) or self._found[0].get(place)

    def add(self, key: str, context: int, costs: Costs) -> Costs:
        """Keep measured costs, unless others were kept meanwhile; returns those that are kept."""
        with self._lock:
            return self._new_costs.setdefault(_place(key, context), costs)

    def replace(self, key: str, context: int, costs: Costs) -> None:
        """Keep costs that were measured better."""
        with self._lock:
            self._new_costs[_place(key, context)] = costs

    def correct(self, key: str, context: int, steps: Sequence[Step]) -> None:
        """Correct what is known by the steps of a text; it counts from the next text on."""
        known = self.costs(key, context)
        if known is not None:
            self.replace(key, context, corrected(known, steps))

    def save(self) -> None:
        """Write what is new, beside what other processes have written meanwhile."""
        path = self._path
        if path is None or not (self._new_costs or self._new_learned):
            return
        if path.exists() and not path.is_file():  # a device is not to be replaced by a file
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
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(data))


def _latest(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The `MAX_ENTRIES` latest entries: those that were used again count as new."""
    merged = {key: value for key, value in old.items() if key not in new} | dict(new)
    return dict(list(merged.items())[-MAX_ENTRIES:])


def corrected(known: Costs, steps: Sequence[Step]) -> Costs:
    """Costs moved towards what the steps took, where enough of them say so.

    The curves are scaled as a whole: the few sizes that a run happens to use say more about the
    level than about the shape. The longer a text the more it counts: its medians are over many
    more passes than the few that were timed at first, perhaps at a bad moment.
    """
    drafted = [step for step in steps if not step.is_prefill and step.draft_passes]
    if len(drafted) < _FEW:
        return known
    verifying = median(
        step.seconds.verify / float(known.verify([len(step.tree) + 1])[0]) for step in drafted
    )
    one = float(known.propose([1])[0])
    drafting = median(
        (step.seconds.draft + step.seconds.plan) / (one * step.draft_passes) for step in drafted
    )
    around = median(step.seconds.accept + step.seconds.commit for step in drafted)
    blend = len(drafted) / (len(drafted) + _TRUSTED)
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
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, OptionError):
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] == _VERSION:
            for place, costs in data["costs"].items():
                found[place] = _costs(costs)
            for pair, values in data.get("learned", {}).items():
                learned[pair] = {str(name): _finite(value) for name, value in values.items()}
    return found, learned


def _finite(value: Any) -> float:
    if not isfinite(value):
        raise ValueError(f"{value} was not learned from anything")
    return float(value)


def _costs(data: dict[str, Any]) -> Costs:
    def curve(points: list[list[float]]) -> Curve:
        return tuple((int(tokens), float(seconds)) for tokens, seconds in points)

    return Costs(curve(data["target"]), curve(data["draft"]), float(data["step"]))


class BatchCostStore(CostStore):
    """Costs of passes that several texts share, in one batch.

    The first texts time their passes side by side, so that passes of a full batch are timed; a
    later text would time passes among others' drafts. The seconds of a text's passes include time
    in which it waited, so nothing is learned of them; what a text does by itself between its passes
    is done by all, one after another, and is learned.

    Args:
        store: where all of it is kept.
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
    """A step whose passes took what they cost, and the rest as long as that of ``width`` rows."""
    seconds = PhaseSeconds(
        draft=float(costs.propose([1])[0]) * step.draft_passes,
        verify=float(costs.verify([len(step.tree) + 1])[0]),
        accept=step.seconds.accept * width,
        commit=step.seconds.commit * width,
    )
    return replace(step, seconds=seconds)
