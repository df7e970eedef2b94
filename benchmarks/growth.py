"""What a token costs as the work grows: decoding behind ever longer contexts.

    python -m benchmarks.growth --output benchmarks/results/growth
    python -m benchmarks.growth --contexts 1024,32768 --pair DIR --device cuda

The prompt is a long question of the held-out kind, repeated: what the models make of it does not
matter, since time is measured and the text is checked to be `generate`'s. Every method decodes the
same number of tokens behind the same prompt, in turn, several times; medians count. A chain always
drafts, so that its row shows what a step costs whatever is accepted.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from transformers import StoppingCriteriaList

from benchmarks import environment
from benchmarks.pairs import measured_pair, pair_arguments
from benchmarks.policies import FirstToken
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.results import DecodeOutput
from sage_core.pair_loading import LoadedPair

POLICIES = ("autoregressive", "chain", "sage")


def prompt(pair: LoadedPair, tokens: int) -> dict[str, torch.Tensor]:
    """Text of exactly so many tokens."""
    words = pair.family.tokenizer("Which bar is the tallest? Explain your answer. ")["input_ids"]
    ids = (words * (tokens // len(words) + 1))[:tokens]
    given = torch.tensor([ids], device=pair.target.device)
    return {"input_ids": given, "attention_mask": torch.ones_like(given)}


def by_generate(pair: LoadedPair, inputs: dict[str, Any], new: int) -> tuple[float, list[int]]:
    """Seconds a token after the first, and the text."""
    first = FirstToken()
    ids = pair.target.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=new,
        min_new_tokens=new,
        stopping_criteria=StoppingCriteriaList([first]),
    )
    _wait(pair)
    assert first.time is not None
    return (perf_counter() - first.time) / (new - 1), ids[0].tolist()


def by_engine(
    pair: LoadedPair, policy: str, inputs: dict[str, Any], new: int
) -> tuple[float, DecodeOutput]:
    """Seconds a token after the first, and what was decoded."""
    stream = SpeculativeDecoder(pair.target, pair.draft, policy).stream(
        **inputs, max_new_tokens=new, min_new_tokens=new
    )
    next(stream)
    _wait(pair)
    started = perf_counter()
    for _ in stream:
        pass
    _wait(pair)
    return (perf_counter() - started) / (new - 1), stream.output()


def _wait(pair: LoadedPair) -> None:
    if pair.target.device.type == "cuda":
        torch.cuda.synchronize(pair.target.device)


def measure(pair: LoadedPair, contexts: list[int], new: int, repeats: int) -> list[dict[str, Any]]:
    """A row a context."""
    rows = []
    for context in contexts:
        inputs = prompt(pair, context)
        times: dict[str, list[float]] = {name: [] for name in ("generate", *POLICIES)}
        found: dict[str, DecodeOutput] = {}
        text: list[int] = []
        for _ in range(repeats):
            seconds, text = by_generate(pair, inputs, new)
            times["generate"].append(seconds)
            for policy in POLICIES:
                seconds, found[policy] = by_engine(pair, policy, inputs, new)
                times[policy].append(seconds)
        row: dict[str, Any] = {"context": context, "exact": 0}
        for output in found.values():
            row["exact"] += int(output.sequences[0].tolist() == text)
        chain = found["chain"].stats
        row["chain_step_ms"] = 1e3 * chain.decode_seconds / chain.steps
        row["chain_draft_pass_ms"] = 1e3 * chain.seconds.draft / chain.draft_passes
        row |= {f"{name}_ms": 1e3 * median(each) for name, each in times.items()}
        rows.append({name: round(value, 3) for name, value in row.items()})
        print(row["context"], "done", flush=True)
    return rows


def report(data: dict[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["# Time against context", "", *environment.as_markdown(data["environment"])]
    lines += [
        f"- {data['pair']}, {data['device']}, {data['dtype']}; {data['new_tokens']} new tokens, "
        f"medians of {data['repeats']}; milliseconds",
        "",
        "| context | generate, a token | autoregressive, a token | chain, a token | sage, a token "
        "| chain, a step | chain, a draft pass | exact |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    columns = ("generate", "autoregressive", "chain", "sage", "chain_step", "chain_draft_pass")
    for row in data["rows"]:
        values = " | ".join(f"{row[f'{name}_ms']:.2f}" for name in columns)
        lines.append(f"| {row['context']} | {values} | {row['exact']}/{len(POLICIES)} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Milliseconds a token against the context."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name in ("generate", *POLICIES):
        contexts = [row["context"] for row in rows]
        axes.plot(contexts, [row[f"{name}_ms"] for row in rows], marker="o", label=name)
    axes.set(xscale="log", xlabel="tokens of context", ylabel="milliseconds a token")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    pair_arguments(parser)
    parser.add_argument("--contexts", default="512,1024,2048,4096,8192")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", help="write FILE.json, FILE.md and FILE.png")
    arguments = parser.parse_args()
    pair = measured_pair(arguments.pair, arguments.device, arguments.dtype)
    contexts = [int(text) for text in arguments.contexts.split(",")]
    rows = measure(pair, contexts, arguments.new_tokens, arguments.repeats)
    data = {
        "environment": environment.describe("benchmarks.growth"),
        "pair": pair.target_id,
        "device": pair.device,
        "dtype": pair.dtype,
        "new_tokens": arguments.new_tokens,
        "repeats": arguments.repeats,
        "rows": rows,
    }
    environment.write(arguments.output, data, report(data))
    if arguments.output:
        plot(rows, Path(arguments.output).with_suffix(".png"))


if __name__ == "__main__":
    main()
