"""``--workers``: records that come from other processes, in any order, to one writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_cli.jobs import workers
from sage_core.captioning.items import Item
from sage_core.captioning.records import failure_record, result_record
from sage_core.errors import InputError, MemoryExhaustedError, ModelError, SageError
from tests.cli.fake import FakePipeline, Script
from tests.cli.test_folders import PICTURE, TEXT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="worker processes need POSIX")


class FakePool:
    """Answers in reverse order, from the fake pipeline; a name with a kind in it fails so."""

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.starts: list[workers.Start] = []
        self.error: Exception | None = None
        self.items: list[Item] = []

    def __call__(self, make: Any, start: Any, slots: Any, *, ready: Any, notice: Any) -> Any:
        assert make is workers.make
        self.starts.append(start)
        self.slots.append(len(slots))
        self._ready = ready
        return self

    def run(self, tasks: Iterator[tuple[int, Item]]) -> Iterator[Any]:
        if self.error is not None:
            raise self.error
        self._ready("on the fake")
        self._ready("on the fake")
        for task in reversed(list(tasks)):
            self.items.append(task[1])
            yield task, self._record(task[1])

    @staticmethod
    def _record(item: Item) -> dict[str, Any] | SageError:
        if "lost" in item.name:
            return MemoryExhaustedError("two workers were ended")
        if "damaged" in item.name:
            error = InputError(f"{item.name}: damaged")
            return failure_record(error, files=[item.name], key=item.key)
        pipeline = FakePipeline()
        pipeline.enqueue(Script(context_reached=64 if "long" in item.name else None))
        result = pipeline.stream([item.name], item.prompt).result()
        return result_record(result, files=[item.name], pipeline=pipeline, seed=0, key=item.key)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> FakePool:
    pool = FakePool()
    monkeypatch.setattr(workers, "Pool", pool)
    return pool


@pytest.fixture
def names() -> list[str]:
    for name in (found := ["1.png", "2.png", "damaged.png", "long.png", "lost.png"]):
        Path(name).write_bytes(PICTURE + name.encode())
    return found


def test_texts_come_in_the_order_of_the_files(sage, pool, loads, names):
    result = sage("caption", *names, "--workers", "2", "--device", "cpu")
    assert result.exit_code == 5 and loads.calls == [] and pool.slots == [2]
    heads = [line for line in result.stdout.splitlines() if line.startswith("==>")]
    assert heads == ["==> 1.png <==", "==> 2.png <==", "==> long.png <=="]
    assert result.stderr.count("on the fake") == 1
    assert "long.png: the text reached the model's context of 64 tokens" in result.stderr
    assert "damaged.png: damaged" in result.stderr and "two workers were ended" in result.stderr
    assert "3 of 5 done" in result.stderr and "2 failed" in result.stderr


def test_json_lines_come_as_they_are_done(sage, pool, names):
    result = sage("caption", *names, "--workers", "2", "--jsonl", "--device", "cpu")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["files"][0] for one in lines] == list(reversed(names))
    assert [one["error"]["kind"] for one in lines if "error" in one] == ["memory", "input"]
    assert {one["text"] for one in lines if "text" in one} == {TEXT}


def test_resume_and_sidecars_and_several_texts(sage, pool, names):
    options = ("--workers", "3", "--device", "cpu", "--jsonl", "--output", "out.jsonl", "--resume")
    more = ("--sidecar", "txt", "--captions", "2")
    sage("caption", *names[:2], *options, *more)
    written = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert sorted((one["files"][0], one["caption"]) for one in written) == [
        ("1.png", 0), ("1.png", 1), ("2.png", 0), ("2.png", 1)
    ]  # fmt: skip
    assert len({one["key"] for one in written}) == 4
    assert [item.options["seed"] for item in pool.items] == [1, 0, 1, 0]
    assert Path("1.txt").read_text() == f"{TEXT}\n{TEXT}\n"
    result = sage("caption", *names[:2], *options, *more)
    assert result.exit_code == 0 and "nothing to do" in result.stderr and len(pool.starts) == 1


def test_files_with_the_same_content_are_described_once(sage, pool):
    options = ("--workers", "2", "--device", "cpu", "--sidecar", "txt")
    Path("c.png").write_bytes(PICTURE + b"other")
    assert sage("caption", "a.png", "b.png", "c.png", *options).exit_code == 0
    assert [item.name for item in pool.items] == ["c.png", "a.png"]
    assert Path("b.txt").read_text() == f"{TEXT}\n"


def test_one_text_is_made_here(sage, pool, loads):
    assert sage("caption", "a.png", "--workers", "4").exit_code == 0
    assert pool.starts == [] and len(loads.calls) == 1


def test_the_number_is_chosen(sage, pool, monkeypatch):
    monkeypatch.setattr(workers, "automatic_count", lambda loading: 7)
    sage("caption", "a.png", "b.png", "--workers", "auto", "--device", "cpu")
    assert pool.slots == [2]


def test_what_workers_get(sage, pool):
    options = ("--dtype", "float32", "--max-new-tokens", "7", "--batch", "3", "--quiet")
    sage("caption", "a.png", "b.png", "--workers", "2", "--device", "cpu", *options)
    (start,) = pool.starts
    assert start.settings.loading["dtype"] == "float32" and start.quiet
    assert start.settings.options["max_new_tokens"] == 7 and start.settings.batch == 3


def test_models_that_cannot_be_loaded_are_one_error(sage, pool):
    pool.error = ModelError("no such model")
    result = sage("caption", "a.png", "b.png", "--workers", "2", "--device", "cpu")
    assert result.exit_code == 4 and result.stderr.count("no such model") == 1
    assert "done" not in result.stderr and result.stdout == ""


def test_files_of_which_none_can_be_used_start_nothing(sage, pool):
    result = sage("caption", "no.png", "none.png", "--workers", "2", "--device", "cpu")
    assert result.exit_code == 3 and pool.starts == []


REFUSED = [
    (("--workers", "0"), "neither 'auto' nor a positive"),
    (("--workers", "2", "--live"), "--live needs a single process"),
    (("--workers", "2", "--stats"), "--stats needs a single process"),
    (("--workers", "2", "--segment", "10"), "--segment needs a single process"),
    (("--engine", "ray", "--live"), "--live needs a single process"),
    (("-", "--workers", "2"), "'-' is read by one process"),
    (("--ray-address", "auto"), "--engine ray"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED, ids=lambda value: " ".join(value))
def test_what_cannot_work_is_refused(sage, loads, pool, options, says):
    result = sage("caption", "a.png", *options)
    assert result.exit_code == 2 and loads.calls == [] and pool.starts == []
    assert says in " ".join(result.stderr.replace("│", " ").split())


def children(pid: int) -> list[int]:
    """The processes of a pool that a process has started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"pool_worker" in command:
            found.append(int(entry.name))
    return found


def waited(found: Any) -> Any:
    end = time.monotonic() + 120
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_worker_is_killed_then_the_run_and_each_text_is_there_once():
    from PIL import Image

    names = [f"{number}.png" for number in range(120)]
    for number, name in enumerate(names):
        Image.new("RGB", (32, 24), (number * 2, 255 - number * 2, 128)).save(name)
    command = [sys.executable, "-m", "sage_cli", "caption", *names, "--jsonl"]
    command += ["--batch", "1", "--max-new-tokens", "48"]
    alone = subprocess.run(command, check=True, capture_output=True).stdout.splitlines()
    output = Path("out.jsonl")
    command += ["--workers", "2", "--output", str(output), "--resume"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE)
    # Both workers are at work by then: one that ends while it loads is not replaced.
    waited(lambda: output.exists() and output.read_bytes().count(b"\n") >= 40)
    first, second = children(run.pid)
    os.kill(first, signal.SIGKILL)
    replacement = waited(lambda: [pid for pid in children(run.pid) if pid not in (first, second)])
    run.send_signal(signal.SIGTERM)
    assert b"a worker ended (SIGKILL): starting another one" in run.communicate()[1]
    assert run.returncode == 143
    waited(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (second, *replacement)))
    written = output.read_bytes()
    assert written.endswith(b"\n") and len(written.splitlines()) < len(names)
    subprocess.run(command, check=True, capture_output=True)
    assert output.read_bytes().startswith(written)

    def texts(lines: list[bytes]) -> list[tuple[str, str]]:
        records = [json.loads(line) for line in lines]
        return sorted((one["files"][0], one["text"]) for one in records)

    assert texts(output.read_bytes().splitlines()) == texts(alone)
