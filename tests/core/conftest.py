"""What holds for tests of the engine."""

from __future__ import annotations

import pytest

from sage_core.engine.costs.store import CostStore
from sage_core.trees.pass_costs import Costs

CHEAP = Costs.linear(1.0, 1e-4, 1e-3)
"""So that `sage` drafts whatever may be accepted: a tiny model's draft is as dear as itself, and a
test in which nothing is drafted shows nothing."""


@pytest.fixture(autouse=True)
def cheap_drafts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test measures what passes cost unless it is marked ``real_costs``."""
    if not request.node.get_closest_marker("real_costs"):
        monkeypatch.setattr(CostStore, "costs", lambda self, key, context: CHEAP)
