"""Host memory over thousands of captions: ``python -m benchmarks.many_captions --output FILE``.

The bundled pair describes rendered pictures, one after another and several at once, each way in a
process of its own. Memory after the first hundred captions and after the last should be the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks import environment, harness

MIB = 2**20
WAYS = {"one after another": 1, "eight at once": 8}
"""Values of ``batch``."""
POINTS = 6
"""Readings between the first hundred captions and the last."""
PICTURES = 40
CHILD = """
import json, sys
from itertools import islice
from pathlib import Path
import sage_core
from training.world.inputs import items

batch, captions, tokens, points, count = map(int, sys.argv[1:])

def held():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024

pictures = [m for item in items(3 * count, 7) for m in item.media if hasattr(m, "image")][:count]
pipeline = sage_core.load()
marks = {100 + i * (captions - 100) // points for i in range(points + 1)}
found = {}
files = (pictures[i % len(pictures)] for i in range(captions))
for done, one in enumerate(pipeline.captions(files, batch=batch, max_new_tokens=tokens), 1):
    one.get()
    if done in marks:
        found[done] = held()
print(json.dumps(found))
"""
"""Prints resident bytes by the number of captions."""


def measure(batch: int, captions: int, tokens: int) -> dict[str, int]:
    numbers = map(str, (batch, captions, tokens, POINTS, PICTURES))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *numbers], capture_output=True, text=True, check=True
    )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(data: dict[str, Any]) -> str:
    counts = list(next(iter(data["resident"].values())))
    rows = [
        [way, *(f"{found[count] / MIB:.0f}" for count in counts)]
        for way, found in data["resident"].items()
    ]
    note = "resident memory in MiB after so many captions"
    table = harness.table(["captions", *counts], rows)
    return harness.report("Memory over many captions", data, [note], table)


def main(argv: list[str] | None = None) -> int:
    parser = harness.options(__doc__, pair=False, captions=3000, max_new_tokens=12)
    arguments = parser.parse_args(argv)
    data: dict[str, Any] = harness.described("benchmarks.many_captions", arguments)
    data["resident"] = {
        way: measure(batch, arguments.captions, arguments.max_new_tokens)
        for way, batch in WAYS.items()
    }
    environment.write(arguments.output, data, report(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
