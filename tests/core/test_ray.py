"""Captioning by actors of Ray. Starts Ray: only with ``pytest -m ray``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sage_core.captioning import ray_captioner
from sage_core.captioning.items import Item
from sage_core.captioning.keys import FileState
from sage_core.captioning.ray_captioner import RayCaptioner, ray_records
from sage_core.captioning.settings import CaptionSettings
from sage_core.errors import MemoryExhaustedError, ModelError, OptionError
from tests.core.ray_fakes import FakeActor

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture
def ray(request: pytest.FixtureRequest) -> Any:
    if "ray" not in request.config.getoption("markexpr"):
        pytest.skip("starts Ray: only with -m ray")
    return pytest.importorskip("ray")


@pytest.fixture
def cluster(ray: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(ray_captioner, "_Remote", FakeActor)
    with ray_captioner._connected(None):
        yield ray


def test_a_row_that_ends_its_actors_fails_and_no_other(cluster, tmp_path):
    changed = tmp_path / "changed"
    changed.write_bytes(b"1")
    state = FileState.of(str(changed))
    changed.write_bytes(b"22")
    names = ["a", "b", "kill", os.fsdecode(b"\xff"), "猫", "c", str(changed), *"defghijklm"]
    items = [Item(name, key=f"key of {name!a}") for name in names]
    items[6] = Item(str(changed), key="key", state=state)
    found = list(ray_records(items, CaptionSettings(), actors=2))
    assert Counter(number for number, _ in found) == Counter(range(len(names)))
    results = {names[number]: record for number, record in found}
    assert isinstance(results.pop("kill"), MemoryExhaustedError)
    assert "changed while it was read" in results.pop(str(changed))["error"]["message"]
    expected = {name: (f"{name} done", f"key of {name!a}") for name in results}
    assert {name: (one["text"], one["key"]) for name, one in results.items()} == expected


def test_models_that_cannot_be_loaded_are_one_error(cluster):
    with pytest.raises(ModelError, match="no such model"):
        list(ray_records([Item("a"), Item("b")], CaptionSettings({"fail": True}), actors=2))


def test_a_cluster_that_is_not_there(ray):
    with pytest.raises(OptionError, match=r"Ray cannot use 127\.0\.0\.1:1: Connection refused"):
        list(ray_records([Item("a")], CaptionSettings(), address="127.0.0.1:1"))


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    from PIL import Image

    names = [str(tmp_path / f"{number}.png") for number in range(32)]
    for number, name in enumerate(names):
        Image.new("RGB", (32, 24), (number * 7, 255 - number * 7, 128)).save(name)
    return names


def test_rows_of_a_dataset(ray, pictures):
    import pyarrow

    with ray_captioner._connected(None):
        rows: list[dict[str, Any]] = [
            {"path": name, "id": i} for i, name in enumerate(pictures[:3])
        ]
        rows.append({"path": "none.png", "id": 3})
        data = ray.data.from_arrow(pyarrow.Table.from_pylist(rows))
        settings = CaptionSettings(options={"max_new_tokens": 4})
        done = data.map_batches(
            RayCaptioner, fn_constructor_args=(settings,), batch_size=2, concurrency=1
        ).take_all()
    done.sort(key=lambda row: row["id"])
    assert [bool(row["text"]) for row in done] == [True, True, True, False]
    assert [bool(row["error"]) for row in done] == [False, False, False, True]
    assert all(json.loads(row["record"])["files"] == [row["path"]] for row in done)
    assert len({row["key"] for row in done[:3]}) == 3
    assert done[0]["finish_reason"] == "length"


def actors(driver: int) -> list[int]:
    """Processes of actors that describe files."""
    import psutil

    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if "MapBatches" in " ".join(process.cmdline()):
                found.append(process.pid)
    return found


def test_an_actor_is_killed_half_way_and_every_key_is_there_once(ray, pictures, tmp_path):
    output = tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "sage_cli", "caption", *pictures, "--max-new-tokens", "200"]
    command += ["--engine", "ray", "--workers", "2", "--batch", "1", "--jsonl", "--resume"]
    command += ["--output", str(output)]
    with (tmp_path / "stdout").open("wb") as stdout:
        run = subprocess.Popen([*command, "--limit", "28"], stdout=stdout)
    end = time.monotonic() + 300
    while run.poll() is None and not (output.exists() and output.stat().st_size):
        assert time.monotonic() < end
        time.sleep(0.05)
    first, _ = actors(run.pid)
    os.kill(first, signal.SIGKILL)
    assert run.wait() == 0
    before = output.read_bytes()
    assert len(before.splitlines()) == 28 and (tmp_path / "stdout").read_bytes() == b""
    subprocess.run(command, check=True)
    assert output.read_bytes().startswith(before)
    records = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert Counter(one["files"][0] for one in records) == Counter(pictures)
    assert len({one["key"] for one in records}) == len(pictures)
    assert all(one["text"] for one in records)


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(OptionError, match=r"pip install 'sage-vlm\[ray\]'"):
        list(ray_records([Item("a")], CaptionSettings()))
