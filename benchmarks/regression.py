"""Is a change faster or slower than the commit before it? Both in one run, in turns.

    python -m benchmarks.regression                      # the working tree against HEAD
    python -m benchmarks.regression --base HEAD~1 --policies sage,chain --rounds 5

The base is checked out beside the working tree, and each decodes the same pictures in processes of
its own that take turns, so that what slows the machine slows both. For each picture the best time
of all rounds counts, since others' work only ever adds to it; the ratio of a policy is the median
over the pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import environment
from training.world.inputs import items

ROOT = Path(__file__).resolve().parents[1]
CHILD = """
import json, sys, time
import sage_core
asked = json.loads(sys.argv[1])
if asked["cpu_clock"]:  # of the whole process: what others do on the machine does not count
    import sage_core.engine.loop, sage_core.drafts.drafter
    sage_core.engine.loop.perf_counter = sage_core.drafts.drafter.perf_counter = time.process_time
pipeline = sage_core.load()
out = {}
for policy in asked["policies"]:
    for image, prompt in [asked["items"][0], *asked["items"]]:  # the first one warms up
        result = pipeline.ask(image, prompt, policy=policy, max_new_tokens=asked["new"])
        s = result.stats.seconds
        spent = s.draft + s.plan + s.verify + s.accept + s.commit
        out[f"{policy} {image}"] = [spent, len(result.tokens) - 1, result.text]
print(json.dumps(out))
"""


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A working tree of ``revision``, removed afterwards."""
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "base"
        git("worktree", "add", "--detach", "--quiet", str(tree), revision)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def measure(tree: Path, asked: dict[str, Any], costs: Path) -> dict[str, Any]:
    """One round of one version: by policy and picture, seconds of decoding, tokens and text."""
    where = {"PYTHONPATH": str(tree), "SAGE_COSTS": str(costs)}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(asked)],
        cwd=tree,
        env={**os.environ, **where},
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows(
    policies: Sequence[str], base: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """By policy: tokens per second of both versions, their ratio, and whether texts agree."""
    table = []
    for policy in policies:
        names = [name for name in base[0] if name.startswith(f"{policy} ")]
        before = [min(one[name][0] / max(1, one[name][1]) for one in base) for name in names]
        after = [min(one[name][0] / max(1, one[name][1]) for one in new) for name in names]
        table.append(
            {
                "policy": policy,
                "base": 1 / median(before),
                "change": 1 / median(after),
                "ratio": median(b / a for b, a in zip(before, after, strict=True)),
                "same_text": all(base[0][name][2] == new[0][name][2] for name in names),
            }
        )
    return table


def report(data: dict[str, Any]) -> str:
    lines = [
        "# A change's speed beside its base",
        "",
        *environment.as_markdown(data["environment"]),
        f"- base {data['base']}; change {data['change']}; {data['items']} pictures, "
        f"{data['rounds']} rounds, {data['clock']} time",
        "",
        "| policy | base tokens/s | change tokens/s | ratio | same text |",
        "|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        lines.append(
            f"| {row['policy']} | {row['base']:.1f} | {row['change']:.1f} | {row['ratio']:.3f} "
            f"| {'yes' if row['same_text'] else 'NO'} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure both; returns 1 if a policy is slower than ``--worst`` times the base."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("--base", default="HEAD", help="a commit (HEAD)")
    parser.add_argument("--policies", default="autoregressive,chain,sage")
    parser.add_argument("--items", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--worst", type=float, default=0.95, help="ratio that passes (0.95)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    chosen = parser.parse_args(argv)
    policies = chosen.policies.split(",")
    with checkout(chosen.base) as tree, TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pictures = []
        for item in items(3 * chosen.items):
            if item.kind == "image":
                path = folder / f"{len(pictures)}.png"
                item.media[0].image.save(path)
                pictures.append((str(path), item.prompt))
        asked = {
            "policies": policies,
            "items": pictures,
            "new": chosen.max_new_tokens,
            "cpu_clock": chosen.clock == "cpu",
        }
        base, new = [], []
        for _ in range(chosen.rounds):
            base.append(measure(tree, asked, folder / "base.json"))
            new.append(measure(ROOT, asked, folder / "new.json"))
    changed = " and what is not committed" if git("status", "--porcelain") else ""
    data = {
        "environment": environment.describe("benchmarks.regression"),
        "base": git("rev-parse", "--short", chosen.base),
        "change": git("rev-parse", "--short", "HEAD") + changed,
        "items": len(pictures),
        "rounds": chosen.rounds,
        "clock": chosen.clock,
        "rows": rows(policies, base, new),
    }
    environment.write(chosen.output, data, report(data))
    return int(any(row["ratio"] < chosen.worst for row in data["rows"]))


class _Plain(argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    sys.exit(main())
