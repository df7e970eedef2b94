"""Videos prepared as by transformers' video processors; skipped without torchvision."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.video_processors import FAMILIES, compare, compare_sampling, family_of


@pytest.fixture(autouse=True)
def torchvision() -> None:
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        pytest.skip(f"torchvision does not import: {error}")


@pytest.mark.parametrize("published", FAMILIES, ids=lambda published: published.model_type)
def test_frames_are_those_of_transformers(published: Any, tmp_path: Any) -> None:
    """The same patches in the same order; resizing rounds differently by a level or two of 255."""
    for row in compare(published, tmp_path):
        assert row["same grid"], row
        assert row["largest"] < 0.05, row
        assert row["mean"] < 0.002, row


@pytest.mark.parametrize("published", FAMILIES[1:], ids=lambda published: published.model_type)
def test_the_same_frames_are_sampled(published: Any, tmp_path: Any) -> None:
    rate = family_of(published, tmp_path).sampling.rate
    for row in compare_sampling(published, rate):
        assert row["ours"] == row["theirs"], row
        assert row["same frames"] >= 0.9 * row["theirs"], row
