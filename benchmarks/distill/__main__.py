"""Kinds of draft side by side on the bundled target.

    python -m benchmarks.distill answers --out DIR              what they are trained on, once
    python -m benchmarks.distill train --out DIR --steps 300    all kinds, or those of --kinds
    python -m benchmarks.distill speed --out DIR                time, under several trees
    python -m benchmarks.distill long --out DIR                 many visual tokens
    python -m benchmarks.distill report --out DIR --output benchmarks/results/distill

A later `train` of more steps goes on from what is there. Kinds stand between semicolons; `main` and
`variants` stand for those groups.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=["answers", "train", "speed", "long", "report"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every", type=int, default=100, help="steps between looks at τ")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--scenes", type=int, default=1000, help="to train on")
    parser.add_argument("--held", type=int, default=24, help="scenes that are held out")
    parser.add_argument("--items", type=int, default=6, help="of `speed` and `long`")
    parser.add_argument("--kinds", default="main;variants")
    parser.add_argument("--output", help="write FILE.json, FILE.md and FILE.png")
    arguments = parser.parse_args()
    if arguments.stage == "answers":
        from benchmarks.distill.data import write_answers
        from benchmarks.pairs import measured_pair

        pair = measured_pair(device="auto")
        write_answers(pair, arguments.out, arguments.scenes, arguments.held)
    elif arguments.stage == "train":
        from benchmarks.distill.train import GROUPS, train

        names = [
            name for given in arguments.kinds.split(";") for name in GROUPS.get(given, [given])
        ]
        train(arguments.out, names, arguments.steps, arguments.every, arguments.batch)
    elif arguments.stage == "speed":
        from benchmarks.distill.speed import measure

        measure(arguments.out, arguments.items)
    elif arguments.stage == "long":
        from benchmarks.distill.long import measure as measure_long

        measure_long(arguments.out, arguments.items)
    else:
        from benchmarks.distill.page import write

        write(arguments.out, arguments.output)


if __name__ == "__main__":
    main()
