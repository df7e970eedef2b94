"""A dozen classes of the census: exact over every border, or refused with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import census
from benchmarks.census import Row, find_class
from benchmarks.census import census as tried
from sage_core.runtime.windows import LayerKinds

EXACT = ("llama", "mistral", "qwen3", "gemma3_text", "cohere2", "gpt2", "opt",
         "granite", "olmo3", "qwen2_vl", "llava", "glm4v")  # fmt: skip
REFUSED = {"gpt_oss": "no SDPA attention", "bloom": "no SDPA attention", "bert": "logits"}


def row_of(name: str) -> Row:
    found = find_class(name)
    assert found is not None
    return tried(name, *found)


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_class(name: str) -> None:
    row = row_of(name)
    assert (row.outcome, row.detail) == ("exact", "")
    assert row.texts == 2 * len(census.WAYS)
    assert row.accepted > 10


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_class(name: str) -> None:
    row = row_of(name)
    assert row.outcome == "refused"
    assert REFUSED[name] in row.detail


def test_a_wrong_class_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def admitted(*_: Any) -> Any:
        return census_trial.EXACT

    from sage_core.engine import model_check
    from sage_core.engine import trial as census_trial

    monkeypatch.setattr(census, "try_class", admitted)
    monkeypatch.setattr(model_check, "try_class", admitted)
    monkeypatch.setattr(
        LayerKinds, "of", lambda config: LayerKinds({"": None}, ("",) * config.num_hidden_layers)
    )
    row = row_of("mistral")
    assert row.outcome == "wrong"
    assert "prompt of" in row.detail


def test_no_class_of_that_name() -> None:
    assert find_class("clip") is None


def test_the_report_counts_and_keeps_other_rows(tmp_path: Any) -> None:
    file = tmp_path / "census"
    assert census.main(["--only", "bloom", "--output", str(file)]) == 0
    assert census.main(["--only", "clip", "--output", str(file)]) == 0
    text = file.with_suffix(".md").read_text(encoding="utf-8")
    assert "| refused | by name before a text, with the reason | 0 | 1 |" in text
    assert "| bloom | text | refused | no SDPA attention" in text
