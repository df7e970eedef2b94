"""The options about several devices and machines."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from sage_cli.options import flags
from sage_cli.options.decoding import count_or_auto

__all__ = ["WorkerOptions"]

_setting = partial(flags.setting, flags.WORKERS)


@dataclass(frozen=True)
class WorkerOptions:
    """How many processes describe files, and where."""

    workers: Annotated[
        str,
        _setting(
            "Processes that describe files, each with the models on GPUs of its own, or on its "
            "share of the CPU's cores. 'auto' is one per GPU, and on a CPU one per four cores if "
            "there are eight and memory holds the models so often.",
            parser=count_or_auto,
            metavar="N|auto",
        ),
    ] = "1"
    engine: Annotated[
        Literal["local", "ray"],
        _setting(
            "Where the workers run: processes on this machine, or actors of Ray on a cluster, "
            "which must see the files under the same names (extra 'ray').",
            metavar="local|ray",
        ),
    ] = "local"
    ray_address: Annotated[
        str | None,
        _setting(
            "Address of the Ray cluster: HOST:PORT of its head (6379), or 'auto' on one of its "
            "machines.",
            metavar="ADDRESS",
            show_default="a new one on this machine",
        ),
    ] = None
