"""How each method decodes: `SpeculativeDecoder`, and transformers' `generate`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from sage_core.bench.measure import Decoded, Input, Stopwatch
from sage_core.bench.methods import Generate
from sage_core.bench.oracle import seeded
from sage_core.bench.records import Counts
from sage_core.engine.costs.store import CostStore, Learned
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.results import Stats
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.device import peak_memory, reset_peak_memory
from sage_core.trees.steps import Step

__all__ = ["ByEngine", "ByTransformers", "MethodCosts"]


class MethodCosts(CostStore):
    """The cost store of one method: in memory, so that no run starts from what another learned.

    What passes cost is shared by all repeats, as a property of the machine. What a policy learns of
    acceptance belongs to one repeat, since the next one decodes the same texts again.
    """

    def __init__(self) -> None:
        super().__init__(None)
        self.repeat = 0
        """The current repeat; set before each text."""

    def learned(self, pair: str) -> Learned:
        return super().learned(self._key(pair))

    def keep(self, pair: str, learned: Learned) -> None:
        super().keep(self._key(pair), learned)

    def _key(self, pair: str) -> str:
        return f"{pair}, repeat {self.repeat}"


class ByEngine:
    """A `SpeculativeDecoder` as a method.

    Args:
        name: of the method.
        decoder: what decodes. If it was made with `MethodCosts`, repeats learn separately.
    """

    def __init__(self, name: str, decoder: SpeculativeDecoder) -> None:
        self.name = name
        self.decoder = decoder

    def decode(self, item: Input, stopwatch: Stopwatch) -> Decoded:
        settings = self.decoder.settings
        if isinstance(settings.costs, MethodCosts):
            settings.costs.repeat = item.repeat
        session = self.decoder.stream(seed=item.seed, **item.inputs, **item.options)
        next(session)
        stopwatch.first(1)
        for _ in session:
            pass
        stopwatch.end()
        output = session.output()
        new = output.sequences[0, item.prompt_tokens :].tolist()
        return Decoded(
            tuple(new),
            asdict(output.stats.seconds),
            _counts(output.steps, output.stats),
            output.stats.peak_memory,
            output.steps,
            output.lossy,
            item.seed is None or settings.candidates == "topk",
        )


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
    """transformers' `generate`, plain, assisted or with prompt lookup.

    Args:
        name: of the method.
        pair: the loaded models.
        method: what `generate` is asked for.
        draft: the assistant model; None: no assisted generation.
    """

    def __init__(self, name: str, pair: LoadedPair, method: Generate, draft: Any = None) -> None:
        self.name = name
        self._target = pair.target
        self._arguments = method.arguments()
        self._settings = method.settings()
        self._drafts = draft is not None or bool(self._arguments)
        if draft is not None:
            self._arguments |= {"assistant_model": draft, **_tokenizers(pair, draft)}
        self._draft = draft

    def decode(self, item: Input, stopwatch: Stopwatch) -> Decoded:
        reset_peak_memory(self._target.device)
        commits = _Commits(stopwatch)
        with _settings(self._draft, self._settings), seeded(item.seed, self._target.device):
            ids = self._target.generate(
                **item.inputs,
                **{"do_sample": False, **item.options},
                **self._arguments,
                streamer=commits,
            )
        stopwatch.end()
        return Decoded(
            tuple(ids[0, item.prompt_tokens :].tolist()),
            counts=commits.counts() if self._drafts else None,
            peak_memory=peak_memory(self._target.device),
            comparable=item.seed is None or not self._drafts,
        )


def _tokenizers(pair: LoadedPair, draft: Any) -> dict[str, Any]:
    """The tokenizers that assisted generation requires if the vocabularies differ in padded size.

    It then converts the draft's tokens to text and back, although the tokenizer is the same.
    """
    models: tuple[Any, ...] = (pair.target, draft)
    sizes = {model.config.get_text_config().vocab_size for model in models}
    tokenizer = pair.family.tokenizer
    return {"tokenizer": tokenizer, "assistant_tokenizer": tokenizer} if len(sizes) > 1 else {}


class _Commits(BaseStreamer):
    """A streamer that counts the tokens of each round; it first receives the prompt."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._prompt = True
        self._sizes: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        if self._prompt:
            self._prompt = False
            return
        self._sizes.append(int(value.numel()))
        self._stopwatch.first(self._sizes[0])

    def end(self) -> None:
        pass

    def counts(self) -> Counts:
        """Rounds after the first. Each commits the accepted tokens and a bonus token.

        In a round that ends on an accepted end token, that token is counted as the bonus token.
        """
        rounds = self._sizes[1:]
        return Counts(len(rounds), dict(sorted(Counter(size - 1 for size in rounds).items())))


@contextmanager
def _settings(draft: Any, settings: Mapping[str, Any]) -> Iterator[None]:
    """Give the assistant a changed copy of its generation config, where `generate` reads settings.

    A copy even without settings, because the heuristic schedule writes to it.
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
