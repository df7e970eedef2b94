"""What all parts share: the loaded pair, the texts, and how methods are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from time import perf_counter, process_time
from typing import Any

import torch

from benchmarks.harness import REFERENCE, progress
from sage_core.bench.calibration import FixedTree
from sage_core.bench.decoders import ByEngine
from sage_core.bench.engine import PairEngine
from sage_core.bench.items import Item
from sage_core.bench.measure import Decoded, Input, Measurement, Method, Plan, Stopwatch
from sage_core.bench.methods import BestStaticTree
from sage_core.bench.summary import summary
from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.pair_loading import LoadedPair
from sage_core.pipeline import Options
from sage_core.trees.policies import Policy, parse
from sage_core.trees.steps import Step
from training.bench_items import CALIBRATION_SEED, Rendered
from training.world.heldout import CATEGORIES

__all__ = ["CLOCKS", "LEAST", "REFERENCE", "Bench", "Part", "descriptions"]

LEAST = 16
"""Shorter texts are compared but not timed."""
CLOCKS: dict[str, Callable[[], float]] = {"wall": perf_counter, "cpu": process_time}
_CALIBRATION = 4  # texts that fixed trees are chosen on
_CALIBRATION_TOKENS = 96


@dataclass(frozen=True)
class Part:
    """A table or figure: `run` measures, `page` writes Markdown, `draw` makes a figure."""

    title: str
    run: Callable[[Bench], dict[str, Any]]
    page: Callable[[dict[str, Any]], list[str]]
    draw: Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Bench:
    """A loaded pair and how much is measured.

    ``items`` and ``repeats`` are None for each part's own; ``limit`` is the greatest number of new
    tokens. ``clock`` is ``wall``, or ``cpu`` for processor time, which other work on the same
    machine disturbs less; it needs one thread.
    """

    pair: LoadedPair
    items: int | None = None
    repeats: int | None = None
    limit: int = 256
    seed: int = 0
    clock: str = "wall"
    whole: Pruning = field(default=Pruning(method="none"))

    def __post_init__(self) -> None:
        for name in ("items", "repeats"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.limit < LEAST:
            raise ValueError(f"limit must be at least {LEAST}, not {self.limit}")
        if self.clock not in CLOCKS:
            raise ValueError(f"clock must be {' or '.join(CLOCKS)}, not {self.clock}")
        if self.clock == "cpu" and (self.pair.device != "cpu" or torch.get_num_threads() > 1):
            raise ValueError("clock cpu needs the CPU and one thread: set OMP_NUM_THREADS=1")

    def engine(self, limit: int | None = None, **generation: Any) -> PairEngine:
        """The pair as `sage bench` has it, with further fields of the generation config."""
        options = Options(max_new_tokens=limit or self.limit, generation=generation)
        return _Engine(self.pair, options, CLOCKS[self.clock])

    def inputs(self, items: int, engine: PairEngine | None = None) -> Iterator[Input]:
        """The first texts, ready for any method; ``items`` unless the command says otherwise."""
        engine = engine or self.engine()
        wanted = self.items or items
        for number, item in enumerate(islice(descriptions(self.seed), wanted), 1):
            progress(f"text {number} of {wanted}")
            yield engine.prepare(item.request(0, ()))

    def method(
        self, policy: str | Policy, name: str = "", pruning: Pruning | None = None
    ) -> ByEngine:
        """A policy of the engine; by default the draft sees all visual tokens."""
        name = name or (policy if isinstance(policy, str) else policy.name)
        return self.engine().by_engine(name, parse(policy), pruning or self.whole)

    def best_static(self, nodes: int) -> tuple[ByEngine, dict[str, Any]]:
        """The best fixed tree of so many nodes, found as `sage bench` does on other texts."""
        progress(f"the best fixed tree of {nodes} nodes")
        engine = self.engine()
        found = engine.calibrate(BestStaticTree(nodes), list(self.others(engine)))
        tree = FixedTree(tuple(tuple(path) for path in found["tree"]))
        return self.method(tree, f"best-static:nodes={nodes}"), found

    def others(self, engine: PairEngine) -> Iterator[Input]:
        """Texts that no part measures, on which settings are chosen."""
        for item in islice(descriptions(CALIBRATION_SEED), _CALIBRATION):
            yield engine.prepare(item.request(0, ())).limited(_CALIBRATION_TOKENS)

    def decode(self, method: Method, item: Input) -> Decoded:
        """One decoding whose time does not matter."""
        return method.decode(item, self.engine().stopwatch())

    def measure(
        self, methods: Sequence[Method], items: int, repeats: int, engine: PairEngine | None = None
    ) -> dict[str, Any]:
        """Every text by every method in rotated order, as `sage bench` reports it.

        The first method is the reference; ``items`` and ``repeats`` yield to the command's.
        """
        measured = tuple(islice(descriptions(self.seed), self.items or items))
        reference = methods[0].name
        plan = Plan(measured, tuple(methods), reference, self.repeats or repeats)
        measurement = Measurement(plan, engine or self.engine())
        for number, _ in enumerate(measurement.lines(), 1):
            progress(f"{number} lines, {plan.total} decodings in all")
        names = [method.name for method in methods]
        found = summary(measurement.results, names, reference, least=LEAST)
        settings: dict[str, Any] = {"items": len(measured), "repeats": plan.repeats}
        settings |= {"limit": self.limit, "clock": self.clock}
        return {"reference": reference, "settings": settings, **found}

    def clocked(self, policy: str, item: Input) -> tuple[list[Step], list[float]]:
        """The steps of one decoding, and the seconds from its first token to the end of each."""
        decoder = SpeculativeDecoder(self.pair.target, self.pair.draft, policy, self.whole)
        steps: list[Step] = []
        times: list[float] = []
        for step in decoder.stream(**item.inputs, **item.options):
            if self.pair.device.startswith("cuda"):
                torch.cuda.synchronize()
            steps.append(step)
            times.append(CLOCKS[self.clock]())
        return steps, [time - times[0] for time in times]


class _Engine(PairEngine):
    """The pair as `sage bench` has it, read by the given clock."""

    def __init__(self, pair: LoadedPair, options: Options, clock: Callable[[], float]) -> None:
        super().__init__(pair, options)
        self._clock = clock

    def stopwatch(self) -> Stopwatch:
        return Stopwatch(self._clock, self._wait)


def descriptions(seed: int) -> Iterator[Item]:
    """Held-out items whose prompt asks for a description: images, charts, words and videos.

    Answers to questions are a few tokens long and leave a tree little to do; `sage bench` has
    both.
    """
    for index in count():
        for category in CATEGORIES:
            source = Rendered(category, index, seed)
            drawn = source.item()
            if drawn.facts is not None:
                yield Item(drawn.id, source, (drawn.prompt,), category)
