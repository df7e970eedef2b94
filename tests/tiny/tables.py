"""Models that are tables: so small that every text's probability is known, so fast that hundreds
of thousands of texts can be drawn. The decoding loop, drafter and acceptance rules are the real
ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sage_core.drafts.drafter import NoDrafter
from sage_core.drafts.model_drafter import ModelDrafter
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead
from sage_core.engine.loop import Decoding, decode
from sage_core.generation.prepare import Prepared
from sage_core.generation.sequence import TokenSequence
from sage_core.generation.speculative_sampling import SamplingStrategy
from sage_core.runtime.passes import Passes, passes_until_event, run_passes
from sage_core.runtime.runner import PromptOutputs
from sage_core.runtime.tree_runner import Outputs, PassRequest
from sage_core.trees import policies
from sage_core.trees.policy import Growth, Level, Policy, TreePlanner
from sage_core.trees.steps import Shape, Step

PROMPT = (1, 2)
Words = tuple[int, ...]


class TableRunner:
    """Stands in for a `Runner`: the next token's logits depend on the last two tokens alone.

    Args:
        table: (vocabulary, vocabulary, vocabulary) logits, the last but one token first.
    """

    device = torch.device("cpu")
    model = None

    def __init__(self, table: Tensor) -> None:
        self._table = table
        self._text: list[int] = []
        self._columns: list[int] = []
        self._head: ReducedHead | None = None

    def set_lm_head(self, head: ReducedHead) -> None:
        """Give the scores of some tokens only, by a head made of `rows_of`."""
        self._head = head

    @property
    def committed(self) -> int:
        return len(self._text)

    @property
    def vocab_size(self) -> int:
        return int(self._table.shape[2])

    def start(self, tokens: Sequence[int]) -> None:
        """Hold this text and nothing else."""
        self._text, self._columns = list(tokens), []

    def prefill(self, prepared: Prepared, room: int, features: bool = False) -> PromptOutputs:
        self.start(prepared.input_ids[0].tolist())
        return self._outputs()

    def extend(self, tokens: Sequence[int]) -> Passes[PromptOutputs]:
        self._text += tokens
        return self._outputs()
        yield

    def _outputs(self) -> PromptOutputs:
        return PromptOutputs(self._scored(self._table[self._text[-2], self._text[-1]][None]))

    def run(self, request: PassRequest) -> Outputs:
        self._columns += request.tokens
        contexts = []
        for row in request.visible:
            path = [self._columns[column] for column in np.flatnonzero(row)]
            contexts.append((self._text[-1:] + path)[-2:])
        before, now = zip(*contexts, strict=True)
        return self._scored(self._table[list(before), list(now)]), torch.empty(0)

    def _scored(self, logits: Tensor) -> Tensor:
        return logits if self._head is None else self._head(logits)

    def commit(self, columns: Sequence[int]) -> None:
        self._text += [self._columns[column] for column in columns]
        self._columns = []


def steps_of(decoding: Decoding) -> Iterator[Step]:
    """The steps of a text, its passes made one by one."""
    while (step := run_passes(passes_until_event(decoding))) is not None:
        yield step


def rows_of(vocabulary: int, ids: Sequence[int]) -> ReducedHead:
    """A head that gives the scores of ``ids`` out of all scores."""
    rows = torch.tensor(ids)
    return ReducedHead(rows, torch.eye(vocabulary)[rows], None, rows.numpy())


@dataclass(frozen=True)
class World:
    """A target and a draft as tables, and the rules of their texts.

    ``new`` tokens are written unless ``end`` comes before; ``processors`` are transformers' own.
    """

    target: Tensor
    draft: Tensor
    new: int = 4
    processors: Sequence[Any] = field(default_factory=tuple)
    end: int | None = None

    def prepared(self) -> Prepared:
        from transformers import LogitsProcessorList
        from transformers.generation.stopping_criteria import EosTokenCriteria

        return Prepared(
            input_ids=torch.tensor([PROMPT]),
            processors=LogitsProcessorList(self.processors),
            criteria=[] if self.end is None else [EosTokenCriteria(self.end)],
            config=SimpleNamespace(max_length=len(PROMPT) + self.new, do_sample=True),
            model_inputs={},
            position_offset=0,
        )

    def exact(self) -> dict[Words, float]:
        """Every text that can be written, with its probability, by following all branches."""
        found: dict[Words, float] = {}
        rules = self.prepared().processors

        def follow(words: Words, probability: float) -> None:
            if len(words) == self.new or (words and words[-1] == self.end):
                found[words] = probability
                return
            history = PROMPT + words
            scores = self.target[history[-2], history[-1]][None].clone()
            if rules:
                scores = rules(torch.tensor([history]), scores)
            for token, p in enumerate(scores[0].double().softmax(-1).tolist()):
                if p > 0:
                    follow((*words, token), probability * p)

        follow((), 1.0)
        return found


@dataclass(frozen=True)
class Picky(Policy):
    """Keeps those of k candidates that look likely enough, as SAGE does, two levels deep."""

    least: float = 0.2
    k: int = 3

    name: ClassVar[str] = "picky"

    def planner(self) -> TreePlanner:
        return _PickyPlanner(self)

    @property
    def max_nodes(self) -> int:
        return 20


class _PickyPlanner(TreePlanner):
    def __init__(self, options: Picky) -> None:
        self._least = options.least
        self.branching = options.k

    def plan(self) -> Shape:
        return Shape(depth=2)

    def grow(self, level: Level) -> Growth:
        rows, ranks = np.nonzero(level.probs > self._least)
        return Growth(rows, ranks, np.full(len(rows), level.depth < 2))


def random_world(
    seed: int, vocabulary: int = 4, likeness: float = 0.5, scale: float = 1.0, **more: Any
) -> World:
    """Tables drawn from a seed; ``likeness`` 1 makes the draft the target, 0 unrelated to it.

    ``scale`` is the spread of the logits.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (vocabulary, vocabulary, vocabulary)
    target = scale * torch.randn(shape, generator=generator)
    other = scale * torch.randn(shape, generator=generator)
    draft = likeness * target + math.sqrt(1 - likeness**2) * other
    return World(target, draft, **more)


def draw(
    world: World,
    policy: str | Policy,
    choice: SamplingStrategy,
    count: int,
    reduced: ReducedHead | None = None,
) -> tuple[Counter[Words], float]:
    """``count`` texts by the engine: how often each came, and the mean accepted length."""
    prepared = world.prepared()
    target, draft = TableRunner(world.target), TableRunner(world.draft)
    parsed = policies.parse(policy)
    texts: Counter[Words] = Counter()
    accepted = steps = 0
    for _ in range(count):
        drafter: Any = NoDrafter()
        if parsed.drafts:
            draft.start(PROMPT)
            nothing: Any = None
            size = target.vocab_size
            drafter = ModelDrafter(draft, {}, size, 0, nothing, nothing)  # type: ignore[arg-type]
            if reduced is not None:
                drafter.use_reduced_lm_head(reduced)
            drafter.candidates = choice.candidates
        words: list[int] = []
        text = TokenSequence(prepared)
        decoding = decode(
            target,  # type: ignore[arg-type]
            prepared,
            drafter,
            parsed.planner(),
            text,
            room=0,
            accept=choice.accept,
        )
        for step in steps_of(decoding):
            words += step.tokens
            accepted += len(step.accepted)
            steps += not step.is_prefill
        texts[tuple(words)] += 1
    return texts, accepted / max(1, steps)


@dataclass(frozen=True)
class Comparison:
    """Counts beside exact probabilities: χ², its degrees of freedom and p-value, and the total
    variation distance, with the one that chance alone would give on average."""

    draws: int
    chi2: float
    freedom: int
    p_value: float
    distance: float
    by_chance: float


def compare(counts: Counter[Words], exact: dict[Words, float]) -> Comparison:
    """Counts against probabilities; texts expected fewer than five times are taken together.

    Raises:
        AssertionError: a text came that cannot come.
    """
    n = counts.total()
    impossible = [words for words in counts if words not in exact]
    assert not impossible, f"{impossible[0]} cannot be written, and was"
    cells = [(counts[words], n * p) for words, p in exact.items() if n * p >= 5]
    rare = [(counts[words], n * p) for words, p in exact.items() if n * p < 5]
    if rare:
        cells.append((sum(seen for seen, _ in rare), sum(due for _, due in rare)))
    chi2 = sum((seen - due) ** 2 / due for seen, due in cells)
    distance = sum(abs(counts[words] / n - p) for words, p in exact.items()) / 2
    by_chance = sum(math.sqrt(2 * p * (1 - p) / (math.pi * n)) for p in exact.values()) / 2
    freedom = len(cells) - 1
    return Comparison(n, chi2, freedom, chi2_p_value(chi2, freedom), distance, by_chance)


def chi2_p_value(chi2: float, freedom: int) -> float:
    """The probability of a χ² at least so large; 1 if there is nothing to compare."""
    if not freedom:
        return 1.0
    half = torch.tensor([freedom / 2, chi2 / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
