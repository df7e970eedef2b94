"""The known pairs: for each published target the drafts that fit it, best first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


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

    def __post_init__(self) -> None:
        if self.pattern.count("{}") != 1 or not all(self.drafts.values()):
            raise ValueError(f"{self.name}: a pattern with one gap and a draft for each target")


@dataclass(frozen=True)
class KnownPair:
    """A target with the drafts that fit it, as hub ids."""

    series: str
    target: str
    drafts: tuple[str, ...]
    """Best first, weighing acceptance against cost."""
    quantized: bool = False
    """The target is a quantized form of another."""


_QUANTIZED = ("", "-AWQ", "-GPTQ-Int4", "-GPTQ-Int8")
_QWEN3_VL = {"235B-A22B": "8B 4B 2B", "32B": "4B 2B 8B", "30B-A3B": "2B 4B", "8B": "2B", "4B": "2B"}
_QWEN3_VL_TYPES = ("qwen3_vl", "qwen3_vl_moe")
_LLAMA = {
    **{"3.3-70B": "3.1-8B 3.2-3B 3.2-1B", "3.1-70B": "3.1-8B 3.2-3B 3.2-1B"},
    **{"3.1-8B": "3.2-1B", "3.2-3B": "3.2-1B"},
}

SERIES = (
    Series(
        "LLaVA-OneVision", ("llava_onevision",), 152_000, "llava-hf/llava-onevision-qwen2-{}-hf",
        {"72b-ov": "7b-ov 0.5b-ov", "72b-ov-chat": "7b-ov-chat 7b-ov 0.5b-ov",
         "7b-ov": "0.5b-ov", "7b-ov-chat": "0.5b-ov"},
    ),
    Series(
        "Qwen2.5-VL", ("qwen2_5_vl",), 151_936, "Qwen/Qwen2.5-VL-{}-Instruct",
        {"72B": "7B 3B", "32B": "7B 3B", "7B": "3B"}, ("", "-AWQ"),
    ),
    Series(
        "Qwen2-VL", ("qwen2_vl",), 151_936, "Qwen/Qwen2-VL-{}-Instruct",
        {"72B": "7B 2B", "7B": "2B"}, _QUANTIZED,
    ),
    Series("Qwen3-VL", _QWEN3_VL_TYPES, 151_936, "Qwen/Qwen3-VL-{}-Instruct", _QWEN3_VL),
    Series("Qwen3-VL Thinking", _QWEN3_VL_TYPES, 151_936, "Qwen/Qwen3-VL-{}-Thinking", _QWEN3_VL),
    # The drafts' ids are those in the code of TABED (arXiv 2601.20357), whose authors trained them.
    # Whether they are public on the hub is not known: without them the target goes alone.
    Series(
        "LLaVA-1.5", ("llava",), 32_064, "{}",
        {"llava-hf/llava-1.5-13b-hf": "mjbooo/lvlm160m-bf16 mjbooo/lvlm68m",
         "llava-hf/llava-1.5-7b-hf": "mjbooo/lvlm68m mjbooo/lvlm160m-bf16"},
    ),
    Series("Llama 3", ("llama",), 128_256, "meta-llama/Llama-{}-Instruct", _LLAMA),
    Series(
        "Llama 3, base", ("llama",), 128_256, "meta-llama/Llama-{}",
        {"3.1-70B": "3.1-8B 3.2-1B", "3.1-8B": "3.2-1B", "3.2-3B": "3.2-1B"},
    ),
    Series(
        "Qwen2.5", ("qwen2",), 151_936, "Qwen/Qwen2.5-{}-Instruct",
        {"72B": "7B 3B 1.5B 0.5B", "32B": "3B 1.5B 0.5B", "14B": "1.5B 0.5B", "7B": "0.5B 1.5B",
         "3B": "0.5B"}, _QUANTIZED,
    ),
    Series(
        "Qwen3", ("qwen3", "qwen3_moe"), 151_936, "Qwen/Qwen3-{}",
        {"235B-A22B": "4B 1.7B 0.6B", "32B": "1.7B 0.6B 4B", "30B-A3B": "0.6B 1.7B",
         "14B": "0.6B 1.7B", "8B": "0.6B 1.7B", "4B": "0.6B"},
    ),
)  # fmt: skip
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


def smaller_drafts(model_type: str, vocab_size: int, parameters: int) -> tuple[str, ...]:
    """Of each series with that ``model_type`` and tokenizer, the smallest published draft.

    Drafts of ``parameters`` or more are left out. ``vocab_size`` distinguishes tokenizers.
    """
    found: list[str] = []
    for series in SERIES:
        if model_type in series.model_types and abs(vocab_size - series.vocab_size) < 512:
            drafts = " ".join(series.drafts.values()).split()
            found.append(min(map(series.pattern.format, drafts), key=parameters_in))
    return tuple(draft for draft in found if parameters_in(draft) < parameters)


def parameters_in(name: str) -> float:
    """The number of parameters that a hub id states, as in ``Qwen3-0.6B``; infinity if none."""
    stated = re.search(r"(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", name.lower())
    if stated is None:
        return float("inf")
    return float(stated[1]) * (1e9 if stated[2] == "b" else 1e6)
