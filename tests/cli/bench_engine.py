"""The engine that tests of ``sage bench`` use in place of a loaded pair."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sage_core.bench import methods
from sage_core.errors import OptionError
from tests.core.bench_fake import Clock, FakeEngine, FakeMethod

RATES = {"autoregressive": 10.0, "static": 20.0, "sage": 25.0, "transformers": 9.0}


class Engine(FakeEngine):
    """Makes a fake method for every name; ``change`` is applied to each."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.change: Callable[[FakeMethod], None] = lambda method: None
        self.settings: dict[str, Any] = {}
        self.calibrated: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.cannot: set[str] = set()

    def check(self, name: str) -> None:
        if name in self.cannot:
            raise OptionError(f"{name}: not for this pair")

    def method(self, name: str, setting: Mapping[str, Any] | None = None) -> FakeMethod:
        self.settings[name] = setting
        rate = RATES.get(name.partition(":")[0], 15.0)
        accepted = 0 if name in ("autoregressive", "transformers") else 4
        made = FakeMethod(name, self.clock, rate, accepted=accepted)
        made.on_call = lambda item: self.calls.append((name, item))
        self.change(made)
        return made

    def calibrate(self, method: Any, items: Any) -> dict[str, Any]:
        self.calibrated.append(methods.spec(method))
        return {"setting": len(items)}


def report(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)
