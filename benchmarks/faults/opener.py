"""Opens files named on standard input, one after another, as the command line does.

Each line is a path; each answer a JSON object with ``how`` and ``says``.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from typing import Any

from sage_core import media
from sage_core.errors import SageError

ADDRESSES = 8 * 2**30
"""Bytes of address space of this process, so that a fault costs no machine."""
WORKER: Any = getattr(media, "MediaWorker", None)
"""The process that the command line decodes files in, where this version has it."""
ISOLATED = WORKER is not None


def opened(path: str, **options: Any) -> str:
    """``Picture`` or ``Clip``."""
    sampling = media.Sampling(frames=8, frame_pixels=64 * 64)
    return type(media.open_media(path, sampling, "FILE", **options)).__name__


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    options = {"isolate": WORKER()} if ISOLATED else {}
    for line in sys.stdin:
        try:
            how, says = "opened", opened(line.rstrip("\n"), **options)
        except SageError as error:
            how, says = "refused", str(error)
        except BaseException:
            how, says = "traceback", traceback.format_exc()
        print(json.dumps([how, says]), flush=True)


if __name__ == "__main__":
    main()
