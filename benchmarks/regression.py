"""Is a change faster or slower than its base? Both in one run, in turns.

    python -m benchmarks.regression                      # the working tree against HEAD
    python -m benchmarks.regression --base HEAD~1 --policies sage,chain --rounds 5
    python -m benchmarks.regression --base DIR           # against another checkout
    python -m benchmarks.regression --target "$(python -m benchmarks.real_weights)" --text \
        --draft ngram --policies chain,sage              # on a model of 135 M parameters

The base is checked out beside the working tree, and each answers the same prompts in processes of
its own that take turns, so that what slows the machine slows both. They use only the documented
Python API, so that modules may have moved in between. For each prompt the best time of all rounds
counts, since other work only adds to it; a ratio is the median over prompts of the prompt's own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import environment, harness
from benchmarks.harness import REFERENCE, number
from training.world.inputs import items

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = (
    "What is a prime number?",
    "Write a short story about a lighthouse.",
    "Explain how rain forms.",
    "List five uses of a paper clip.",
    "Write a Python function that reverses a list.",
    "What should I pack for a week by the sea?",
    "Summarise the plot of Romeo and Juliet.",
    "How do I bake bread?",
)
"""Prompts without an image."""
CHILD = """
import json, sys, time
asked = json.loads(sys.argv[1])
if asked["clock"] == "cpu":  # time of the process, which other work on the machine does not add to
    time.perf_counter = time.process_time  # before anything imports it by name
import sage_core
pipeline = sage_core.load(**asked["load"])
out = {}
for policy in asked["policies"]:
    for number, (files, prompt) in enumerate([asked["prompts"][0], *asked["prompts"]]):
        started, first = time.perf_counter(), None
        stream = pipeline.stream(files, prompt, policy=policy, max_new_tokens=asked["limit"])
        for step in stream:
            first = first or time.perf_counter() - started
        result = stream.result()
        token = result.stats.decode_seconds / max(1, len(result.tokens) - 1)
        out[f"{policy} {number}"] = [token, first, result.text]
print(json.dumps(out))
"""
"""Prints for each policy and prompt: seconds a token, seconds to the first token, the text. The
prompt 0 is the first one once more: it warms up, and its first token includes calibration."""
Round = dict[str, Any]


@contextmanager
def checkout(base: str) -> Iterator[Path]:
    """The folder ``base``, or a working tree of that revision, removed afterwards."""
    if Path(base).is_dir():
        yield Path(base).resolve()
        return
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        git("worktree", "add", "--detach", "--quiet", str(tree), base)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*arguments: str, folder: Path = ROOT) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def commit(folder: Path) -> str:
    """The commit of a checkout, and whether more has changed."""
    changed = " and uncommitted changes" if git("status", "--porcelain", folder=folder) else ""
    return git("rev-parse", "--short", "HEAD", folder=folder) + changed


def measure(tree: Path, asked: dict[str, Any], costs: Path) -> Round:
    """One round of one version, with a cost file of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(asked)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "SAGE_COSTS": str(costs)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: Round = json.loads(done.stdout)
    return found


def rows(
    policies: Sequence[str], base: Sequence[Round], change: Sequence[Round]
) -> list[dict[str, Any]]:
    """By policy: speed and time to the first token, [base, change], ratios, and equal texts."""
    table = []
    for policy in policies:
        cold, *names = [name for name in base[0] if name.startswith(f"{policy} ")]
        token, first = (
            [[min(one[name][k] for one in rounds) for name in names] for rounds in (base, change)]
            for k in (0, 1)
        )
        table.append(
            {
                "policy": policy,
                "tokens_per_second": [1 / median(each) for each in token],
                "ratio": median(b / c for b, c in zip(*token, strict=True)),
                "first_token": [median(each) for each in first],
                "first_token_ratio": median(c / b for b, c in zip(*first, strict=True)),
                "cold_first_token": [base[0][cold][1], change[0][cold][1]],
                "same_text": all(base[0][name][2] == change[0][name][2] for name in names),
            }
        )
    return table


def report(data: dict[str, Any]) -> str:
    head = ["policy", "tokens/s", "ratio", "first token, ms", "ratio", "cold first token, ms"]

    def both(values: Sequence[float], unit: float = 1.0) -> str:
        return " → ".join(number(value * unit, 1) for value in values)

    cells = [
        [
            *(row["policy"], both(row["tokens_per_second"]), number(row["ratio"], 3)),
            *(both(row["first_token"], 1e3), number(row["first_token_ratio"], 3)),
            *(both(row["cold_first_token"], 1e3), "yes" if row["same_text"] else "NO"),
        ]
        for row in data["rows"]
    ]
    notes = [
        f"{data['target'] or 'the bundled target'}, {data['draft'] or 'its own draft'}",
        f"base {data['base']} → change {data['change']}; {data['prompts']} prompts, "
        f"{data['rounds']} rounds, {data['clock']} time",
        "ratios are change over base: of tokens/s, where more is faster, and of the time from the "
        "prompt to the first token, where less is sooner; cold: of the first prompt of a process "
        "without a cost file, calibration included",
    ]
    table = harness.table([*head, "same text"], cells)
    return harness.report("A change's speed beside its base", data, notes, table)


def prompts(arguments: Namespace, folder: Path) -> list[tuple[list[str], str]]:
    """Files and a question each; images are written to ``folder``."""
    if arguments.text:
        return [([], question) for question in QUESTIONS[: arguments.items]]
    found = []
    for item in items(3 * arguments.items):
        if item.kind == "image":
            path = folder / f"{len(found)}.png"
            item.media[0].image.save(path)  # type: ignore[union-attr]
            found.append(([str(path)], item.prompt))
    return found


def compare(arguments: Namespace) -> dict[str, Any]:
    """The base's commit, how many prompts, and a row a policy."""
    with checkout(arguments.base) as tree, TemporaryDirectory() as scratch:
        folder = Path(scratch)
        load = {"target": arguments.target, "draft": arguments.draft}
        asked = {
            "load": {name: value for name, value in load.items() if value},
            "policies": arguments.policies,
            "prompts": prompts(arguments, folder),
            "limit": arguments.max_new_tokens,
            "clock": arguments.clock,
        }
        base, change = [], []
        for done in range(1, arguments.rounds + 1):
            base.append(measure(tree, asked, folder / "base.json"))
            change.append(measure(ROOT, asked, folder / "change.json"))
            harness.progress(f"{done} of {arguments.rounds} rounds")
        table = rows(arguments.policies, base, change)
        return {"base": commit(tree), "prompts": len(asked["prompts"]), "rows": table}


def main(argv: list[str] | None = None) -> int:
    """Measure both; returns 1 if a policy is slower than ``--worst`` times the base."""
    parser = harness.options(
        __doc__,
        pair=False,
        policies=(REFERENCE, "chain", "sage"),
        items=6,
        rounds=3,
        max_new_tokens=96,
        worst=0.95,
    )
    parser.add_argument("--base", default="HEAD", help="a commit (HEAD), or another checkout")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--target", help="another target than the bundled one")
    parser.add_argument("--draft", help="another draft than the target's own")
    parser.add_argument("--text", action="store_true", help="questions without an image")
    arguments = parser.parse_args(argv)
    data = harness.described("benchmarks.regression", arguments) | compare(arguments)
    data["change"] = commit(ROOT)
    environment.write(arguments.output, data, report(data))
    return int(any(row["ratio"] < arguments.worst for row in data["rows"]))


if __name__ == "__main__":
    sys.exit(main())
