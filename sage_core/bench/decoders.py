"""How each method decodes: the engine under a policy, and transformers' `generate`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from sage_core.bench.measure import Decoded, Input, Stopwatch
from sage_core.bench.oracle import seeded
from sage_core.bench.records import Counts
from sage_core.drafts.ngram import Ngram
from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.results import Stats
from sage_core.generation.lossy import Lossy
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.backend import Backend
from sage_core.runtime.device import peak_memory, reset_peak_memory
from sage_core.trees.policies import Policy
from sage_core.trees.steps import PhaseSeconds, Step

__all__ = ["ByEngine", "ByTransformers"]


class ByEngine:
    """A policy of the engine.

    Args:
        name: of the method.
        pair: the loaded models.
        backend: how passes run.
        policy: how trees are shaped.
        pruning: what the draft reads of visual tokens.
        lookup: branches that are looked up join the draft's trees.
        alone: they are all that is drafted.
        vocab: what the draft scores, if not its whole vocabulary.
        viskip: the share of attention on pictures from which on nothing is drafted.
        lossy: a rule that drafts are accepted by instead of the exact one.
        candidates: how a sampled text's are chosen.
    """

    def __init__(
        self,
        name: str,
        pair: LoadedPair,
        backend: Backend,
        policy: Policy,
        pruning: Pruning,
        lookup: Ngram | None = None,
        *,
        alone: bool = False,
        vocab: ReducedHead | None = None,
        viskip: float | None = None,
        lossy: str | Lossy | None = None,
        candidates: str = "topk",
    ) -> None:
        self.name = name
        draft = None if alone else pair.draft
        lookup = lookup if policy.drafts else None
        self._decoder = SpeculativeDecoder(
            pair.target,
            draft,
            policy,
            pruning,
            lookup=lookup,
            draft_vocab=vocab if draft is not None and policy.drafts else None,
            backend=backend,
            phase_times=True,
            viskip=viskip if draft is not None and policy.drafts else None,
            lossy=lossy if policy.drafts else None,
            candidates=candidates,
        )

    def decode(self, item: Input, watch: Stopwatch) -> Decoded:
        stream = self._decoder.stream(seed=item.seed, **item.inputs, **item.options)
        next(stream)
        watch.first(1)
        for _ in stream:
            pass
        watch.end()
        output = stream.output()
        new = output.sequences[0, item.prompt_tokens :].tolist()
        return Decoded(
            tuple(new),
            _phases(output.stats),
            _counts(output.steps, output.stats),
            output.stats.peak_memory,
            output.steps,
            output.lossy,
            item.seed is None or self._decoder.settings.candidates == "topk",
        )


def _phases(stats: Stats) -> dict[str, float]:
    return {field.name: getattr(stats.seconds, field.name) for field in fields(PhaseSeconds)}


def _counts(steps: tuple[Step, ...], stats: Stats) -> Counts:
    drafted = Counter(step.tree.depth for step in steps if not step.is_prefill)
    return Counts(
        stats.steps,
        dict(stats.accepted_histogram),
        dict(sorted(drafted.items())),
        stats.nodes_verified,
        stats.draft_passes,
    )


class ByTransformers:
    """`generate`, plain or assisted.

    Args:
        name: of the method.
        pair: the loaded models.
        arguments: of `generate`, in addition to the item's.
        draft: the assistant, if there is one.
        settings: fields of the assistant's generation config, in place of its own.
    """

    def __init__(
        self,
        name: str,
        pair: LoadedPair,
        arguments: Mapping[str, Any] | None = None,
        draft: Any = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._target = pair.target
        self._drafts = draft is not None or bool(arguments)
        self._arguments = dict(arguments or {})
        if draft is not None:
            self._arguments |= {"assistant_model": draft, **_tokenizers(pair, draft)}
        self._draft = draft
        self._settings = dict(settings or {})

    def decode(self, item: Input, watch: Stopwatch) -> Decoded:
        reset_peak_memory(self._target.device)
        commits = _Commits(watch)
        drawing = seeded(item.seed, self._target.device)
        with _settings(self._draft, self._settings), drawing:
            ids = self._target.generate(
                **item.inputs,
                **{"do_sample": False, **item.options},
                **self._arguments,
                streamer=commits,
            )
        watch.end()
        tokens = tuple(ids[0, item.prompt_tokens :].tolist())
        counts = commits.counts() if self._drafts else None
        return Decoded(
            tokens,
            counts=counts,
            peak_memory=peak_memory(self._target.device),
            comparable=item.seed is None or not self._drafts,
        )


def _tokenizers(pair: LoadedPair, draft: Any) -> dict[str, Any]:
    """What assisted generation asks for where the sizes pad the vocabulary differently.

    It then takes the draft's tokens to text and back, although the tokenizer is the same.
    """
    models: tuple[Any, ...] = (pair.target, draft)
    sizes = {model.config.get_text_config().vocab_size for model in models}
    tokenizer = pair.family.tokenizer
    return {"tokenizer": tokenizer, "assistant_tokenizer": tokenizer} if len(sizes) > 1 else {}


class _Commits(BaseStreamer):
    """Is told the prompt and then the tokens of each round; presses the watch at the first."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._prompt = True
        self._sizes: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:
            self._prompt = False
            return
        self._sizes.append(int(value.numel()))
        self._watch.first(self._sizes[0])

    def end(self) -> None:
        pass

    def counts(self) -> Counts:
        """Rounds after the first. Each commits the accepted tokens and one of the target's own.

        A round that ends on an accepted end token counts it as the target's.
        """
        rounds = self._sizes[1:]
        return Counts(len(rounds), dict(sorted(Counter(size - 1 for size in rounds).items())))


@contextmanager
def _settings(draft: Any, settings: Mapping[str, Any]) -> Iterator[None]:
    """The assistant with a copy of its generation config, where `generate` reads its settings.

    A copy even without settings: the heuristic schedule writes to it what it has learnt.
    """
    if draft is None:
        yield
        return
    own = draft.generation_config
    draft.generation_config = copy.deepcopy(own)
    draft.generation_config.update(**settings)
    try:
        yield
    finally:
        draft.generation_config = own
