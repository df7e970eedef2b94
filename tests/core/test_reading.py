"""The reader of small files: what it takes, and that every refusal is one line with the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage_core.errors import InputError, ModelError, OptionError
from sage_core.files.reading import (
    MAX_DEPTH,
    as_shape,
    parse_json,
    read_bytes,
    read_json,
    read_lines,
    read_text,
    read_toml,
    split_lines,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_is_utf8_with_or_without_a_mark(path: Path, mark: bytes) -> None:
    path.write_bytes(mark + '["café"]'.encode())
    assert read_text(path) == '["café"]'
    assert read_json(path) == ["café"]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"caf\xe9", "not UTF-8 text (byte 0xe9 at 3)"),
        (b"{", "not valid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 64 levels"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper than 64 levels"),
        (b"[NaN]", "no finite number"),
        (b'{"a": [-Infinity]}', "no finite number"),
        (b"1e999", "no finite number"),
        (b"[9223372036854775808]", "more than 64 bits"),
        (b"[" + b"9" * 5000 + b"]", "not valid JSON"),
        (b"[" + b" " * 2000 + b"]", "larger than 0.000954 MiB"),
    ],
)
def test_json_that_is_refused(path: Path, data: bytes, says: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        read_json(path, error=ModelError, limit=1000 if b"    " in data else 1_000_000)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and says in message and "\n" not in message


def test_the_deepest_json_and_the_largest_numbers_are_read(path: Path) -> None:
    path.write_text("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert isinstance(read_json(path), list)
    path.write_text("[9223372036854775807, -9223372036854775808, 1e308]")
    assert read_json(path) == [2**63 - 1, -(2**63), 1e308]
    path.write_text("[1000000000000000019884624838656, Infinity]")
    assert read_json(path, any_number=True) == [1000000000000000019884624838656, float("inf")]


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # nobody writes to it: opening it would wait for ever
    for name, says in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is a pipe"),
        (Path("/dev/zero"), "is a device"),
        (tmp_path / "nothing", "no such file"),
        (Path("a\0b"), "null"),
    ):
        with pytest.raises(OptionError, match=says):
            read_bytes(name, error=OptionError)
    with pytest.raises(OptionError, match="is a device"):
        read_bytes("/dev/zero", error=OptionError, pipe=True)


def test_a_list_may_come_from_a_pipe() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"a\n\nb\n")
        os.close(writer)
        assert read_lines(f"/dev/fd/{reader}", pipe=True) == [(1, "a"), (3, "b")]
        with pytest.raises(InputError, match="is a pipe"):
            read_lines(f"/dev/fd/{reader}")
    finally:
        os.close(reader)


def test_lines_end_at_line_ends_only() -> None:
    odd = "a\u2028b\u0085c\x0bd\x0ce\x1cf\rg"
    text = f"{odd}\r\n\n{odd}"
    assert split_lines(text) == [odd, "", odd]
    assert split_lines(text, keepends=True) == [f"{odd}\r\n", "\n", odd]
    assert "".join(split_lines(text, keepends=True)) == text
    assert split_lines("") == []
    assert split_lines("a\n") == ["a"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = " + "[" * 900 + "]" * 900, "nested deeper"),
        ("a = ", "not valid TOML"),
        ("a = inf", "no finite number"),
        ("a = 99999999999999999999", "more than 64 bits"),
    ],
)
def test_toml_that_is_refused(path: Path, text: str, says: str) -> None:
    path.write_text(text)
    with pytest.raises(OptionError, match=says) as caught:
        read_toml(path, error=OptionError)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "shape", "says"),
    [
        ({"a": "x"}, dict[str, int], r"f: \[\.\.\.\]: expected `int`"),
        ({"x": 1}, dict[int, int], "f: key: expected"),
        ([[1, True]], list[tuple[int, ...]], r"f: \[0\]\[1\]: expected `int`"),
        (1, dict, "f: Expected `object`"),
    ],
)
def test_a_field_of_another_shape_is_named(value: Any, shape: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        as_shape(value, "f", shape)
    assert "$" not in str(caught.value)


def test_shapes_convert_keys_and_numbers() -> None:
    rates = parse_json('{"1": {"0": 1}}', "f", dict[int, dict[int, float]])
    assert rates == {1: {0: 1.0}}


def test_items_and_samples_keep_odd_characters_within_a_line(tmp_path: Path) -> None:
    from sage_core.bench.data import read_data
    from sage_core.distill.data import read_samples

    (tmp_path / "a.png").write_bytes(b"a picture")
    for field, read in (
        ("file", lambda path: read_data([str(path)], None)[0]),
        ("image", lambda path: read_samples(path, pytest.fail)),
    ):
        path = tmp_path / f"{field}.jsonl"
        lines = [f'{{"{field}": "a.png", "prompt": "What is{odd}there?"}}' for odd in "\u2028\x85"]
        path.write_text("\r\n".join(lines), encoding="utf-8")
        assert len(read(path)) == 2


def test_a_line_that_is_no_json_is_left_out_by_its_number(tmp_path: Path) -> None:
    from sage_core.bench.data import read_data
    from sage_core.distill.data import read_samples

    path = tmp_path / "list.jsonl"
    path.write_text("[" * 100_000 + '\n{"prompt": "What?", "answer": NaN}\n{"prompt": "What?"}\n')
    notes: list[str] = []
    assert [one.name for one in read_samples(path, notes.append)] == [f"{path}:3"]
    assert len(notes) == 2 and notes[0].startswith(f"{path}:1: ") and "\n" not in "".join(notes)
    _, problems = read_data([str(path)], None)
    assert "nested deeper" in problems[0].message and str(path) not in problems[0].message


@pytest.mark.parametrize("read", [read_toml, read_text])
def test_an_error_that_is_a_value_error_has_its_reason_once(
    tmp_path: Path, read: Callable[..., Any]
) -> None:
    odd = tmp_path / "odd"
    odd.write_bytes(b"\xff")
    for path, says in [(tmp_path, f"{tmp_path}: is a folder"), (odd, f"{odd}: not UTF-8")]:
        with pytest.raises(OptionError) as raised:
            read(path, error=OptionError)
        assert str(raised.value).startswith(says)
