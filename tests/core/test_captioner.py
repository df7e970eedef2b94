"""`Captioner`: from items to records, with a pipeline that does what the files' names say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage_core.captioning import captioner
from sage_core.captioning.captioner import Captioner, CaptionSettings
from sage_core.captioning.items import Item, fewer_pixels
from sage_core.captioning.keys import FileState
from sage_core.captioning.records import error_of, failure_record
from sage_core.errors import InputError, MemoryExhaustedError, ModelError, OptionError
from sage_core.media import MediaWorker, Picture, Sampling
from tests.cli.fake import FakePipeline


class Pipeline(FakePipeline):
    """Opens its files; ``large`` ones need a limit of pixels, ``huge`` ones are always too much."""

    def __init__(self, opener: Any) -> None:
        super().__init__()
        self._open = opener

    def stream(self, files: Any, prompt: str | None = None, **options: Any) -> Any:
        name = files if isinstance(files, str) else files[0]
        self._open(name, Sampling())
        if "option" in name:
            raise OptionError("no such policy")
        if "huge" in name or ("large" in name and options.get("max_pixels", 10**9) > 300_000):
            raise MemoryError
        return super().stream([name], prompt, **options)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is opened, and what is begun with."""
    seen: list[str] = []

    def open_media(source: Any, sampling: Any, isolate: Any) -> Any:
        seen.append(f"open {source}")
        if "damaged" in source:
            raise InputError(f"{source}: damaged")
        return Picture(None, source, "scaled down" if "noted" in source else "")

    monkeypatch.setattr(captioner, "open_media", open_media)
    monkeypatch.setattr(captioner, "load", lambda opener, **loading: Pipeline(opener))
    monkeypatch.setattr(MediaWorker, "start", lambda worker: None)
    monkeypatch.setattr(
        MediaWorker, "begin", lambda worker, path, sampling: seen.append(f"begin {path}")
    )
    return seen


def records(names: list[str], **options: Any) -> list[tuple[int, dict[str, Any]]]:
    items = [Item(name, key=f"key of {name}") for name in names]
    return list(Captioner(CaptionSettings(options=options)).records(items))


def test_each_item_has_its_record(opened):
    found = dict(records(["a", "damaged", "b"], seed=4))
    assert {record["key"] for record in found.values()} == {
        "key of a",
        "key of damaged",
        "key of b",
    }
    assert found[1]["error"] == {"kind": "input", "message": "damaged: damaged"}
    assert found[0]["text"] and found[0]["seed"] == 4 and found[2]["files"] == ["b"]


def test_the_next_file_is_decoded_meanwhile(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        Path(name).touch()
    assert len(records(["a", "b", "gone", "c"])) == 4
    assert opened == ["open a", "begin b", "open b", "open gone", "begin c", "open c"]


def test_where_memory_is_short_fewer_pixels_are_tried_at_the_end(opened):
    lines: list[str] = []
    items = [Item(name) for name in ("large", "huge", "a")]
    found = list(Captioner(CaptionSettings(), notice=lines.append).records(items))
    assert found[0][0] == 2 and sorted(number for number, _ in found) == [0, 1, 2]
    results = dict(found)
    assert results[0]["retried"] == {"max_pixels": 512**2} and results[0]["text"]
    assert results[1]["error"]["kind"] == "memory"
    assert [line.split(":")[0] for line in sorted(lines)] == ["huge"] * 3 + ["large"] * 2


def test_notes_about_files_are_passed_on(opened):
    lines: list[str] = []
    list(Captioner(CaptionSettings(), notice=lines.append).records([Item("noted")]))
    assert lines == ["noted: scaled down"]


def test_an_option_that_fits_no_item_is_raised(opened):
    with pytest.raises(OptionError, match="no such policy"):
        records(["a", "option"])


def test_a_file_that_changed_has_no_result(opened, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    item = Item(str(path), state=FileState.of(str(path)))
    path.write_bytes(b"22")
    ((_, record),) = Captioner(CaptionSettings()).records(iter([item]))
    assert "changed while it was read" in record["error"]["message"]


def test_items_are_taken_as_there_is_room(opened):
    taken: list[str] = []

    def items() -> Iterator[Item]:
        for name in "abcdef":
            taken.append(name)
            yield Item(name)

    next(Captioner(CaptionSettings()).records(items()))
    assert len(taken) <= 3


@pytest.mark.parametrize("batch", [0, -1, "many", 1.5])
def test_settings_check_themselves(batch):
    with pytest.raises(OptionError):
        CaptionSettings(batch=batch)


@pytest.mark.parametrize(("batch", "width"), [("auto", 1), (1, 1), (5, 5)])
def test_how_many_at_once(opened, batch, width):
    assert Captioner(CaptionSettings(batch=batch)).width == width


FEWER = [
    (None, [1024**2, 512**2, 256**2]),
    (10**6, [512**2, 256**2]),
    (512**2, [256**2]),
    (1000, [1000]),
]


@pytest.mark.parametrize(("most", "steps"), FEWER)
def test_pixels_that_are_tried(most, steps):
    assert fewer_pixels(most) == steps


@pytest.mark.parametrize("kind", [InputError, ModelError, OptionError, MemoryExhaustedError])
def test_an_error_of_a_record(kind):
    error = error_of(failure_record(kind("why"), files=["a"]))
    assert type(error) is kind and str(error) == "why"


def test_an_unexpected_error_of_a_record():
    assert isinstance(error_of(failure_record(KeyError("x"), files=["a"])), RuntimeError)
