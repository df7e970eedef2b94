"""Prompts for tiny random pairs, with generation settings, and the drafts for their targets."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.exactness.ways import Models, Prompt
from benchmarks.harness import on
from sage_core.runtime.backend import Backend
from tests.tiny import FAMILIES, build_pair, make_inputs, perfect_draft, wrong_draft
from tests.tiny.families import EOS, FIRST_WORD, VOCAB
from tests.tiny.heads import good_head
from tests.tiny.letters import Letters

SAMPLED = "0.7, top-p 0.8, top-k 20"
ENDS = [EOS, *range(40, 60)]
"""Many end tokens, so that texts end early, anywhere in a tree."""
PUBLISHED = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalty 1.05": {"repetition_penalty": 1.05},
    "penalty 1.15": {"repetition_penalty": 1.15},
    "no repeated triple": {"no_repeat_ngram_size": 3},
    "many ends, 5 new tokens at least": {"eos_token_id": ENDS, "min_new_tokens": 5},
    "min and max length": {"eos_token_id": ENDS, "min_length": 9, "max_length": 21},
    "suppressed tokens": {
        "suppress_tokens": list(range(20, 60)),
        "begin_suppress_tokens": list(range(60, 110)),
    },
    "stop strings": {"stop_strings": ["never!", *(f"{a}{b}" for a in "kmpsw" for b in "bcd")]},
    "sampled": {"do_sample": True, "top_k": 0, "temperature": 0.9},
    SAMPLED: PUBLISHED,
    SAMPLED + ", penalty 1.1": {**PUBLISHED, "repetition_penalty": 1.1},
    "min-p 0.05": {"do_sample": True, "top_k": 0, "min_p": 0.05},
}
"""Among them the published defaults of Qwen2.5 (penalty 1.05), Qwen3-VL and LLaVA-OneVision."""
CUT_OFFS = tuple(name for name in SETTINGS if "top-" in name or "min-p" in name)
WORDS = (0, 30, 5, 90, 12)
"""Words of the prompts of a batch."""
LIMITS = (24, 1, 40, 9, 25)
PART = range(FIRST_WORD + 12, VOCAB - 40)
"""Tokens of a draft that scores a part of the vocabulary."""
FURTHER = (7, 1)
"""Words between the texts of a conversation."""
TOWERS = ("vision_tower", "visual")


@dataclass(frozen=True)
class Spec:
    """A prompt of a tiny family, before it is made; ``turns`` prompts that continue it.

    ``kind`` is one of the family's, or ``batch`` for several of all kinds at once.
    """

    kind: str
    length: int
    limit: int
    setting: str = "plain"
    turns: int = 1

    def __str__(self) -> str:
        if self.kind == "batch":
            return f"batch {self.setting}"
        return f"{self.kind} prompt={self.length} new={self.limit} {self.setting}"


def tiny_models(family: str, device: str, dtype: torch.dtype, backend: Backend) -> Models:
    """The pair of a family in copies of its own, with all drafts for its target."""
    target, draft = (copy.deepcopy(model).to(device, dtype) for model in build_pair(family))

    def further(target: Any, name: str) -> Any:
        if name == "right":
            return perfect_draft(target)
        if name == "wrong":
            return wrong_draft(target)
        return with_tower_of(target, draft) if name == "tower" else good_head(target, name)

    return Models(target, draft, PART, backend, further)


def with_tower_of(target: Any, draft: Any) -> Any:
    """A copy of ``draft`` with the target's own vision tower, if there is one."""
    made = copy.deepcopy(draft)
    for name in TOWERS:
        if hasattr(getattr(target, "model", None), name):
            setattr(made.model, name, getattr(target.model, name))
    return made


def made(models: Models, family: str, spec: Spec, seed: int) -> list[Prompt]:
    """The prompts of ``spec``, with the oracle's text of each."""
    target = models.target
    if spec.kind == "batch":
        return [_prompt(target, family, one, i) for i, one in enumerate(_batch(family, spec))]
    first = _prompt(target, family, spec, seed)
    prompts = [first]
    for number in range(1, spec.turns):
        words = FURTHER[(number - 1) % len(FURTHER)]
        inputs = _continued(first.inputs, prompts[-1].expected, words, number)
        options = _options(spec, inputs["input_ids"].shape[1])
        prompts.append(Prompt.of(target, inputs, options, seed + number))
    return prompts


def _batch(family: str, spec: Spec) -> list[Spec]:
    """Prompts of all kinds; if the batch has a setting, each prompt has the next one."""
    kinds, settings = FAMILIES[family].kinds, [*SETTINGS]
    first = settings.index(spec.setting)
    return [
        Spec(
            kinds[i % len(kinds)], words, limit, settings[(first + i * (first > 0)) % len(settings)]
        )
        for i, (words, limit) in enumerate(zip(WORDS, LIMITS, strict=True))
    ]


def _prompt(target: Any, family: str, spec: Spec, seed: int) -> Prompt:
    inputs = on(make_inputs(target, family, spec.kind, spec.length), target)
    return Prompt.of(target, inputs, _options(spec, inputs["input_ids"].shape[1]), seed)


def _options(spec: Spec, prompt: int) -> dict[str, Any]:
    """Arguments of `generate`; lengths in `SETTINGS` do not include the prompt."""
    options = dict(SETTINGS[spec.setting])
    for name in ("min_length", "max_length"):
        if name in options:
            options[name] += prompt
    if "max_length" not in options:
        options["max_new_tokens"] = spec.limit
    if "stop_strings" in options:
        options["tokenizer"] = Letters()
    return options


def _continued(inputs: dict[str, Any], ids: torch.Tensor, words: int, seed: int) -> dict[str, Any]:
    """The inputs with ``ids`` and then further words in place of the prompt."""
    generator = torch.Generator().manual_seed(seed)
    more = torch.randint(FIRST_WORD, VOCAB, (1, words), generator=generator).to(ids.device)
    whole = torch.cat([ids, more], dim=1)
    longer = inputs | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    if "mm_token_type_ids" in inputs:
        types = torch.zeros_like(whole, dtype=torch.int32)
        types[:, : inputs["input_ids"].shape[1]] = inputs["mm_token_type_ids"]
        longer["mm_token_type_ids"] = types
    return longer
