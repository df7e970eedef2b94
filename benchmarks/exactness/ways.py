"""How a text is decoded: a draft, a policy and options, on the models of one family or pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import sage_core
from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead, reduced_head
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.runtime.backend import Backend
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.trees.pass_costs import Costs
from sage_core.trees.steps import Step
from tests.tiny.oracle import reference

ODD_TREE = Path(__file__).parents[1] / "trees" / "odd.txt"
CHEAP = Costs.linear(1.0, 1e-4, 1e-3)
"""Costs at which `sage` drafts whatever may be accepted."""
WIDTH = 3
"""Texts decoded at once in a batch."""


@dataclass(frozen=True)
class Way:
    """One way to decode.

    ``draft`` is the name of one of `Models.draft`, or a spec of ``ngram``. ``what`` is the line of
    the report that it counts in; if it is empty that is the prompt's. ``graphs`` runs passes as for
    CUDA graphs, with a static cache. ``manner`` is ``alone``, ``batch``, ``turns`` (the texts
    continue one another) or ``generate`` (transformers' `generate` with `custom_generate`). A
    ``visual`` way differs from another only where there are images.
    """

    policy: str
    draft: str = "model"
    what: str = ""
    lookup: str | None = None
    pruning: Pruning = field(default_factory=Pruning)
    part_of_vocabulary: bool = False
    viskip: float | None = None
    graphs: bool = False
    costs: Costs = CHEAP
    manner: str = "alone"
    visual: bool = False

    @property
    def shown(self) -> str:
        """The policy, without this machine's folders, or the n-gram draft."""
        policy = self.policy.replace(str(ODD_TREE), ODD_TREE.name)
        return self.draft if self.draft.startswith("ngram") else policy

    @property
    def options(self) -> str:
        """The options that differ from their defaults, for the report of a mismatch."""
        named = ("lookup", "pruning", "part_of_vocabulary", "viskip", "graphs", "costs", "manner")
        usual = Way(self.policy)
        changed = [name for name in named if getattr(self, name) != getattr(usual, name)]
        return ", ".join(f"{name}={getattr(self, name)}" for name in changed)


@dataclass(frozen=True, eq=False)
class Prompt:
    """Inputs and options, and the text that `generate` gives for them."""

    inputs: dict[str, Any]
    options: dict[str, Any]
    expected: torch.Tensor
    """(1, prompt + new tokens)"""
    seed: int | None = None
    """Of a sampled text."""

    @classmethod
    def of(cls, target: Any, inputs: dict[str, Any], options: dict[str, Any], seed: int) -> Prompt:
        """With the oracle's text, under ``seed`` if the options sample."""
        torch.manual_seed(seed)
        expected = reference(target, inputs, **options)
        return cls(inputs, options, expected, seed if options.get("do_sample") else None)

    @property
    def request(self) -> dict[str, Any]:
        """The arguments of a decoder's `generate`."""
        return {**self.inputs, **self.options, "seed": self.seed}


class Models:
    """A target with its drafts by name.

    Args:
        target: a loaded transformers model.
        draft: the model of its pair.
        vocabulary: the tokens of a draft that scores a part of the vocabulary.
        backend: how passes run.
        drafts: makes further drafts for the target by name; each is made once.
    """

    def __init__(
        self,
        target: Any,
        draft: Any,
        vocabulary: Sequence[int],
        backend: Backend,
        drafts: Callable[[Any, str], Any],
    ) -> None:
        self.target = target
        self._vocabulary = list(vocabulary)
        self._backend = backend
        self._make = drafts
        self._drafts: dict[str, Any] = {"model": draft}
        self._reduced: dict[str, ReducedHead] = {}

    @cached_property
    def _graphs(self) -> CudaGraphBackend:
        return CudaGraphBackend(kernel=self.target.device.type == "cuda")

    def draft(self, name: str) -> Any:
        """A draft model, a head, or the spec of an n-gram draft."""
        if name.startswith("ngram"):
            return name
        if name not in self._drafts:
            self._drafts[name] = self._make(self.target, name)
        return self._drafts[name]

    def decoder(self, way: Way) -> SpeculativeDecoder:
        """A decoder of the target in this way."""
        return SpeculativeDecoder(
            self.target,
            self.draft(way.draft),
            way.policy,
            way.pruning,
            way.costs,
            backend=self._graphs if way.graphs else self._backend,
            lookup=way.lookup,
            draft_vocab=self._part(way.draft) if way.part_of_vocabulary else None,
            viskip=way.viskip,
        )

    def _part(self, name: str) -> ReducedHead:
        if name not in self._reduced:
            made = reduced_head(self.target, self.draft(name), self._vocabulary)
            self._reduced[name] = made
        return self._reduced[name]


@dataclass(frozen=True, eq=False)
class Decoded:
    """A text, (1, prompt + new tokens), and its steps; none for `custom_generate`."""

    sequences: torch.Tensor
    steps: tuple[Step, ...]


def decode(models: Models, way: Way, prompts: Sequence[Prompt]) -> list[Decoded]:
    """All ``prompts`` in one way, in order."""
    if way.manner == "generate":
        return [Decoded(_custom_generate(models, way, prompt), ()) for prompt in prompts]
    decoder = models.decoder(way)
    if way.manner == "batch":
        outputs = decoder.generate_batch([prompt.request for prompt in prompts], WIDTH)
    elif way.manner == "turns":
        reuse = PrefixReuse()
        outputs = [decoder.generate(reuse=reuse, **prompt.request) for prompt in prompts]
    else:
        outputs = [decoder.generate(**prompt.request) for prompt in prompts]
    return [Decoded(output.sequences, output.steps) for output in outputs]


def _custom_generate(models: Models, way: Way, prompt: Prompt) -> torch.Tensor:
    sequences: torch.Tensor = models.target.generate(
        **prompt.inputs,
        **{"do_sample": False, **prompt.options},
        custom_generate=sage_core.custom_generate,
        draft_model=models.draft(way.draft),
        policy=way.policy,
        seed=prompt.seed,
    )
    return sequences
