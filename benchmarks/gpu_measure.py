"""What `benchmarks.gpu` measures: bandwidth, passes over few nodes, and whole texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch

from benchmarks.expansion import Floor
from benchmarks.policies import GENERATE, Method, Timing, now, time_generate
from sage_core.bench.oracle import first_mismatch
from sage_core.engine.costs.store import CostStore
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.generation.prepare import prepare
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.backend import MakeRunner
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.runtime.runner import Runner
from training.world.inputs import items

MAKERS = ("eager", "captured", "captured, PyTorch's attention")
"""Ways to run a pass; a fresh one each, so that storage of one is not held by the next."""


SHARE_OF_BANDWIDTH = 0.9
"""What a pass's matrix products reach of a copy's bandwidth: a guess, made before any was timed."""
REPLAYED_LAYER = 0.015
"""Milliseconds of a layer's small kernels in a graph, another guess."""
LAUNCHED_LAYER = 0.75
"""Milliseconds that the host takes to launch a layer: from 20 ms and more for 28 of them."""


def predicted(way: str, floor: float, layers: int) -> float:
    """Milliseconds expected of a pass, written down so that the result can prove it wrong."""
    replayed = floor / SHARE_OF_BANDWIDTH + REPLAYED_LAYER * layers
    return max(replayed, LAUNCHED_LAYER * layers) if way == "eager" else replayed


def maker(name: str) -> MakeRunner:
    """What makes the runners of a way to run passes."""
    if name == "eager":
        return Runner
    return CudaGraphBackend(kernel=name == "captured")


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
    """Passes over ``rows`` rows behind ``context`` tokens: host and device, milliseconds each."""

    role: str
    way: str
    rows: int
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

    rows: Sequence[int]
    contexts: Sequence[int]
    repeats: int


def pass_times(
    role: str, model: Any, way: str, floor: Floor, wanted: Passes, speed: float
) -> Iterator[PassTime]:
    """Time a model's passes at every context, longest first: one prompt is read and cut short.

    ``speed`` is the bandwidth in bytes a second that the floors are counted with.
    """
    runner = maker(way)(model)
    longest = max(wanted.contexts)
    ids = torch.arange(longest, device=runner.device)[None] % 1000 + 8
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8}
    runner.prefill(prepare(model, inputs), room=2 * max(wanted.rows))
    for context in sorted(wanted.contexts, reverse=True):
        runner.truncate(runner.committed - context)
        least = floor.milliseconds(context, speed)
        for rows in wanted.rows:
            took = _one_pass(runner, rows, wanted.repeats)
            guess = predicted(way, least, floor.shape.layers)
            yield PassTime(role, way, rows, context, 1000 * took, least, guess)


def _one_pass(runner: Runner, rows: int, repeats: int) -> float:
    """Seconds of a pass over a chain, the mean of ``repeats`` after two that warm up."""
    seen = np.tril(np.ones((rows, rows), dtype=bool))

    def one() -> None:
        runner.forward(range(8, 8 + rows), range(rows), seen)
        runner.commit([])

    for _ in range(2):
        one()
    started = now(runner.device)
    for _ in range(repeats):
        one()
    return (now(runner.device) - started) / repeats


@dataclass(frozen=True)
class Way:
    """One way to decode: a policy on runners of a kind."""

    policy: str
    passes: str

    @property
    def name(self) -> str:
        return f"{self.policy}, {self.passes}"


@dataclass(frozen=True)
class Texts:
    """Which texts are decoded: held-out items, ``limit`` new tokens at most."""

    count: int
    limit: int
    seed: int = 1


@dataclass
class Decoded:
    """All methods on all texts, with where they differ from `generate` and what was captured."""

    methods: list[Method]
    mismatches: list[dict[str, Any]]
    notes: tuple[str, ...]
    captures: list[dict[str, Any]]

    def rows(self) -> list[dict[str, Any]]:
        """A summary a method; speed-ups are over `generate` and over our autoregressive, captured.

        Methods that there was no time for are left out.
        """
        whole = [method for method in self.methods if len(method.timings) == self._texts]
        base = next((m for m in whole if m.name == "autoregressive, captured"), whole[0])
        rows = []
        for method in whole:
            row = method.summary(base, whole[0])
            wrong = [m for m in self.mismatches if m["method"] == method.name]
            row["near_ties"] = sum(m["near_tie"] for m in wrong)
            row["different"] = sum(not m["near_tie"] for m in wrong)
            rows.append(row)
        return rows

    @property
    def _texts(self) -> int:
        return len(self.methods[0].timings)


def decode_all(
    pair: LoadedPair, ways: Sequence[Way], texts: Texts, until: float = float("inf")
) -> Decoded:
    """Decode every text by `generate` and every way, after a short one that warms up.

    Nothing new is begun once `perf_counter` is past ``until``.
    """
    # One maker for all captured ways: the graphs of one are the graphs of the next.
    makers = {passes: maker(passes) for passes in dict.fromkeys(way.passes for way in ways)}
    books = {passes: CostStore() for passes in makers}  # measured here, and not kept
    decoded = Decoded([Method(GENERATE), *(Method(way.name) for way in ways)], [], (), [])
    inputs = _inputs(pair, texts)
    for given in inputs:
        decoded.methods[0].timings.append([time_generate(pair, given, texts.limit)])
    for way, method in zip(ways, decoded.methods[1:], strict=True):
        make, costs = makers[way.passes], books[way.passes]
        for number, given in enumerate(inputs):
            if perf_counter() > until:
                return decoded
            if not number:
                timed(pair, way.policy, make, given, min(24, texts.limit), costs)
            timing = timed(pair, way.policy, make, given, texts.limit, costs)
            method.timings.append([timing])
            _compare(pair, decoded, method.name, number, given, texts.limit)
    for make in makers.values():
        if isinstance(make, CudaGraphBackend):
            decoded.notes += make.notes
            decoded.captures += [asdict(record) for record in make.records]
    return decoded


def timed(
    pair: LoadedPair,
    policy: str,
    make: MakeRunner,
    inputs: dict[str, Any],
    limit: int,
    costs: CostStore | None = None,
) -> Timing:
    """Decoding by the engine after the first token, on the wall."""
    decoder = SpeculativeDecoder(pair.target, pair.draft, policy, costs=costs, runner=make)
    stream = decoder.stream(**inputs, max_new_tokens=limit)
    next(stream)
    started = now(pair.target.device)
    for _ in stream:
        pass
    took = now(pair.target.device) - started
    output = stream.output()
    new = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return Timing(tuple(new), took, output.stats)


def _inputs(pair: LoadedPair, texts: Texts) -> list[dict[str, Any]]:
    """The first items, on the target's device in its dtype."""
    device, dtype = pair.target.device, pair.target.dtype
    prepared = []
    for item in items(texts.count, texts.seed):
        given = pair.family.prepare(item.media, item.prompt)
        prepared.append(
            {
                name: value.to(device, dtype if value.is_floating_point() else value.dtype)
                if isinstance(value, torch.Tensor)
                else value
                for name, value in given.items()
            }
        )
    return prepared


def _compare(
    pair: LoadedPair, decoded: Decoded, name: str, number: int, inputs: dict[str, Any], limit: int
) -> None:
    """Note the first difference between the latest text of method ``name`` and `generate`'s."""
    expected = decoded.methods[0].timings[number][0].tokens
    method = next(method for method in decoded.methods if method.name == name)
    got = method.timings[number][0].tokens
    if got == expected:
        return
    position = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), -1)
    for known in decoded.mismatches:  # a margin takes a whole `generate`: not twice for one place
        same = (known["text"], known["position"]) == (number, position)
        if same and known["got"] == got[position]:
            decoded.mismatches.append({**known, "method": name})
            return
    prompt = inputs["input_ids"]
    whole, ours = (
        torch.cat([prompt, prompt.new_tensor([tokens])], dim=1) for tokens in (expected, got)
    )
    mismatch = first_mismatch(pair.target, inputs, whole, ours, max_new_tokens=limit)
    if mismatch is not None:
        decoded.mismatches.append({"method": name, "text": number, **mismatch.as_dict()})


def with_models(pair: LoadedPair, target: Any, draft: Any) -> LoadedPair:
    """The same family and tokenizer around other models."""
    dtype = str(target.dtype).removeprefix("torch.")
    return replace(pair, target=target, draft=draft, device=str(target.device), dtype=dtype)
