"""What holds for all tests: one thread for tiny models, no deadlines, seeded examples."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings

# Tiny matrices lose more to a second thread's start than they gain, and on a busy machine much
# more. Must be set before torch is imported; programs that the tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What passes cost is measured once for all tests, and not kept among the user's own files.
os.environ["SAGE_COSTS"] = str(Path(tempfile.mkdtemp(prefix="sage-tests-")) / "costs.json")

# Without a GPU, Triton kernels run in its interpreter; read when triton is first imported.
if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Timing is never asserted, and a failure must come back on the next run.
settings.register_profile("sage", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("sage")
