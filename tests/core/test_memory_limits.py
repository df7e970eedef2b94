"""Limits of memory are found where containers and services set them, and lack of it is told."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sage_core.errors import (
    InputError,
    MemoryExhaustedError,
    ModelError,
    OptionError,
    is_memory_error,
)
from sage_core.models import devices
from sage_core.models.memory_limits import limits
from sage_core.models.quiet import memory_errors

NONE = 9223372036854771712
V2 = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = (
    "31 20 0:30 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
    "32 20 0:31 {inside} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / f"memory.{name}").write_text(f"{value}\n")


def process(root: Path, groups: str, mounts: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "proc/self/mountinfo").write_text("1 0 8:1 / / rw - ext4 /dev/sda rw\n" + mounts)


def test_version_2_with_limits_of_the_groups_above(tmp_path: Path) -> None:
    process(tmp_path, "0::/user/job\n", V2)
    top = tmp_path / "sys/fs/cgroup"
    write(top / "user/job", max="max", high="max", current=700, stat="anon 1\ninactive_file 300")
    assert limits(tmp_path) == []
    write(top / "user", max=5000, current=2000, stat="inactive_file 500")
    assert limits(tmp_path) == [(5000, 3500)]
    write(top / "user/job", high=1000)
    assert limits(tmp_path) == [(1000, 600), (5000, 3500)]
    write(top / "user/job", max=500)
    assert limits(tmp_path)[0] == (500, 100)


def test_version_1(tmp_path: Path) -> None:
    process(tmp_path, "4:memory:/a/b\n3:cpu,cpuacct:/c\n0::/\n", V1.format(inside="/"))
    top = tmp_path / "sys/fs/cgroup/memory"
    own = {"usage_in_bytes": 700, "stat": "inactive_file 9\ntotal_inactive_file 300"}
    write(top / "a/b", limit_in_bytes=NONE, **own)
    assert limits(tmp_path) == []
    write(top / "a", limit_in_bytes=4000, **own)
    write(top / "a/b", limit_in_bytes=1000, **own)
    assert limits(tmp_path) == [(1000, 600), (4000, 3600)]


@pytest.mark.parametrize("inside", ["/docker/1", "/other"])
def test_a_container_that_sees_its_own_group_only(tmp_path: Path, inside: str) -> None:
    process(tmp_path, "4:memory:/docker/1\n", V1.format(inside=inside))
    write(tmp_path / "sys/fs/cgroup/memory", limit_in_bytes=1000, usage_in_bytes=400, stat="")
    assert limits(tmp_path) == [(1000, 600)]


def test_blanks_in_the_mount(tmp_path: Path) -> None:
    process(tmp_path, "0::/\n", V2.replace("/sys/fs/cgroup", "/a\\040b"))
    write(tmp_path / "a b", max=1000, current=2000, stat="")
    assert limits(tmp_path) == [(1000, 0)]


def test_systems_without_groups(tmp_path: Path) -> None:
    assert limits(tmp_path) == []
    process(tmp_path, "0::/../..\n", V2)
    assert limits(tmp_path) == []


def test_the_tightest_limit_is_that_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "limits", lambda: [(2**20, 2**19), (2**21, 2**18)])
    found = devices.find_devices()[0]
    assert (found.memory, found.free) == (2**20, 2**18)


def test_the_limit_of_address_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2**50, resource.RLIM_INFINITY))
    ((allowed, free),) = limits(tmp_path)
    assert allowed == 2**50
    assert 2**49 < free < allowed


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("unable to mmap 32 bytes from file <x>: Cannot allocate memory (12)"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        type("SafetensorError", (Exception,), {})("I/O: Cannot allocate memory (os error 12)"),
        caused(ValueError("the tokenizer is damaged"), MemoryError()),
    ],
    ids=lambda error: str(error)[:40],
)
def test_lack_of_memory_is_told_as_that(error: Exception) -> None:
    assert is_memory_error(error)
    for raised in (error, caused(ModelError("its weights are damaged"), error)):
        with (
            pytest.raises(MemoryExhaustedError, match="memory while loading: less"),
            memory_errors("while loading", "less"),
        ):
            raise raised


@pytest.mark.parametrize(
    "error",
    [
        ModelError("its weights are damaged"),
        InputError("too large: 20 GiB"),
        caused(InputError("too large: needs more than 2 GiB"), MemoryError()),
        OptionError("out of memory is no policy"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=str,
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found, memory_errors("while loading", "less"):
        raise error
    assert found.value is error
