"""What was measured and learned, by device and pair, kept in a file from one run to the next."""

from __future__ import annotations

import json
import os
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from sage_core.errors import OptionError
from sage_core.trees.pass_costs import Costs, Curve
from sage_core.trees.steps import PhaseSeconds, Step

VARIABLE = "SAGE_COSTS"
"""Environment variable: the file, or ``off``."""
Learned = Mapping[str, float]
"""A policy's own, see `TreePlanner.learned`."""
_VERSION = 1
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

    A key names the device, the models and the number format. Contexts count by powers of two. What
    is missing is measured once; later runs correct it by the passes that they made anyhow. A file
    that cannot be read or written is as good as none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @cached_property
    def _pages(self) -> tuple[ChainMap[str, Costs], ChainMap[str, Learned]]:
        """Costs by key and context, and what was learned; the file is read when first asked for.

        In each the first map is what this run found out, the second what the file said.
        """
        costs, learned = _read(self._path)
        return ChainMap({}, costs), ChainMap({}, learned)

    @property
    def _known(self) -> ChainMap[str, Costs]:
        return self._pages[0]

    @property
    def _taught(self) -> ChainMap[str, Learned]:
        return self._pages[1]

    def learned(self, pair: str) -> Learned:
        """What was last kept of a policy with a pair; nothing at first."""
        return self._taught.get(pair, {})

    def keep(self, pair: str, learned: Learned) -> None:
        """What a policy learned with a pair, by a name of both; the next `learn` writes it."""
        if learned:
            self._taught[pair] = learned

    def costs(self, key: str, context: int, measure: Callable[[], Costs]) -> Costs:
        """The costs of a key at a context of so many tokens, by ``measure`` if they are unknown."""
        place = _place(key, context)
        if place not in self._known:
            self._known[place] = measure()
            self._write()
        return self._known[place]

    def learn(self, key: str, context: int, steps: Sequence[Step]) -> None:
        """Correct what is known by the steps of a text; it counts from the next text on."""
        place = _place(key, context)
        known = self._known.get(place)
        if known is None:
            return
        self._known[place] = corrected(known, steps)
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        # Other runs write too: theirs is kept where this one knows nothing newer.
        costs, learned = _read(self._path)
        costs |= self._known.maps[0]
        data = {
            "version": _VERSION,
            "costs": {place: vars(one) for place, one in costs.items()},
            "learned": {**learned, **self._taught.maps[0]},
        }
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            scratch = self._path.with_suffix(f".{os.getpid()}.new")
            # In one line: with indents json is encoded in Python, which is slow after every text.
            scratch.write_text(json.dumps(data), encoding="utf-8")
            scratch.replace(self._path)


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
    """Costs of passes that rows share: one look at the book for all rows.

    The first rows rehearse side by side, so what they time is passes of a full table; a row that
    came later would time passes among others' drafts. The seconds of a row's passes hold time in
    which it waited, so that nothing is learned of them; what a row does by itself between its
    passes is done by all, one after another, and is learned.
    """

    def __init__(self, book: CostStore, width: int) -> None:
        super().__init__()
        self._book = book
        self._width = width
        self._context: int | None = None
        self._costs: Costs | None = None

    def costs(self, key: str, context: int, measure: Callable[[], Costs]) -> Costs:
        self._context = self._context or context
        if self._costs is None:
            costs = self._book.costs(key, self._context, measure)
            self._costs = self._costs or costs
        return self._costs

    def learned(self, pair: str) -> Learned:
        return self._book.learned(pair)

    def keep(self, pair: str, learned: Learned) -> None:
        self._book.keep(pair, learned)

    def learn(self, key: str, context: int, steps: Sequence[Step]) -> None:
        assert self._costs is not None and self._context is not None
        told = [_as_expected(step, self._costs, self._width) for step in steps]
        self._book.learn(key, self._context, told)


def _as_expected(step: Step, costs: Costs, width: int) -> Step:
    """A step whose passes took what they cost, and the rest as long as that of ``width`` rows."""
    seconds = PhaseSeconds(
        draft=float(costs.propose([1])[0]) * step.draft_passes,
        verify=float(costs.verify([len(step.tree) + 1])[0]),
        accept=step.seconds.accept * width,
        commit=step.seconds.commit * width,
    )
    return replace(step, seconds=seconds)
