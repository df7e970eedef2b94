"""Kinds of draft, trained side by side on the bundled target.

    python -m benchmarks.distill answers --out DIR              the target's answers, once
    python -m benchmarks.distill train --out DIR --steps 300    all kinds, or those of --kinds
    python -m benchmarks.distill speed --out DIR                decoding under several trees
    python -m benchmarks.distill long --out DIR                 prompts of many visual tokens
    python -m benchmarks.distill report --out DIR --output benchmarks/results/distill

`train` with more steps resumes what is there; `--every` counts steps. `main`, `variants` and
`longer` are groups of kinds; a list of kinds whose names have commas is separated by semicolons.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import harness
from benchmarks.distill import page, speed
from benchmarks.distill.data import write_answers
from benchmarks.distill.train import train
from benchmarks.pairs import measured_pair


def main() -> None:
    counts = {"steps": 300, "every": 100, "batch": 4, "scenes": 1000, "held": 24, "items": 6}
    parser = harness.options(__doc__, pair=False, **counts, kinds=("main", "variants"))
    parser.add_argument("stage", choices=["answers", "train", "speed", "long", "report"])
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.stage == "answers":
        write_answers(measured_pair(device="auto"), given.out, given.scenes, given.held)
    elif given.stage == "train":
        train(given.out, given.kinds, given.steps, given.every, given.batch)
    elif given.stage == "report":
        page.write(given.out, given.output)
    else:
        {"speed": speed.scenes, "long": speed.long_prompts}[given.stage](given.out, given.items)


if __name__ == "__main__":
    main()
