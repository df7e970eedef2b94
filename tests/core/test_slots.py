"""How the cores and GPUs of a machine are divided among processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sage_core.models.devices
from sage_core.captioning import slots
from sage_core.captioning.slots import automatic_count, shares, usable_threads
from sage_core.models.devices import Device

GPUS = [
    (["0", "1", "2", "3"], 4, ["0", "1", "2", "3"]),
    (["0", "1", "2", "3"], 2, ["0,1", "2,3"]),
    (["4", "7"], 3, ["4", "7", "4"]),
]
CORES = [
    (range(8), 8, 2, [(0, 1, 2, 3), (4, 5, 6, 7)], "4"),
    (range(8), 3, 2, [(0, 1, 2, 3), (4, 5, 6, 7)], "1"),  # of a control group
    ([5, 2], 2, 3, [(5,), (2,), (5,)], "1"),
    ([], 4, 2, [(), ()], "2"),
]


@pytest.mark.parametrize(("gpus", "count", "visible"), GPUS)
def test_gpus_are_divided(gpus, count, visible):
    found = shares(count, gpus, range(16), 16, pinned=False, environment={})
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found] == visible
    assert all(slot.cores == () for slot in found)


@pytest.mark.parametrize(("cores", "threads", "count", "parts", "each"), CORES)
def test_cores_are_divided(cores, threads, count, parts, each):
    found = shares(count, (), cores, threads, environment={})
    assert [slot.cores for slot in found] == parts
    assert {slot.environment["OMP_NUM_THREADS"] for slot in found} == {each}
    assert all("CUDA_VISIBLE_DEVICES" not in slot.environment for slot in found)


def test_the_users_own_number_of_threads_is_not_exceeded():
    (slot, _) = shares(2, (), range(8), 8, environment={"OMP_NUM_THREADS": "3"})
    assert slot.environment["OMP_NUM_THREADS"] == "3"


QUOTAS = [
    ("0::/", "cgroup2 cgroup rw", {"cpu.max": "200000 100000"}, 2),
    ("0::/", "cgroup2 cgroup rw", {"cpu.max": "50000 100000"}, 1),
    ("0::/", "cgroup2 cgroup rw", {"cpu.max": "max 100000"}, 64),
    (
        "4:cpu,cpuacct:/",
        "cgroup cgroup rw,cpu,cpuacct",
        {"cpu.cfs_quota_us": "300000", "cpu.cfs_period_us": "100000"},
        3,
    ),
    (
        "4:cpu,cpuacct:/",
        "cgroup cgroup rw,cpu,cpuacct",
        {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"},
        64,
    ),
    ("", "", {}, 64),
]


@pytest.mark.parametrize(("groups", "mounted", "files", "threads"), QUOTAS)
def test_the_quota_of_a_control_group_holds(tmp_path, monkeypatch, groups, mounted, files, threads):
    monkeypatch.setattr(slots, "usable_cores", lambda: tuple(range(64)))
    mount, process = tmp_path / "sys/fs/cgroup", tmp_path / "proc/self"
    mount.mkdir(parents=True)
    process.mkdir(parents=True)
    (process / "cgroup").write_text(f"{groups}\n" if groups else "")
    line = f"30 24 0:26 / /sys/fs/cgroup rw - {mounted}\n"
    (process / "mountinfo").write_text(line if mounted else "")
    for name, text in files.items():
        (mount / name).write_text(text)
    assert usable_threads(tmp_path) == threads


GB = 2**30
AUTO = [
    ("auto", 4, [], 64 * GB, 1),  # few cores
    ("auto", 16, [], 64 * GB, 4),
    ("cpu", 16, [80 * GB] * 8, 64 * GB, 4),
    ("auto", 16, [], 21 * GB, 2),  # memory for two
    ("auto", 16, [], 1 * GB, 1),
    ("auto", 16, [80 * GB] * 8, 64 * GB, 8),
    ("cuda", 2, [80 * GB] * 8, 64 * GB, 8),
    ("auto", 16, [80 * GB], 64 * GB, 1),
    ("auto", 16, [6 * GB] * 8, 64 * GB, 4),  # each on two
    ("cuda:3", 16, [80 * GB] * 8, 64 * GB, 1),
    ("mps", 16, [], 64 * GB, 1),
]


@pytest.mark.parametrize(("device", "cores", "gpus", "host", "count"), AUTO)
def test_the_number_that_is_chosen(monkeypatch, device, cores, gpus, host, count):
    found: list[Any] = [Device("cpu", "", host, host, ())]
    found += [Device(f"cuda:{i}", "", free, free, ()) for i, free in enumerate(gpus)]
    monkeypatch.setattr(sage_core.models.devices, "find_devices", lambda: tuple(found))
    monkeypatch.setattr(slots, "usable_threads", lambda: cores)
    monkeypatch.setattr(slots, "_needed", lambda loading, dtype: 10 * GB)
    assert automatic_count({"device": device}) == count


def test_the_bundled_pair_is_measured():
    assert 2**20 < slots._needed({}, "float32") < 2**30
    assert slots._needed({"draft": None}, "float32") < slots._needed({}, "float32")


def test_cores_of_this_machine():
    cores = slots.usable_cores()
    assert len(set(cores)) == len(cores)
    if Path("/proc/self").exists():
        assert len(cores) >= usable_threads() >= 1
