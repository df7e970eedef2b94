"""The mask buffer against masks that are made anew for every pass."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sage_core.runtime.tree_mask import TreeMaskBuffer


@st.composite
def passes(draw: st.DrawFn) -> list[tuple[np.ndarray, int]]:
    """What is visible in passes one after another, and the slots committed before each."""
    found, committed = [], draw(st.integers(0, 600))
    for _ in range(draw(st.integers(1, 8))):
        for _ in range(draw(st.integers(0, 10))):  # tokens without a tree
            found.append((np.ones((1, 1), dtype=bool), committed))
            committed += 1
        columns = draw(st.integers(1, 6))
        rows = draw(st.integers(1, columns))
        seen = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
        found.append((np.array(seen).reshape(rows, columns), committed))
        # A step commits some of what was passed; a text that goes on elsewhere loses some.
        committed = max(0, committed + draw(st.integers(-2, columns)))
    return found


@given(passes(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_each_mask_is_that_of_its_own_pass(
    given_passes: list[tuple[np.ndarray, int]], dtype: torch.dtype
) -> None:
    buffer = TreeMaskBuffer(torch.device("cpu"), dtype)
    for visible, committed in given_passes:
        rows = len(visible)
        seen = np.concatenate([np.ones((rows, committed), dtype=bool), visible], axis=1)
        expected = torch.zeros(seen.shape, dtype=dtype)
        expected[~torch.from_numpy(seen)] = torch.finfo(dtype).min
        mask = buffer.additive(visible, committed)
        assert mask.dtype == dtype
        torch.testing.assert_close(mask, expected[None, None], rtol=0, atol=0)
