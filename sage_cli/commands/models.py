"""``sage models``: what can be loaded without a download."""

from __future__ import annotations

from dataclasses import asdict

from sage_cli.options import InfoOptions, takes_options

__all__ = ["models"]


@takes_options(InfoOptions)
def models(*, options: InfoOptions) -> None:
    """List the models that can be loaded now: the bundled pair and the local cache."""
    from sage_cli.console import set_verbosity
    from sage_cli.render.jsonout import SCHEMA
    from sage_cli.render.stats import size
    from sage_cli.render.tables import print_json, print_table

    set_verbosity(options.verbose)
    from sage_core.models.catalog import list_models

    entries = list_models()
    if options.json:
        listed = [{**asdict(entry), "path": str(entry.path)} for entry in entries]
        print_json({"schema": SCHEMA, "models": listed})
        return
    print_table(
        ("model", "where", "architecture", "size", "draft"),
        [(e.id, e.kind, e.architecture, size(e.bytes), e.draft or "none known") for e in entries],
        empty="no model can be loaded: the bundled pair is missing and the local cache is empty",
    )
