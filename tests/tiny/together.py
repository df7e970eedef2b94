"""Hundreds of thousands of texts drawn at once: the engine runs once for each way that chance goes.

All texts are under way together. Where something is drawn, the numbers of texts that go each way
are drawn for all of them in one multinomial, and the engine, the real loop, drafter, policy and
rule, runs once for each way that some text takes. Texts that stand alike behind a step, the same
words with the same trees behind them, are taken together again. The counts are distributed as if
each text had been drawn by itself.

Three small methods are replaced, which only draw: `_draw`, `_accepts` and `_order`. That these draw
what they should is tested by single draws (`tests/core/test_sampling.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.drafts.drafter import NoDrafter
from sage_core.drafts.model_drafter import ModelDrafter
from sage_core.drafts.ngram import Ngram
from sage_core.drafts.ngram_hybrid import HybridDrafter, LookupGains, NgramDrafter
from sage_core.engine.loop import decode
from sage_core.generation.candidates import Sampled, TopK
from sage_core.generation.sequence import TokenSequence
from sage_core.generation.speculative_sampling import (
    RecursiveRejection,
    SamplingStrategy,
    TargetSampling,
)
from sage_core.trees import policies
from sage_core.trees.policy import Policy, TreePlanner
from sage_core.trees.steps import Step
from tests.tiny.tables import PROMPT, TableRunner, Words, World, steps_of

State = tuple[Words, tuple[Any, ...]]
Path = tuple[int, ...]


class Chance:
    """Decides for all texts of one run: follows a path of earlier outcomes, then draws new ones.

    Args:
        seed: of all draws.
    """

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.path: list[int] = []
        self._given: Path = ()
        self.count = 0
        self.others: list[tuple[Path, int]] = []
        """Outcomes that other texts of this run had: to be run as well."""

    def start(self, path: Path, count: int) -> None:
        """Begin a run of ``count`` texts that have had the outcomes of ``path``."""
        self.path, self._given, self.count, self.others = [], path, count, []

    def pick(self, weights: Sequence[float]) -> int:
        """One outcome, with chances as the weights; the other texts' go to ``others``."""
        place = len(self.path)
        if place < len(self._given):
            outcome = self._given[place]
        else:
            chances = np.asarray(weights, dtype=np.float64)
            counts = self._random.multinomial(self.count, chances / chances.sum())
            outcome, *rest = np.flatnonzero(counts).tolist()
            self.others += [((*self.path, other), int(counts[other])) for other in rest]
            self.count = int(counts[outcome])
        self.path.append(outcome)
        return outcome


class _Together:
    """What a rule draws, for all texts at once."""

    chance: Chance

    def _draw(self, probs: Tensor) -> int:
        return self.chance.pick(probs[0].tolist())

    def _accepts(self, p: float, q: float) -> bool:
        kept = min(1.0, p / q) if q > 0 else float(0.0 * q < p)
        return bool(self.chance.pick((1 - kept, kept)))


class _OrderTogether(Sampled):
    def __init__(self, chance: Chance) -> None:
        super().__init__(torch.Generator())
        self._chance = chance

    def _order(self, draft: Tensor, k: int) -> Tensor:
        return torch.tensor([self._row(row, k) for row in draft.tolist()])

    def _row(self, weights: list[float], k: int) -> list[int]:
        found: list[int] = []
        left = np.array(weights)
        for _ in range(k):
            if left.sum() > 0:
                found.append(self._chance.pick(left))
            else:  # what has no chance comes last, as with `Sampled`
                found.append(next(t for t in range(len(left)) if t not in found))
            left[found[-1]] = 0
        return found


def together(choice: SamplingStrategy, chance: Chance) -> SamplingStrategy:
    """``choice`` with everything drawn for all texts at once."""
    rule = type(choice.accept)
    assert issubclass(rule, TargetSampling | RecursiveRejection)
    accept = type(rule.__name__, (_Together, rule), {"chance": chance})(None)
    candidates: Any = choice.candidates
    if isinstance(candidates, Sampled):
        kind = type(candidates)
        candidates = type(kind.__name__, (_OrderTogether, kind), {})(chance)
    else:
        assert isinstance(candidates, TopK)
    return SamplingStrategy(accept, candidates)


def draw_together(
    world: World,
    policy: str | Policy,
    choice: SamplingStrategy,
    count: int,
    seed: int,
    lookup: Ngram | None = None,
) -> tuple[Counter[Words], float]:
    """As `tables.draw`: how often each of ``count`` texts came, and the mean accepted length.

    With ``lookup`` such branches join the draft's trees.
    """
    chance = Chance(seed)
    made = _Engine(world, policies.parse(policy), together(choice, chance), lookup)
    texts: Counter[Words] = Counter()
    accepted = steps = 0
    waiting = {((), ()): _Group((), 0, count)}
    while waiting:
        # The shortest texts first: whoever joins them is then there.
        group = waiting.pop(min(waiting, key=lambda state: len(state[0])))
        todo = [(group.path, group.count)]
        while todo:
            path, number = todo.pop()
            chance.start(path, number)
            state, step = made.step(group.steps)
            todo += chance.others
            if not step.is_prefill:
                steps += chance.count
                accepted += len(step.accepted) * chance.count
            if step.finished:
                texts[state[0]] += chance.count
            else:
                new = _Group(tuple(chance.path), group.steps + 1, 0)
                there = waiting.get(state, new)
                waiting[state] = replace(there, count=there.count + chance.count)
    return texts, accepted / max(1, steps)


@dataclass(frozen=True)
class _Group:
    """``count`` texts that stand alike, and one way to get there: its outcomes and steps."""

    path: Path
    steps: int
    count: int


class _Engine:
    """One pair of tables under one policy and rule."""

    def __init__(
        self, world: World, policy: Policy, choice: SamplingStrategy, lookup: Ngram | None = None
    ) -> None:
        self._prepared = world.prepared()
        self._target, self._draft = TableRunner(world.target), TableRunner(world.draft)
        self._policy = policy
        self._choice = choice
        self._lookup = lookup
        # What branches have earned is learnt from trees as well.
        self._learns = (
            lookup is not None or type(policy.planner()).observe is not TreePlanner.observe
        )

    def step(self, number: int) -> tuple[State, Step]:
        """Run to step ``number``: the state behind it, and that step.

        A state is what all that follows depends on: the words so far and, for a policy that learns
        from its trees, every tree with its accepted path.
        """
        words: list[int] = []
        history: list[Any] = []
        for index, step in enumerate(self._steps()):
            words += step.tokens
            if self._learns and not step.is_prefill:
                history.append((step.tree, step.accepted))
            if index == number:
                return (tuple(words), tuple(history)), step
        raise RuntimeError("the text had ended before")

    def _steps(self) -> Iterator[Step]:
        drafter: Any = NoDrafter()
        if self._policy.drafts:
            self._draft.start(PROMPT)
            nothing: Any = None
            size = self._target.vocab_size
            drafter = ModelDrafter(self._draft, {}, size, 0, nothing, nothing)  # type: ignore[arg-type]
            drafter.candidates = self._choice.candidates
        target: Any = self._target
        planner, text = self._policy.planner(), TokenSequence(self._prepared)
        if self._lookup is not None:
            words = NgramDrafter(self._lookup, PROMPT, self._lookup.nodes)
            drafter = HybridDrafter(drafter, words, LookupGains(self._lookup.price))
        accept: Callable[..., Any] = self._choice.accept
        return steps_of(
            decode(target, self._prepared, drafter, planner, text, room=0, accept=accept)
        )
