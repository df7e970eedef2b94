"""A process of a short run under torchrun: TARGET DATA OUTPUT."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.core import distill_runs

if __name__ == "__main__":
    target, data, output = map(Path, sys.argv[1:])
    distill_runs.train(target, data, output, steps=3)
