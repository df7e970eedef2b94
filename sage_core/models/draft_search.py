"""Drafts for a target by what it is: its base model, its sizes, and smaller models at hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_core.errors import ModelError
from sage_core.files.reading import read_text
from sage_core.models import catalog, hub
from sage_core.models.checkpoint import CheckpointInfo, load_config, load_tokenizer
from sage_core.models.known_pairs import (
    KNOWN,
    SERIES,
    drafts_for,
    known_by_name,
    known_by_shape,
    smaller_drafts,
)
from sage_core.models.pair_check import check_pair

CARD = "README.md"
_FRONT = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_BASE = re.compile(r"^base_model:[ \t]*(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)
_NAME = re.compile(r"[\w.\-]+/[\w.\-]+")


@dataclass(frozen=True)
class Candidate:
    """A draft that fits a target."""

    id: str
    reason: str
    cached: bool
    """It is on this machine."""
    automatic: bool = True
    """``--draft auto`` may take it; else it is only suggested."""


def find_drafts(target: CheckpointInfo, name: str) -> Iterator[Candidate]:
    """Drafts for ``target``, best first, and each once; ``name`` is its name for the user.

    First those of the known target that it is or was made from, of which cached ones go before
    others; then smaller cached models whose configuration and tokenizer pass `check_pair`; then
    published ones of its architecture and tokenizer, with sizes from their names.
    """
    seen: set[str] = set()
    for candidate in _all(target, str(hub.split_revision(name, None)[0])):
        if candidate.id not in seen:
            seen.add(candidate.id)
            yield candidate


def _all(target: CheckpointInfo, name: str) -> Iterator[Candidate]:
    for base, reason in known_bases(target, name):
        found = [Candidate(one, reason, hub.is_cached(one)) for one in drafts_for(base)]
        yield from sorted(found, key=lambda one: not one.cached)
    yield from _cached(target)
    text = target.config.get_text_config(decoder=True)
    parameters = target.size.linear + target.size.others
    for one in smaller_drafts(target.config.model_type, text.vocab_size, parameters):
        reason = "smaller, of its architecture and tokenizer"
        yield Candidate(one, reason, hub.is_cached(one), automatic=False)


def known_bases(target: CheckpointInfo, name: str) -> Iterator[tuple[str, str]]:
    """The known targets that a model is or was made from, with the reason."""
    if drafts_for(name):
        yield name, "a known pair"
    folder = target.checkpoint.folder
    config = catalog.read_config(folder)
    stated = [(config.get("_name_or_path"), "its configuration")]
    stated += [(base, "its card") for base in card_bases(folder)]
    for base, where in stated:
        known = known_by_name(base) if isinstance(base, str) and base else None
        if known is not None and _alike(target.config, known):
            yield known, f"{where} names {known}"
    text = target.config.get_text_config(decoder=True)
    shape = (text.vocab_size, text.num_hidden_layers, text.hidden_size)
    known = known_by_shape(target.config.model_type, *shape)
    if known is not None:
        yield known, f"it has the architecture, vocabulary and sizes of {known}"


def _alike(config: Any, known: str) -> bool:
    """Whether a model's architecture and tokenizer are those of the known target's series."""
    series = next(one for one in SERIES if one.name == KNOWN[known].series)
    vocabulary = config.get_text_config(decoder=True).vocab_size
    return series.has_tokenizer(config.model_type, vocabulary)


def card_bases(folder: Path) -> list[str]:
    """``base_model`` of a model's card: hub ids; empty without a card."""
    file = folder / CARD
    if not file.is_file():
        return []
    with suppress(ModelError):
        front = _FRONT.match(read_text(file, error=ModelError).replace("\r\n", "\n"))
        listed = _BASE.search(front[1]) if front else None
        return _NAME.findall(listed[1]) if listed else []
    return []


def _cached(target: CheckpointInfo) -> Iterator[Candidate]:
    """Smaller models of the cache that fit, the smallest first."""
    kind = catalog.architecture(target.config.to_dict())
    entries = [
        entry
        for entry in catalog.list_models()
        if entry.kind == "cached"
        and entry.architecture == kind
        and 0 < entry.bytes < target.checkpoint.bytes
    ]
    for entry in sorted(entries, key=lambda entry: entry.bytes):
        with suppress(ModelError):
            config = load_config(entry.path)
            if _layer_weights(config) < _layer_weights(target.config):
                check_pair(target.config, config, target.tokenizer, load_tokenizer(entry.path))
                yield Candidate(entry.id, "smaller, with its tokenizer", cached=True)


def _layer_weights(config: Any) -> int:
    """A measure of the decoder's size that quantization does not change."""
    text = config.get_text_config(decoder=True)
    return int(text.num_hidden_layers * text.hidden_size**2)
