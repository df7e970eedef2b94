"""The images and videos of folders, and the keys of their results."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.captioning.find import Finder, natural_key
from sage_core.captioning.keys import FileState, digest, key_of, shard_of
from sage_core.errors import InputError

TREE = (
    "10.jpg", "2.JPG", "1.png", "clip.mp4", "notes.txt", "1.txt", ".hidden.png", "no suffix",
    "b/2/x.webp", "b/10/x.webp", ".cache/y.png", "ö ü/猫.jpeg", "new\nline.gif",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return str(tmp_path)


TOP = ["1.png", "2.JPG", "10.jpg", "clip.mp4", "new\nline.gif"]
FOUND = [
    ({}, TOP),
    ({"recursive": True}, [*TOP, "b/2/x.webp", "b/10/x.webp", "ö ü/猫.jpeg"]),
    ({"include": ["*.txt", "no*"]}, ["1.txt", "no suffix", "notes.txt"]),
    ({"include": ["b/*"], "recursive": True}, ["b/2/x.webp", "b/10/x.webp"]),
    (
        {"exclude": ["b", "*.gif", "ö*"], "recursive": True},
        ["1.png", "2.JPG", "10.jpg", "clip.mp4"],
    ),
]


@pytest.mark.parametrize(("options", "names"), FOUND, ids=str)
def test_what_is_found_and_in_which_order(folder, options, names):
    found = list(Finder(**options).find(folder))
    assert [one.relative for one in found] == names
    assert [one.path for one in found] == [str(Path(folder, name)) for name in names]


def test_what_is_left_out_is_counted(folder):
    finder = Finder(exclude=["clip*"])
    assert len(list(finder.find(folder))) == 4
    assert finder.skipped == {
        "hidden files": 1, "files of other kinds": 3, "excluded files": 1, "hidden folders": 1,
        "folders inside (use --recursive)": 2,
    }  # fmt: skip


def test_links_are_followed_and_loops_end(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "far.png").touch()
    for name, target in {
        "b/up": folder,
        "b/self": "self",
        "b/out": elsewhere,
        "b/gone": "no",
    }.items():
        Path(folder, name).symlink_to(target)
    Path(folder, "b/link.png").symlink_to("2/x.webp")
    finder = Finder(recursive=True)
    found = [one.relative for one in finder.find(folder)]
    assert found.count("b/out/far.png") == 1 and found.count("b/link.png") == 1
    assert len(found) == len(set(found)) == 10
    assert finder.skipped["folders that were searched already"] == 1


def test_a_folder_that_cannot_be_read_is_counted_inside_and_refused_alone(folder, monkeypatch):
    real = os.scandir

    def scandir(path: str):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    finder = Finder(recursive=True)
    assert len(list(finder.find(folder))) == 6
    assert finder.skipped["folders that cannot be read"] == 1
    with pytest.raises(InputError, match="b: Permission denied"):
        list(Finder().find(str(Path(folder, "b"))))


@given(st.lists(st.text("a1B2٣0.-", max_size=6), unique=True))
def test_natural_order_is_an_order(names):
    ordered = sorted(names, key=natural_key)
    ordered.reverse()
    assert sorted(ordered, key=natural_key) == ordered[::-1]


def test_numbers_count_by_value():
    names = ["a10", "a9", "A1", "a01", "a1b2", "a1b10", "b"]
    assert sorted(names, key=natural_key) == ["A1", "a01", "a1b2", "a1b10", "a9", "a10", "b"]


OPTIONS = {"target": "m", "max_new_tokens": 8}
STATE = FileState("/a.png", 3, 5)
OTHER = [
    (FileState("/b.png", 3, 5), None, OPTIONS),
    (FileState("/a.png", 4, 5), None, OPTIONS),
    (FileState("/a.png", 3, 6), None, OPTIONS),
    (STATE, "What?", OPTIONS),
    (STATE, None, {**OPTIONS, "target": "n"}),
    (STATE, None, {**OPTIONS, "seed": 1}),
    (STATE, None, {**OPTIONS, "generation": {"repetition_penalty": 1.1}}),
    ("digest", None, OPTIONS),
]


@pytest.mark.parametrize(("file", "prompt", "options"), OTHER, ids=str)
def test_a_key_depends_on_all_that_changes_the_text(file, prompt, options):
    assert key_of(file, prompt, options) != key_of(STATE, None, OPTIONS)


@pytest.mark.parametrize("name", ["policy", "draft", "draft_pruning", "phase_times"])
def test_a_key_does_not_depend_on_what_changes_the_speed(name):
    assert key_of(STATE, None, {**OPTIONS, name: "other"}) == key_of(STATE, None, OPTIONS)


def test_a_key_is_the_same_in_every_process():
    assert key_of(STATE, None, OPTIONS) == "bb70800812fd5f1fefa4fcb4e58800f5"


@given(st.lists(st.text(max_size=20), unique=True), st.integers(1, 9))
def test_shards_are_all_files_and_never_overlap(names, shards):
    parts = [name for i in range(shards) for name in names if shard_of(name, shards) == i]
    assert sorted(parts) == sorted(names)


def test_a_file_that_changes_is_noticed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    state, before = FileState.of(str(path)), digest(str(path))
    state.check()
    path.write_bytes(b"other")
    with pytest.raises(InputError, match=r"a\.png: changed while it was read"):
        state.check()
    assert digest(str(path)) != before
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        state.check()
