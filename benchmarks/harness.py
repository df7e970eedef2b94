"""What the benchmarks share: options, methods in rotated order, one tally and one report.

A script declares its texts, its methods by name and the columns of its table. A method takes a
text and returns a `Decoded`; `tallied` decodes every text by every method and counts;
`methods_table` and `report` write the Markdown, `benchmarks.environment` the files.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any, TypeVar

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from benchmarks import environment
from benchmarks.pairs import measured_pair, pair_arguments
from sage_core.engine.costs.store import CostStore
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.results import DecodeOutput
from sage_core.pair_loading import LoadedPair
from training.world.inputs import Item

Text = TypeVar("Text")
Result = TypeVar("Result")

GENERATE = "transformers generate"
REFERENCE = "autoregressive"
LEAST = 8
"""Texts of fewer tokens are compared but have no speed."""
PHASES = ("draft", "plan", "verify", "accept", "commit")
TAU_ALONE = "τ: draft tokens accepted a step, the bonus token not counted"
TAU = f"{TAU_ALONE} (in brackets vLLM's mean acceptance length, which counts it)"
HELP = {
    "items": "texts",
    "repeats": "of each timing",
    "max_new_tokens": "limit of each text",
    "seed": "of the held-out items",
    "policies": "specs between commas, or semicolons",
}


def options(
    doc: str | None, *, pair: bool = True, files: str = "FILE.json and FILE.md", **defaults: Any
) -> argparse.ArgumentParser:
    """The parser of a script: ``--output``, the pair's options, and one for each default.

    A default is a number, a string or a tuple of these; a tuple is given between commas, and an
    empty one is of strings.
    """
    parser = argparse.ArgumentParser(description=(doc or "").strip().splitlines()[0])
    if pair:
        pair_arguments(parser)
    for name, default in defaults.items():
        flag = f"--{name.replace('_', '-')}"
        kind = type((*default, "")[0] if isinstance(default, tuple) else default)
        parse = listed(kind) if isinstance(default, tuple) else kind
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        parser.add_argument(
            flag, type=parse, default=default, help=f"{HELP.get(name, '')} (default: {shown})"
        )
    parser.add_argument("--output", help=f"write {files}")
    return parser


def listed(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Reads values between commas, or between semicolons where there is one."""

    def parse(text: str) -> tuple[Any, ...]:
        parts = text.split(";" if ";" in text else ",")
        return tuple(kind(part.strip()) for part in parts if part.strip())

    parse.__name__ = f"list of {kind.__name__}"
    return parse


def load(arguments: argparse.Namespace) -> LoadedPair:
    """The pair that the options of `options` name."""
    return measured_pair(arguments.pair, arguments.device, arguments.dtype, arguments.draft)


def prepared(pair: LoadedPair, item: Item) -> dict[str, Any]:
    """An item as inputs of the target, on its device and in its number format."""
    return on(pair.family.prepare(item.media, item.prompt), pair.target)


def on(inputs: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """Inputs on the model's device; pixels in its number format."""

    def moved(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(model.device, model.dtype if value.is_floating_point() else None)

    return {name: moved(value) for name, value in inputs.items()}


# One text by one method


@dataclass(frozen=True)
class Decoded:
    """One text: its new tokens, the seconds after the first of them, and the engine's counts."""

    tokens: tuple[int, ...]
    seconds: float
    stats: Any = None
    """`Stats` of the engine; None for transformers' `generate`."""
    result: Any = None
    """What the method returned, for figures of a script's own."""

    @classmethod
    def of(cls, result: Any) -> Decoded:
        """A `DecodeOutput` or a pipeline's result, with the engine's own sum of phases."""
        if isinstance(result, DecodeOutput):
            tokens = result.sequences[0, result.stats.prompt_tokens :].tolist()
        else:
            tokens = result.tokens
        return cls(tuple(tokens), result.stats.decode_seconds, result.stats, result)

    @property
    def rate(self) -> float:
        """Tokens a second after the first token."""
        return (len(self.tokens) - 1) / self.seconds if self.seconds > 0 else 0.0


def now(device: torch.device) -> float:
    """Seconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


class _FirstToken(StoppingCriteria):
    """Notes when `generate` has its first new token; stops nothing."""

    def __init__(self) -> None:
        self.time: float | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self.time is None:
            self.time = now(input_ids.device)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def by_generate(pair: LoadedPair, inputs: Mapping[str, Any], **limits: Any) -> Decoded:
    """Greedy decoding by transformers' `generate`, timed from its first new token."""
    first = _FirstToken()
    criteria = StoppingCriteriaList([first])
    ids = pair.target.generate(**inputs, **limits, do_sample=False, stopping_criteria=criteria)
    end = now(ids.device)
    new = ids[0, inputs["input_ids"].shape[1] :].tolist()
    return Decoded(tuple(new), end - (first.time or end), result=ids)


def by_engine(decoder: SpeculativeDecoder, inputs: Mapping[str, Any], **limits: Any) -> Decoded:
    """Decoding by the engine, timed on the wall from its first new token."""
    device = decoder.target.device
    stream = decoder.stream(**inputs, **limits)
    next(stream)
    started = now(device)
    for _ in stream:
        pass
    seconds = now(device) - started
    output = stream.output()
    new = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    return Decoded(tuple(new), seconds, output.stats, output)


def decoder(
    pair: LoadedPair, policy: Any, costs: CostStore | None = None, **more: Any
) -> SpeculativeDecoder:
    """A decoder of the pair with a cost store in memory: no run starts from another's costs."""
    return SpeculativeDecoder(pair.target, pair.draft, policy, costs=costs or CostStore(), **more)


# Many texts by many methods


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names in an order that rotates, so that a drifting machine affects all alike."""
    turn %= len(names)
    return [*names[turn:], *names[:turn]]


def interleaved(
    texts: Iterable[Text], methods: Mapping[str, Callable[[Text], Result]], repeats: int = 1
) -> Iterator[tuple[Text, dict[str, list[Result]]]]:
    """Each text with what every method made of it, ``repeats`` times, in rotated order.

    The first text is decoded once before by all: allocations and first calls are of no method.
    """
    names = list(methods)
    for number, text in enumerate(texts):
        if not number:
            for method in methods.values():
                method(text)
        found: dict[str, list[Result]] = {name: [] for name in names}
        for repeat in range(repeats):
            for name in rotated(names, number + repeat):
                found[name].append(methods[name](text))
        progress(f"{number + 1} texts")
        yield text, found
    progress("")


def progress(text: str) -> None:
    """Where a run is, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


@dataclass
class Tally:
    """All texts of one method: the rate of each, and counts summed over them."""

    rates: list[float | None] = field(default_factory=list)
    """Tokens a second of each text, the median of its repeats; None where it is too short."""
    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase, of the first repeat of each text."""

    def add(
        self,
        repeats: Sequence[Decoded],
        expected: Sequence[int],
        least: int = LEAST,
        **more: float,
    ) -> None:
        """Count a text; it is exact if all repeats equal ``expected``. ``more``: further counts."""
        first = repeats[0]
        timed = len(first.tokens) >= max(2, least)
        self.rates.append(median(d.rate for d in repeats) if timed else None)
        exact = all(tuple(d.tokens) == tuple(expected) for d in repeats)
        self.counts.update(texts=1, exact=int(exact), new_tokens=len(first.tokens))
        self.counts.update(more)
        if first.stats is not None:
            self.count(first.stats)

    def count(self, stats: Any) -> None:
        """Add the engine's counts of a text."""
        self.counts.update(
            steps=stats.steps,
            accepted=stats.accepted,
            nodes=stats.nodes_verified,
            draft_passes=stats.draft_passes,
        )
        for phase in PHASES:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + getattr(stats.seconds, phase)

    def ratios(self, base: Tally) -> list[float]:
        """Each text's rate over that of ``base``, where both have one."""
        return [a / b for a, b in zip(self.rates, base.rates, strict=True) if a and b]

    def per_step(self, name: str) -> float | None:
        """A count per step; None for a method that counts no steps."""
        steps = self.counts["steps"]
        return self.counts[name] / steps if steps else None

    def figures(self, base: Tally) -> dict[str, Any]:
        """Plain data. The speed-up is the median over texts of the text's own over ``base``."""
        ratios, rates = self.ratios(base), [rate for rate in self.rates if rate]
        tau = self.per_step("accepted")
        return {
            "tokens_per_second": median(rates) if rates else None,
            "speedup": median(ratios) if ratios else None,
            "worst_speedup": min(ratios, default=None),
            "mean_accepted": tau,
            "mean_acceptance_length": None if tau is None else tau + 1,
            "nodes_per_step": self.per_step("nodes"),
            "draft_passes_per_step": self.per_step("draft_passes"),
            **self.counts,
            "seconds": self.seconds,
            "rates": self.rates,
        }


def tallied(
    texts: Iterable[Text],
    methods: Mapping[str, Callable[[Text], Decoded]],
    repeats: int = 1,
    least: int = LEAST,
) -> dict[str, Tally]:
    """A tally a method. Texts must equal those of the first method."""
    tallies = {name: Tally() for name in methods}
    first = next(iter(methods))
    for _, found in interleaved(texts, methods, repeats):
        for name, decoded in found.items():
            tallies[name].add(decoded, found[first][0].tokens, least)
    return tallies


def figures(tallies: Mapping[str, Tally], base: str | None = None) -> dict[str, dict[str, Any]]:
    """The figures of each method; speed-ups are over ``base``, by default the first."""
    reference = tallies[base] if base else next(iter(tallies.values()))
    return {name: tally.figures(reference) for name, tally in tallies.items()}


def all_exact(rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every text of every method equals the reference's."""
    return all(row["exact"] == row["texts"] for row in rows)


# The report


Column = tuple[str, Callable[[dict[str, Any]], str]]


def number(value: float | None, digits: int = 2) -> str:
    """A figure; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f}%"


def span(interval: Sequence[float] | None, digits: int = 2) -> str:
    """``low to high``; a dash where there is none."""
    return "–" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """A table in Markdown; the first column is left-aligned, the others right."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def _tau(row: dict[str, Any]) -> str:
    tau = row["mean_accepted"]
    return "–" if tau is None else f"{tau:.2f} ({tau + 1:.2f})"


SPEED: Column = ("tokens/s", lambda row: number(row["tokens_per_second"], 1))
SPEEDUP: Column = ("speed-up", lambda row: number(row["speedup"]))
WORST: Column = ("worst text", lambda row: number(row["worst_speedup"]))
ACCEPTED: Column = ("τ", _tau)
NODES: Column = ("nodes/step", lambda row: number(row["nodes_per_step"], 1))
PASSES: Column = ("draft passes/step", lambda row: number(row["draft_passes_per_step"]))
EXACT: Column = ("exact", lambda row: f"{row['exact']}/{row['texts']}")


def methods_table(
    rows: Mapping[str, dict[str, Any]], columns: Sequence[Column], first: str = "method"
) -> list[str]:
    """A row a method, a cell a column."""
    head = [first, *(title for title, _ in columns)]
    return table(head, ([name, *(show(row) for _, show in columns)] for name, row in rows.items()))


def report(title: str, data: Mapping[str, Any], notes: Sequence[str], *blocks: list[str]) -> str:
    """Markdown: what it ran on, notes, then the blocks with an empty line before each."""
    lines = [f"# {title}", "", *environment.as_markdown(data["environment"])]
    if "device" in data:
        pair = f"{data['target']} with {data['draft']}; {data['device']}, {data['dtype']}"
        lines.append(f"- pair: {pair}")
    lines += [f"- {note}" for note in notes if note]
    for block in blocks:
        lines += ["", *block]
    return "\n".join(lines)


def described(
    module: str, arguments: argparse.Namespace, pair: LoadedPair | None = None
) -> dict[str, Any]:
    """What a result file begins with: environment, pair and the options of the run."""
    data: dict[str, Any] = {"environment": environment.describe(module), **vars(arguments)}
    del data["output"]
    if pair is not None:
        data |= {"target": pair.target_id, "draft": pair.draft_id}
        data |= {"device": pair.device, "dtype": pair.dtype}
    return data
