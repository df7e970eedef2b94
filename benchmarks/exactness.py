"""Is the output the target's own? Every policy against `generate`, on tiny pairs and on a real one.

python -m benchmarks.exactness                        a subset, about a minute
python -m benchmarks.exactness --full --output benchmarks/results/exactness
python -m benchmarks.exactness --pair DIR             another pair than the bundled one
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from benchmarks.items import items
from sage_core.bench.oracle import check_steps, first_mismatch, reference
from sage_core.costs import Costs
from sage_core.lookup import is_lookup
from sage_core.models.loading import load_pair
from sage_core.pruning import Pruning
from sage_core.speculative import SpeculativeDecoder
from tests.tiny import FAMILIES, build_pair, make_inputs

ODD_TREE = Path(__file__).parent / "trees" / "odd.txt"
POLICIES = (
    "autoregressive",
    "chain",
    "static",
    f"static:tree={ODD_TREE}",
    "sage-paper",
    "sage-paper:dmin=1,dmax=12,wmin=1,wmax=6,nmax=96,theta=0.001,history=2",
    "sage-paper:lookahead=false,scale_width=false,parent=cumulative,nmax=10",
    "eagle2",
    "eagle2:depth=4,beam=2,k=3,nodes=5",
    "optimal-static",
    "spec-llava",
    "sage",
    "ngram:shortest=1,least=0.001",
    "sage + ngram:shortest=1,least=0.001,price=0",
)
"""Policies, drafts that are looked up, and branches looked up beside a policy's own tree."""
PAIR_POLICIES = (
    "autoregressive",
    "chain",
    "static",
    "optimal-static",
    "eagle2",
    "spec-llava",
    "sage-paper",
    "sage",
    "ngram",
    "sage + ngram",
)
NEW_TOKENS = (1, 2, 7, 40)
PAIR_NEW_TOKENS = (256, 1, 144, 2, 89, 3, 55, 7, 34, 13, 21)
"""The limits of the items in turn; their number shares no factor with that of the categories."""
PRUNING = (0.0, 0.5, 0.9)
"""Shares of the visual tokens that the draft does without."""
LENGTHS = (1, 12, 60, 200)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "repetition penalty": {"repetition_penalty": 1.15},
    "no repeated triple": {"no_repeat_ngram_size": 3},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
}


@dataclass
class Tally:
    """Cases of one kind: how many, how many equal, and every difference with its circumstances."""

    cases: int = 0
    exact: int = 0
    new_tokens: int = 0
    accepted: int = 0
    steps: int = 0
    mismatches: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        near = sum(m["near_tie"] for m in self.mismatches)
        return {
            "cases": self.cases,
            "exact": self.exact,
            "near_ties": near,
            "wrong": len(self.mismatches) - near,
            "new_tokens": self.new_tokens,
            "steps": self.steps,
            "accepted": self.accepted,
            "mismatches": self.mismatches,
        }


@dataclass(frozen=True)
class Case:
    """One prompt with one set of options, to be decoded under every policy."""

    name: str
    group: str
    target: Any
    draft: Any
    inputs: dict[str, Any]
    options: dict[str, Any]
    pruning: float = 0.0


def run(cases: Iterator[Case], policies: tuple[str, ...]) -> dict[str, dict[str, Tally]]:
    """Tallies by group and policy. Progress goes to stderr."""
    tallies: dict[str, dict[str, Tally]] = {}
    for number, case in enumerate(cases, 1):
        torch.manual_seed(number)
        expected = reference(case.target, case.inputs, **case.options)
        for policy in policies:
            group = tallies.setdefault(case.group, {})
            torch.manual_seed(number)  # a sampled text is the oracle's under the same seed
            _decode(case, policy, expected, group.setdefault(_short(policy), Tally()))
        if sys.stderr.isatty() or number % 50 == 0:
            print(f"\r{number} cases", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return tallies


CHEAP = Costs.linear(1.0, 1e-4, 1e-3)
"""What `sage` takes passes to cost, so that it drafts whatever may be accepted."""


def _short(policy: str) -> str:
    """A policy's name in the report, without this machine's folders."""
    return policy.replace(str(ODD_TREE), ODD_TREE.name)


def _decode(case: Case, policy: str, expected: torch.Tensor, tally: Tally) -> None:
    name, _, lookup = policy.partition(" + ")
    draft = name if is_lookup(name) else case.draft
    decoder = SpeculativeDecoder(
        case.target,
        draft,
        "sage" if is_lookup(name) else name,
        Pruning(case.pruning),
        CHEAP,
        lookup or None,
    )
    output = decoder.generate(**case.inputs, **case.options)
    prompt = case.inputs["input_ids"].shape[1]
    check_steps(output.steps, output.sequences[0, prompt:].tolist())
    tally.cases += 1
    tally.new_tokens += output.stats.new_tokens
    tally.steps += output.stats.steps
    tally.accepted += sum(len(step.accepted) for step in output.steps)
    found = first_mismatch(case.target, case.inputs, expected, output.sequences, **case.options)
    if found is None:
        tally.exact += 1
        return
    told = {"case": case.name, "policy": _short(policy), **found.as_dict()}
    tally.mismatches.append(told)
    print(f"\nMISMATCH {told}", file=sys.stderr)


def tiny_cases(full: bool, device: str, dtype: torch.dtype) -> Iterator[Case]:
    """Random pairs of every family: kinds of media x lengths x limits x settings."""
    lengths, limits = (LENGTHS, NEW_TOKENS) if full else (LENGTHS[1:2], NEW_TOKENS[2:])
    settings = SETTINGS if full else {"plain": SETTINGS["plain"]}
    for family, spec in FAMILIES.items():
        pair = [model.to(device, dtype) for model in build_pair(family)]
        for kind in spec.kinds:
            for length in lengths:
                inputs = make_inputs(pair[0], family, kind, length)
                inputs = {name: _moved(value, device, dtype) for name, value in inputs.items()}
                for limit in limits:
                    for setting, options in settings.items():
                        if setting != "plain" and limit != limits[-1]:
                            continue
                        chosen = {"max_new_tokens": limit, **options}
                        # Where there is something to leave out, and a text long enough to differ.
                        prunes = kind != "text" and setting == "plain" and limit == limits[-1]
                        for ratio in PRUNING if prunes else PRUNING[:1]:
                            name = f"{family} {kind} prompt={length} new={limit} {setting}"
                            name += f" pruning={ratio}" if ratio else ""
                            yield Case(name, family, pair[0], pair[1], inputs, chosen, ratio)


def pair_cases(arguments: argparse.Namespace, dtype: torch.dtype) -> Iterator[Case]:
    """Held-out pictures and clips on a trained pair, every fifth with a repetition penalty.

    The draft sees all, half and a tenth of the visual tokens in turn.
    """
    folder = Path(arguments.pair) if arguments.pair else None
    pair = load_pair(
        folder / "target" if folder else None,
        folder / "draft" if folder else "auto",
        arguments.device,
        str(dtype).removeprefix("torch."),
    )
    for number, item in enumerate(items(arguments.items, arguments.seed)):
        limit = PAIR_NEW_TOKENS[number % len(PAIR_NEW_TOKENS)]
        options: dict[str, Any] = {"max_new_tokens": limit}
        if number % 5 == 4:
            options["repetition_penalty"] = 1.1
        inputs = pair.family.prepare(item.media, item.prompt)
        inputs = {name: _moved(value, pair.device, dtype) for name, value in inputs.items()}
        ratio = PRUNING[number // 3 % len(PRUNING)]  # the kinds of items come in threes
        name = f"{item.name} new={limit} pruning={ratio} {item.prompt}"
        yield Case(name, item.kind, pair.target, pair.draft, inputs, options, ratio)


def _moved(value: Any, device: str, dtype: torch.dtype) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)


def report(data: dict[str, Any]) -> str:
    """The results as Markdown: one table by family or kind of input, one by policy."""
    lines = ["# Exactness: the engine against `generate(do_sample=False)`, id by id", ""]
    lines += environment.as_markdown(data["environment"])
    lines += [f"- {data['device']}, {data['dtype']}; {data['seconds']:.0f} s", ""]
    for title, tallies in data["results"].items():
        total = _sum(entry for group in tallies.values() for entry in group.values())
        lines += [f"## {title}: {total['exact']} of {total['cases']} exact", ""]
        lines += [
            "| | cases | exact | near ties | wrong | new tokens | τ |",
            "|---|--|--|--|--|--|--|",
        ]
        lines += [_row(group, _sum(entries.values())) for group, entries in tallies.items()]
        for policy in next(iter(tallies.values()), {}):
            by_policy = _sum(entries[policy] for entries in tallies.values())
            lines.append(_row(f"`{policy}`", by_policy))
        lines.append("")
        for entry in (e for group in tallies.values() for e in group.values()):
            lines += [f"- {_told(mismatch)}" for mismatch in entry["mismatches"]]
    return "\n".join(lines)


def _sum(entries: Iterable[dict[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for entry in entries:
        total.update({name: value for name, value in entry.items() if name != "mismatches"})
    return total


def _row(name: str, total: Counter[str]) -> str:
    shown = ("cases", "exact", "near_ties", "wrong", "new_tokens")
    counts = " | ".join(str(total[column]) for column in shown)
    return f"| {name} | {counts} | {total['accepted'] / max(1, total['steps']):.2f} |"


def _told(mismatch: dict[str, Any]) -> str:
    margin = mismatch["margin"]
    kind = "near tie" if mismatch["near_tie"] else "WRONG"
    shown = "one text had ended" if margin is None else f"margin {margin:.2e}"
    return (
        f"{kind}: {mismatch['case']}, `{mismatch['policy']}`: token {mismatch['position']} is "
        f"{mismatch['got']}, not {mismatch['expected']} ({shown})"
    )


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the whole matrix")
    parser.add_argument("--only", choices=["tiny", "pair"], help="one half of it")
    parser.add_argument(
        "--pair", help="a folder with target/ and draft/; default: the bundled pair"
    )
    parser.add_argument("--items", type=int, help="held-out items on the pair (12, or 216 if full)")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out items")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    arguments = parser.parse_args(argv)
    if arguments.items is None:
        arguments.items = 216 if arguments.full else 12
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Run, report, and return 1 if anything differs that is no near tie."""
    arguments = parse_arguments(argv)
    dtype = getattr(torch, arguments.dtype)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    started = time.perf_counter()
    found: dict[str, dict[str, dict[str, Tally]]] = {}
    if arguments.only != "pair":
        cases = tiny_cases(arguments.full, arguments.device, dtype)
        found["Tiny random pairs of every family"] = run(cases, POLICIES)
    if arguments.only != "tiny":
        found["Held-out items on a trained pair"] = run(pair_cases(arguments, dtype), PAIR_POLICIES)
    results = {
        title: {g: {p: t.as_dict() for p, t in tallies.items()} for g, tallies in groups.items()}
        for title, groups in found.items()
    }
    data = {
        "environment": environment.describe("benchmarks.exactness"),
        "device": arguments.device,
        "dtype": arguments.dtype,
        "seconds": time.perf_counter() - started,
        "results": results,
    }
    environment.write(arguments.output, data, report(data))
    wrong = sum(e["wrong"] for t in results.values() for g in t.values() for e in g.values())
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
