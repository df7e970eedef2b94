"""What `benchmarks.gpu` measures: bandwidth, passes over few nodes, and whole texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.expansion import Floor
from benchmarks.harness import (
    GENERATE,
    Decoded,
    Tally,
    by_engine,
    by_generate,
    decoder,
    now,
    prepared,
)
from sage_core.engine.costs.store import CostStore
from sage_core.generation.prepare import prepare
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.backend import Backend, EagerBackend
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.runtime.runner import Runner
from tests.tiny.oracle import first_mismatch
from training.world.inputs import items

GRAPHS = "CUDA graphs"
EXECUTORS = ("eager", GRAPHS, f"{GRAPHS}, PyTorch's attention")
"""Ways to run a pass; a fresh one each, so that storage of one is not held by the next."""
SHARE_OF_BANDWIDTH = 0.9
"""What a pass's matrix products reach of a copy's bandwidth: estimated before any was timed."""
REPLAYED_LAYER = 0.015
"""Milliseconds of a layer's small kernels in a graph, estimated as well."""
LAUNCHED_LAYER = 0.75
"""Milliseconds that the host takes to launch a layer: from 20 ms and more for 28 of them."""


def predicted(executor: str, floor: float, layers: int) -> float:
    """Milliseconds expected of a pass, recorded before it is measured."""
    replayed = floor / SHARE_OF_BANDWIDTH + REPLAYED_LAYER * layers
    return max(replayed, LAUNCHED_LAYER * layers) if executor == "eager" else replayed


def backend(executor: str) -> Backend:
    """How passes run."""
    return EagerBackend() if executor == "eager" else CudaGraphBackend(kernel=executor == GRAPHS)


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes a second that a copy of ``size`` bytes reads and writes, the best of five."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(6):  # the first one warms up, and is hardly the best
        started = now(device)
        target.copy_(source)
        best = max(best, 2 * size / (now(device) - started))
    return best


@dataclass(frozen=True)
class PassTime:
    """Passes over ``tokens`` tokens behind ``context`` tokens: host and device, milliseconds."""

    role: str
    executor: str
    tokens: int
    context: int
    milliseconds: float
    floor: float
    """Milliseconds to read the weights and the context's keys and values."""
    predicted: float

    @property
    def ratio(self) -> float:
        return self.milliseconds / self.floor

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


@dataclass(frozen=True)
class Passes:
    """Which passes are timed, and how often each."""

    tokens: Sequence[int]
    contexts: Sequence[int]
    repeats: int


def pass_times(
    role: str, model: Any, executor: str, floor: Floor, wanted: Passes, speed: float
) -> Iterator[PassTime]:
    """Time a model's passes at every context, longest first: one prompt is prefilled, then cut.

    ``speed`` is the bandwidth in bytes a second that the floors are counted with.
    """
    runner = Runner(model, backend(executor).executor(model))
    longest = max(wanted.contexts)
    ids = torch.arange(longest, device=runner.device)[None] % 1000 + 8
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8}
    runner.prefill(prepare(model, inputs), room=2 * max(wanted.tokens))
    for context in sorted(wanted.contexts, reverse=True):
        runner.truncate(runner.committed - context)
        least = floor.milliseconds(context, speed)
        for tokens in wanted.tokens:
            took = _one_pass(runner, tokens, wanted.repeats)
            guess = predicted(executor, least, floor.shape.layers)
            yield PassTime(role, executor, tokens, context, 1000 * took, least, guess)


def _one_pass(runner: Runner, tokens: int, repeats: int) -> float:
    """Seconds of a pass over a chain, the mean of ``repeats`` after two that warm up."""
    causal = np.tril(np.ones((tokens, tokens), dtype=bool))

    def one() -> None:
        runner.forward(range(8, 8 + tokens), range(tokens), causal)
        runner.commit([])

    for _ in range(2):
        one()
    started = now(runner.device)
    for _ in range(repeats):
        one()
    return (now(runner.device) - started) / repeats


@dataclass(frozen=True)
class Texts:
    """Which texts are decoded: held-out items, ``limit`` new tokens at most."""

    count: int
    limit: int
    seed: int = 1


Method = tuple[str, str]
"""A policy, and how its passes are executed."""


def name_of(method: Method) -> str:
    return ", ".join(method)


@dataclass
class TextResults:
    """The texts of every method, `generate` first, where they differ, and what was captured."""

    texts: dict[str, list[Decoded]]
    mismatches: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    captures: list[dict[str, Any]] = field(default_factory=list)

    def figures(self) -> list[dict[str, Any]]:
        """Of each method; speed-ups are over `generate` and over our autoregressive loop in graphs.

        Methods that there was no time for are left out.
        """
        expected = self.texts[GENERATE]
        tallies: dict[str, Tally] = {}
        for name, texts in self.texts.items():
            if len(texts) == len(expected):
                tallies[name] = Tally()
                for text, oracle in zip(texts, expected, strict=True):
                    tallies[name].add([text], oracle.tokens, least=0)
        base = tallies.get(name_of(("autoregressive", GRAPHS)), tallies[GENERATE])
        found = []
        for name, tally in tallies.items():
            wrong = [m for m in self.mismatches if m["method"] == name]
            row = {"name": name, **tally.figures(base)}
            row["over_generate"] = tally.figures(tallies[GENERATE])["speedup"]
            row["near_ties"] = sum(m["near_tie"] for m in wrong)
            row["different"] = len(wrong) - row["near_ties"]
            found.append(row)
        return found


def decode_all(
    pair: LoadedPair, methods: Sequence[Method], texts: Texts, until: float = float("inf")
) -> TextResults:
    """Decode every text by `generate` and every method, after a short one that warms up.

    Nothing new is begun once `perf_counter` is past ``until``.
    """
    # One backend for all methods with graphs: the graphs of one are the graphs of the next.
    backends = {executor: backend(executor) for executor in dict.fromkeys(e for _, e in methods)}
    stores = {executor: CostStore() for executor in backends}  # measured here, and not kept
    inputs = [prepared(pair, item) for item in items(texts.count, texts.seed)]
    limit = {"max_new_tokens": texts.limit}
    results = TextResults({GENERATE: [by_generate(pair, one, **limit) for one in inputs]})
    for policy, executor in methods:
        name = name_of((policy, executor))
        results.texts[name] = []
        made = decoder(pair, policy, stores[executor], backend=backends[executor], phase_times=True)
        for number, one in enumerate(inputs):
            if perf_counter() > until:
                return results
            if not number:
                by_engine(made, one, max_new_tokens=min(24, texts.limit))
            results.texts[name].append(by_engine(made, one, **limit))
            _compare(pair, results, name, number, one, texts.limit)
    for one in backends.values():
        if isinstance(one, CudaGraphBackend):
            results.notes += one.notes
            results.captures += [asdict(record) for record in one.records]
    return results


def _compare(
    pair: LoadedPair, results: TextResults, name: str, number: int, inputs: Any, limit: int
) -> None:
    """Note the first difference between the latest text of method ``name`` and `generate`'s."""
    expected = results.texts[GENERATE][number].tokens
    got = results.texts[name][number].tokens
    if got == expected:
        return
    position = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), -1)
    for known in results.mismatches:  # a margin takes a whole `generate`: not twice for one place
        same = (known["text"], known["position"]) == (number, position)
        if same and known["got"] == got[position]:
            results.mismatches.append({**known, "method": name})
            return
    prompt = inputs["input_ids"]
    whole, ours = (
        torch.cat([prompt, prompt.new_tensor([tokens])], dim=1) for tokens in (expected, got)
    )
    mismatch = first_mismatch(pair.target, inputs, whole, ours, max_new_tokens=limit)
    if mismatch is not None:
        results.mismatches.append({"method": name, "text": number, **asdict(mismatch)})


def with_models(pair: LoadedPair, target: Any, draft: Any) -> LoadedPair:
    """The same family and tokenizer around other models."""
    dtype = str(target.dtype).removeprefix("torch.")
    return replace(pair, target=target, draft=draft, device=str(target.device), dtype=dtype)
