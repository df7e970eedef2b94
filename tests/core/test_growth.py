"""Time against context: prompts of the length asked for, and all methods write one text."""

from __future__ import annotations

from argparse import Namespace

import pytest

from benchmarks.growth import METHODS, main, measure, prompt
from sage_core.pair_loading import LoadedPair, load_pair


@pytest.fixture(scope="module")
def pair() -> LoadedPair:
    return load_pair(draft="sage-tiny-draft")


@pytest.mark.parametrize("tokens", [1, 20, 300])
def test_a_prompt_has_exactly_so_many_tokens(pair: LoadedPair, tokens: int) -> None:
    assert prompt(pair, tokens)["input_ids"].shape == (1, tokens)


def test_every_method_writes_one_text(pair: LoadedPair) -> None:
    asked = Namespace(contexts=(12, 40), new_tokens=6, repeats=1)
    rows = measure(pair, asked)
    assert [row["context"] for row in rows] == [12, 40]
    assert all(row["exact"] == len(METHODS) - 1 for row in rows)
    assert all(row[f"{name}_ms"] > 0 for row in rows for name in METHODS)


def test_the_command_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--contexts", "9", "--new-tokens", "4", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert "| context | generate, a token |" in out and "\n| 9 | " in out
