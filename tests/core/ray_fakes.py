"""An actor that needs no models, for `sage_core.captioning.ray_captioner`."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from sage_core.captioning.records import failure_record
from sage_core.captioning.settings import CaptionSettings
from sage_core.errors import ModelError


class FakeActor:
    """Does what the names say; a setting says whether it cannot load."""

    def __init__(self, settings: CaptionSettings) -> None:
        self._fails = "fail" in settings.loading

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._fails:
            record = failure_record(ModelError("no such model"), files=[])
            return {"number": [-1], "record": [json.dumps(record)]}
        names = [os.fsdecode(path) for path in batch["path"]]
        if "kill" in names:
            os.kill(os.getpid(), signal.SIGKILL)
        records = [{"files": [name], "text": f"{name} done", "key": "lost"} for name in names]
        return {"number": list(batch["number"]), "record": [json.dumps(one) for one in records]}
