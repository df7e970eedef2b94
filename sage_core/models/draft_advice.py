"""A draft to suggest for a target of no known pair: only one that fits and is smaller."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from sage_core.errors import ModelError
from sage_core.models import catalog
from sage_core.models.checkpoint import CheckpointInfo, load_config, load_tokenizer
from sage_core.models.known_pairs import smaller_drafts
from sage_core.models.pair_check import check_pair


def suggest_draft(target: CheckpointInfo) -> str | None:
    """The hub id of a draft that fits ``target``; None if none is known.

    Cached models come first, the smallest of those whose configuration and tokenizer pass
    `check_pair`; then the published drafts of `known_pairs`, with sizes from their names.
    """
    kind = catalog.architecture(target.config.to_dict())
    cached = [
        entry
        for entry in catalog.list_models()
        if entry.kind == "cached"
        and entry.architecture == kind
        and 0 < entry.bytes < target.checkpoint.bytes
    ]
    for entry in sorted(cached, key=lambda entry: entry.bytes):
        with suppress(ModelError):
            config = load_config(entry.path)
            if _layer_weights(config) < _layer_weights(target.config):
                check_pair(target.config, config, target.tokenizer, load_tokenizer(entry.path))
                return entry.id
    text = target.config.get_text_config(decoder=True)
    parameters = target.size.linear + target.size.others
    published = smaller_drafts(target.config.model_type, text.vocab_size, parameters)
    return published[0] if published else None


def _layer_weights(config: Any) -> int:
    """A measure of the decoder's size that quantization does not change."""
    text = config.get_text_config(decoder=True)
    return int(text.num_hidden_layers * text.hidden_size**2)
