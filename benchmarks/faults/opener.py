"""Opens files named on standard input, one after another, as the command line does.

Each line is a path; each answer a JSON object with ``how`` and ``says``.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback

from sage_core.errors import SageError
from sage_core.media import MediaWorker, Sampling, open_media

ADDRESSES = 8 * 2**30
"""Bytes of address space of this process, so that a fault costs no machine."""


def opened(path: str, worker: MediaWorker) -> str:
    """``Picture`` or ``Clip``."""
    sampling = Sampling(frames=8, frame_pixels=64 * 64)
    return type(open_media(path, sampling, "FILE", isolate=worker)).__name__


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    worker = MediaWorker()
    for line in sys.stdin:
        try:
            how, says = "opened", opened(line.rstrip("\n"), worker)
        except SageError as error:
            how, says = "refused", str(error)
        except BaseException:
            how, says = "traceback", traceback.format_exc()
        print(json.dumps([how, says]), flush=True)


if __name__ == "__main__":
    main()
