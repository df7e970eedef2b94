"""Files replaced whole: what was there stays until the new one is complete, and after a failure."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sage_core.files.atomic_write import replacing, replacing_files, write_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [False, True])
def test_text_and_bytes_replace_a_file_and_keep_its_mode(tmp_path, sync):
    path = tmp_path / "file"
    write_atomically(path, "caf\udce9", sync=sync)
    assert path.read_bytes() == b"caf\xe9"
    path.chmod(0o640)
    write_atomically(path, b"\0\1", sync=sync)
    assert path.read_bytes() == b"\0\1"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["file"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


def test_a_failure_keeps_the_older_file_and_leaves_no_scratch_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("older")
    with pytest.raises(KeyboardInterrupt), replacing(path) as scratch:
        scratch.write_text("half")
        assert scratch.parent == tmp_path
        raise KeyboardInterrupt
    assert path.read_text() == "older"
    assert names(tmp_path) == ["file"]


def test_a_failed_move_leaves_no_scratch_file(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "text")
    assert names(tmp_path) == []


def test_several_files_at_once(tmp_path):
    folder = tmp_path / "new" / "folder"
    with replacing_files(folder) as scratch:
        for name in ("a", "b"):
            (scratch / name).write_text("1")
        assert names(folder) == [scratch.name]
    with pytest.raises(ZeroDivisionError), replacing_files(folder) as scratch:
        (scratch / "a").write_text("2")
        raise ZeroDivisionError
    assert names(folder) == ["a", "b"]
    assert (folder / "a").read_text() == "1"


def test_scratch_of_a_killed_process_is_removed_by_the_next_write(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from sage_core.files.atomic_write import replacing, replacing_files\n"
        "here = Path(sys.argv[1])\n"
        "with replacing(here / 'file') as a, replacing_files(here) as b:\n"
        "    a.write_text('half'); (b / 'x').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, cwd=root)
    assert len(names(tmp_path)) == 2
    (tmp_path / ".other.12345678.tmp").write_text("of another file")
    write_atomically(tmp_path / "file", "whole")
    with replacing_files(tmp_path) as scratch:
        (scratch / "x").write_text("whole")
    assert names(tmp_path) == [".other.12345678.tmp", "file", "x"]


def test_scratch_that_is_being_written_stays(tmp_path):
    with replacing(tmp_path / "file") as scratch:
        scratch.write_text("slow")
        write_atomically(tmp_path / "file", "fast")
        assert scratch.exists()
    assert (tmp_path / "file").read_text() == "slow"
    assert names(tmp_path) == ["file"]


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(OSError, match="Not a regular file"):
            write_atomically(path, "text")
    assert names(tmp_path) == ["pipe"]


def test_a_full_disk_leaves_no_scratch_file(tmp_path, monkeypatch):
    def full(self, data):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "text")
    assert names(tmp_path) == []
