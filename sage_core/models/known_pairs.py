"""The known pairs: for each published target the drafts that fit it, best first.

They are data: ``known_pairs.toml`` beside this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from sage_core.errors import ModelError
from sage_core.files.reading import as_shape, read_toml


@dataclass(frozen=True)
class Series:
    """Checkpoints of one family with the same tokenizer and the same image preprocessing."""

    name: str
    model_types: tuple[str, ...]
    """``model_type`` in the config.json of its checkpoints."""
    vocab_size: int
    """Of its smallest model; that of others differs by padding, less than 512."""
    pattern: str
    """A hub id with ``{}`` for the size."""
    drafts: Mapping[str, str]
    """Size of a target: sizes of its drafts, best first, separated by spaces."""
    variants: tuple[str, ...] = ("",)
    """Endings of hub ids under which the targets are published: plain first, then quantized."""
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Size of a target: layers and width of its text decoder."""

    def __post_init__(self) -> None:
        if self.pattern.count("{}") != 1 or not all(self.drafts.values()):
            raise ValueError(f"{self.name}: a pattern with one gap and a draft for each target")
        if not self.shapes.keys() <= self.drafts.keys():
            raise ValueError(f"{self.name}: shapes are of targets")

    def has_tokenizer(self, model_type: str, vocab_size: int) -> bool:
        """Whether a model is of this architecture and, by its vocabulary, this tokenizer."""
        return model_type in self.model_types and abs(vocab_size - self.vocab_size) < 512


@dataclass(frozen=True)
class KnownPair:
    """A target with the drafts that fit it, as hub ids."""

    series: str
    target: str
    drafts: tuple[str, ...]
    """Best first, weighing acceptance against cost."""
    quantized: bool = False
    """The target is a quantized form of another."""


def _read() -> tuple[Series, ...]:
    file = Path(__file__).with_name("known_pairs.toml")
    listed = read_toml(file, error=ModelError)["series"]
    return tuple(as_shape(one, file, Series, error=ModelError) for one in listed)


SERIES = _read()
"""Every series, in the order in which they are listed."""


def _expand() -> dict[str, KnownPair]:
    pairs: dict[str, KnownPair] = {}
    for series in SERIES:
        for size, drafts in series.drafts.items():
            fitting = tuple(map(series.pattern.format, drafts.split()))
            for variant in series.variants:
                target = series.pattern.format(size) + variant
                pairs[target] = KnownPair(series.name, target, fitting, quantized=bool(variant))
    return pairs


KNOWN: Mapping[str, KnownPair] = MappingProxyType(_expand())
"""The pairs by their target's hub id."""


def drafts_for(target: str) -> tuple[str, ...]:
    """Hub ids of the drafts known for ``target``, best first; empty if none is."""
    pair = KNOWN.get(target)
    return pair.drafts if pair else ()


def known_by_name(name: str) -> str | None:
    """The known target that a name or path means: a hub id, or the last part of one."""
    if name in KNOWN:
        return name
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
    return next((known for known in KNOWN if known.rsplit("/", 1)[-1].lower() == last), None)


def known_by_shape(model_type: str, vocab_size: int, layers: int, width: int) -> str | None:
    """The known target with this architecture, tokenizer, and size of its text decoder."""
    for series in SERIES:
        if series.has_tokenizer(model_type, vocab_size):
            for size, shape in series.shapes.items():
                if tuple(shape) == (layers, width):
                    return series.pattern.format(size)
    return None


def smaller_drafts(model_type: str, vocab_size: int, parameters: int) -> tuple[str, ...]:
    """Of each series with that ``model_type`` and tokenizer, the smallest published draft.

    Drafts of ``parameters`` or more are left out. ``vocab_size`` distinguishes tokenizers.
    """
    found: list[str] = []
    for series in SERIES:
        if series.has_tokenizer(model_type, vocab_size):
            drafts = " ".join(series.drafts.values()).split()
            found.append(min(map(series.pattern.format, drafts), key=parameters_in))
    return tuple(draft for draft in found if parameters_in(draft) < parameters)


def parameters_in(name: str) -> float:
    """The number of parameters that a hub id states, as in ``Qwen3-0.6B``; infinity if none."""
    stated = re.search(r"(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", name.lower())
    if stated is None:
        return float("inf")
    return float(stated[1]) * (1e9 if stated[2] == "b" else 1e6)
