"""A folder of thousands of files: ``python -m benchmarks.many_files --output FILE``.

`sage caption` describes small pictures with few tokens, with a sidecar and a line of JSON for each.
Memory and open files after the first tenth and at the end should be the same.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, sleep
from typing import Any

import psutil
from PIL import Image

from benchmarks import environment, harness

MIB = 2**20
POINTS = 10


def make(folder: Path, files: int) -> None:
    """Pictures of two rectangles, no two alike, in folders of a thousand."""
    chance = random.Random(3)
    for number in range(files):
        path = folder / f"{number // 1000}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        image = Image.new("RGB", (48, 48), tuple(chance.randrange(256) for _ in range(3)))
        image.paste(tuple(chance.randrange(256) for _ in range(3)), (8, 8, 30, 24))
        image.putpixel((0, 0), (number % 256, number // 256 % 256, number // 65536))
        image.save(path)


def measure(folder: Path, files: int, tokens: int) -> dict[str, Any]:
    """Readings of the running command by the number of results, and its rate."""
    output = folder / "out.jsonl"
    command = [sys.executable, "-m", "sage_cli", "caption", str(folder), "-r", "--sidecar", "txt"]
    command += ["--max-new-tokens", str(tokens), "--jsonl", "--output", str(output), "--resume"]
    readings: dict[int, dict[str, int]] = {}
    marks = [files * (i + 1) // POINTS for i in range(POINTS - 1)]
    started, first = perf_counter(), 0.0
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    seen = size = 0
    while process.poll() is None:
        if output.exists() and output.stat().st_size > size:
            with output.open("rb") as file:
                file.seek(size)
                new = file.read()
            size, seen = size + len(new), seen + new.count(b"\n")
            first = first or perf_counter()
            if marks and seen >= marks[0]:
                marks.pop(0)
                readings[seen] = held(process.pid)
        sleep(0.05)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert process.returncode == 0 and len({line["key"] for line in lines}) == files
    assert len(list(folder.rglob("*.txt"))) == files
    seconds = perf_counter() - first
    return {
        "readings": readings,
        "start_seconds": first - started,
        "files_per_second": files / seconds,
        "tokens_per_second": sum(line["stats"]["new_tokens"] for line in lines) / seconds,
    }


def held(pid: int) -> dict[str, int]:
    """Resident bytes, open files and threads of the command and of its media process."""
    main = psutil.Process(pid)
    both = [main, *main.children()]
    return {
        "resident": main.memory_info().rss,
        "media_resident": sum(one.memory_info().rss for one in both[1:]),
        "open_files": sum(one.num_fds() for one in both),
        "threads": sum(one.num_threads() for one in both),
    }


def report(data: dict[str, Any]) -> str:
    rows = [
        [
            count,
            f"{found['resident'] / MIB:.0f}",
            f"{found['media_resident'] / MIB:.0f}",
            found["open_files"],
            found["threads"],
        ]
        for count, found in data["readings"].items()
    ]
    notes = [
        f"{data['count']:,} pictures, at most {data['max_new_tokens']} tokens each: "
        f"{data['files_per_second']:.1f} files/s, {data['tokens_per_second']:.0f} tokens/s; the "
        f"first result after {data['start_seconds']:.1f} s",
        "memory in MiB, of the command and of the process that opens the files",
    ]
    heads = ["files done", "resident", "media process", "open files", "threads"]
    return harness.report("A folder of many files", data, notes, harness.table(heads, rows))


def main(argv: list[str] | None = None) -> int:
    parser = harness.options(__doc__, pair=False, count=10_000, max_new_tokens=4)
    arguments = parser.parse_args(argv)
    data: dict[str, Any] = harness.described("benchmarks.many_files", arguments)
    with TemporaryDirectory() as folder:
        make(Path(folder), arguments.count)
        data |= measure(Path(folder), arguments.count, arguments.max_new_tokens)
    environment.write(arguments.output, data, report(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
