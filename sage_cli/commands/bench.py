"""``sage bench``: compare decoding methods on a pair, this machine and data."""

from __future__ import annotations

from typing import Annotated, Any

from sage_cli.options.bench import BenchOptions, ModelOptions
from sage_cli.options.flags import argument
from sage_cli.options.shared import PROMPT, RunOptions
from sage_cli.options.takes_options import takes_options

__all__ = ["bench"]


@takes_options(ModelOptions, "models")
@takes_options(BenchOptions)
def bench(
    data: Annotated[
        list[str] | None,
        argument(
            "DATA",
            "Images, videos, folders of them, MMSpec folders, or JSONL lists; or 'diff A B' "
            "to compare the results of two runs.",
            show_default="the bundled items",
        ),
    ] = None,
    prompt: Annotated[str | None, PROMPT] = None,
    *,
    options: BenchOptions,
    models: Any = None,
) -> int:
    """Compare decoding methods on this machine, with the same loaded models and inputs."""
    from sage_cli.jobs.bench import diff, run

    names = data or []
    if names and names[0] == "diff":
        return int(diff(names[1:], as_json=options.json))
    return int(run(names, prompt, options, RunOptions(**vars(models))))
