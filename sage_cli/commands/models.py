"""``sage models``: the models that can be loaded now, and the known pairs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sage_cli.options.shared import ListOptions
from sage_cli.options.takes_options import takes_options

if TYPE_CHECKING:
    from sage_core.models.catalog import ModelEntry, PairEntry

__all__ = ["models"]


@takes_options(ListOptions)
def models(*, options: ListOptions) -> None:
    """List the models that can be loaded now, and known pairs that can be downloaded."""
    from sage_cli.console import set_verbosity
    from sage_cli.render.jsonout import SCHEMA
    from sage_cli.render.stats import size
    from sage_cli.render.tables import print_json, print_table

    set_verbosity(options.verbose)
    if options.fitting is not None:
        _list_drafts(options.fitting, options.json)
        return
    from sage_core.models.catalog import list_models, list_pairs

    entries = list_models()
    pairs = list_pairs(entries)
    if options.json:
        listed = [{**asdict(entry), "path": str(entry.path)} for entry in entries]
        known = [asdict(pair) for pair in pairs]
        print_json({"schema": SCHEMA, "models": listed, "known_pairs": known})
        return
    print_table(
        ("model", "source", "architecture", "size", "draft"),
        [(e.id, e.kind, e.architecture, size(e.bytes), _draft(e)) for e in entries],
        empty="no model can be loaded: the bundled pair is missing and the local cache is empty",
    )
    print_table(
        ("known pair", "target", "draft", "to download"),
        [
            (pair.series, pair.target, pair.draft, _missing(pair))
            for pair in pairs
            if pair.target_cached or not pair.quantized
        ],
    )
    print("Quantized versions (AWQ, GPTQ) of these targets are known too: see --json.")


def _list_drafts(model: str, as_json: bool) -> None:
    """The drafts for a model, found without its weights."""
    from sage_cli.render.jsonout import SCHEMA
    from sage_cli.render.tables import print_json, print_table
    from sage_core.models.checkpoint import inspect
    from sage_core.models.draft_search import find_drafts

    found = list(find_drafts(inspect(model, model, None, False), model))
    if as_json:
        drafts = [asdict(candidate) for candidate in found]
        print_json({"schema": SCHEMA, "model": model, "drafts": drafts})
        return
    print_table(
        ("draft", "why it fits", "here", "--draft auto"),
        [
            (one.id, one.reason, "yes" if one.cached else "no", "" if one.automatic else "no")
            for one in found
        ],
        empty="no draft model is known for it: --draft ngram needs none",
    )


def _draft(entry: ModelEntry) -> str:
    if entry.draft is None:
        return "none known"
    return entry.draft if entry.draft_cached else f"{entry.draft} (not downloaded)"


def _missing(pair: PairEntry) -> str:
    parts = [("target", pair.target_cached), ("draft", bool(pair.drafts_cached))]
    return " and ".join(name for name, here in parts if not here)
