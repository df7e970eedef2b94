"""The trial of a model class: a small copy is decoded by chain and tree, and compared with itself.

The copy has the model's own configuration, cut (`models.small_config`), and random weights. Its own
`generate`, with its own cache, is the reference: a tree pass must give the same logits for each
token of a text that crosses every window, chunk and rotary border in the configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_core.errors import ModelError, UnsupportedError
from sage_core.generation.prepare import prepare
from sage_core.models.parts import decoder_of
from sage_core.models.quiet import quiet
from sage_core.models.small_config import (
    CUTS,
    STEP,
    Border,
    SmallConfig,
    context_length,
    cut,
    lengths,
    text_config,
)
from sage_core.runtime.runner import Runner
from sage_core.runtime.windows import LayerKinds
from sage_core.trees.policies.static import MAX_NODES

PROMPT = 6
"""Tokens of the prompt of a trial: the trees behind it then straddle every border."""
PASSES = (3, 1, 3, 1)
"""Tokens committed by the passes of a trial in turn: a tree, one token, a chain, one token."""
BEYOND = 7
"""Tokens after the last border."""
TOLERANCE = 1e-3
"""Largest difference of two logits, relative to the largest logit."""
MAX_PARAMETERS = 50_000_000
"""Of a small copy; a larger one is not tried."""

Build = Callable[[Any], Any]
"""Builds a model from a configuration, in float32 on the CPU."""


@dataclass(frozen=True)
class Verdict:
    """What a trial found."""

    reason: str = ""
    """Why passes over trees do not reproduce the model's own text; empty if they do."""
    limit: int | None = None
    """The longest text that they reproduce, in tokens; None: any."""
    limited_by: str = ""
    """The field of the configuration with that length."""
    runs: bool = True
    """Whether its passes run at all: a draft needs no more."""
    ends: bool = False
    """Whether the model itself cannot read more than ``limit`` tokens."""


EXACT = Verdict()
"""Nothing against a model."""


@dataclass(frozen=True)
class _Subject:
    """What is tried; equal for equal classes and configurations."""

    kind: Any
    described: str
    config: Any = field(compare=False)
    build: Build = field(compare=False)


def try_class(kind: Any, config: Any, build: Build) -> Verdict:
    """The verdict on models of class ``kind`` with ``config``; ``build`` makes one from a copy.

    Verdicts are kept in memory, by class and configuration.
    """
    return _verdict(_Subject(kind, config.to_json_string(use_diff=False), config, build))


def refusal(config: Any, reason: str) -> ModelError:
    """The error for a target of this configuration."""
    return ModelError(
        f"{config.model_type} models are not supported: {reason}: choose a model of another family"
    )


@lru_cache(maxsize=64)
def _verdict(subject: _Subject) -> Verdict:
    with quiet(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        try:
            small, model, texts = _small_copy(subject.config, subject.build)
        except MemoryError:
            raise
        except Exception as error:
            return _untried(subject.config, error)
        return _judge(subject.config, small, model, texts)


def small_model(config: Any, build: Build) -> tuple[SmallConfig, Any]:
    """The copy of a trial: its configuration, and the model with random weights in float32.

    Raises:
        Exception: of whatever kind; no cut of the configuration can be built and can write.
    """
    with quiet(), torch.random.fork_rng(devices=[]), torch.device("cpu"):
        small, model, _ = _small_copy(config, build)
    return small, model


def _small_copy(config: Any, build: Build) -> tuple[SmallConfig, Any, _Texts]:
    """The smallest copy that can be built and writes a text; raises the first cut's error."""
    failure: Exception | None = None
    for rules in CUTS:
        try:
            small = cut(config, rules)
            model = _built(build, small)
            return small, model, _Texts.of(model, small)
        except MemoryError:
            raise
        except Exception as error:  # this cut does not fit the class: the next one may
            failure = failure or error
    assert failure is not None
    raise failure


def _untried(config: Any, failure: Exception) -> Verdict:
    """No small copy can be built: a look at the loaded model must do, unless there is a border."""
    text = " ".join(str(failure).split())
    if "scaled_dot_product_attention" in text or "sdpa" in text:
        return Verdict("no SDPA attention, which passes over trees need", runs=False)
    if LayerKinds.holding_states(text_config(config)):
        return Verdict(
            "their layers hold a state that cannot be tried, because no small model of this class "
            f"can be made ({type(failure).__name__}: {text[:80]})"
        )
    context = context_length(config) or math.inf
    border = next((one for one in lengths(config) if one.tokens < context), None)
    if border is None:
        return EXACT
    return Verdict(
        f"their {border.name} of {border.tokens} cannot be tried, because no small model of this "
        f"class can be made ({type(failure).__name__}: {text[:80]})"
    )


def _built(build: Build, small: SmallConfig) -> Any:
    """A small model with random weights: large enough that logits depend on the whole text."""
    with torch.device("meta"):
        weights = build(deepcopy(small.config)).parameters()
    if sum(weight.numel() for weight in weights) > MAX_PARAMETERS:
        raise ValueError("too large")
    torch.manual_seed(0)
    model = build(small.config).float().eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 2.0 / weight.shape[-1] ** 0.5, generator=draw)
            elif "norm" not in name:
                weight.normal_(0.0, 0.1, generator=draw)
    return model


@dataclass(frozen=True, eq=False)
class _Texts:
    """A text, and the model's own logits for each of its tokens after the prompt."""

    ids: list[int]
    logits: Tensor
    """(steps, vocabulary): row i is after token ``PROMPT - 1 + i``."""
    ended: bool
    """Whether the model could read no more."""

    @classmethod
    def of(cls, model: Any, small: SmallConfig) -> _Texts:
        length = max(small.longest, PROMPT + 2) + BEYOND
        ids = plain_tokens(model, length)
        logits: list[Tensor] = []
        ended = False
        try:
            _generate(model, ids, logits)
        except (IndexError, RuntimeError):  # a table of positions ends
            if len(logits) < 4:
                raise
            ended = True
        return cls(ids, torch.cat(logits), ended)


def _generate(model: Any, ids: list[int], record: list[Tensor]) -> None:
    """Let `generate` write the text ``ids``; its logits are appended to ``record``."""
    from transformers import GenerationConfig, LogitsProcessorList

    def force(written: Tensor, scores: Tensor) -> Tensor:
        record.append(scores.float().clone())
        forced = torch.full_like(scores, -torch.inf)
        forced[:, ids[written.shape[1]]] = 0.0
        return forced

    prompt = torch.tensor([ids[:PROMPT]])
    settings = GenerationConfig(
        max_new_tokens=len(ids) - PROMPT, do_sample=False, pad_token_id=0, use_cache=True
    )
    model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        generation_config=settings,
        logits_processor=LogitsProcessorList([force]),
    )


def plain_tokens(model: Any, count: int) -> list[int]:
    """Random ids that have no meaning in the configuration."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    special: set[int] = set()
    for part in (model.config, text_config(model.config), model.generation_config):
        for name, value in part.to_dict().items():
            if name.endswith(("_token_id", "_token_index")):
                special |= set(value if isinstance(value, list) else [value])
    plain = [token for token in range(min(vocabulary, 1000)) if token not in special]
    draw = torch.Generator().manual_seed(1)
    chosen = torch.randint(len(plain), (count,), generator=draw)
    return [plain[i] for i in chosen.tolist()]


def _judge(config: Any, small: SmallConfig, model: Any, texts: _Texts) -> Verdict:
    """Compare passes over trees with the model's own logits."""
    context = context_length(config)
    ends = None
    if texts.ended:
        read = PROMPT + len(texts.logits) - 1
        ends = max((b for b in small.borders if b.small <= read), key=_small, default=None)
    try:
        reached = next(_differing(model, texts), None)
        placed = next(_differing(model, texts, STEP), None) if reached is None else None
    except MemoryError:
        raise
    except UnsupportedError as error:
        return Verdict(str(error), runs=False)
    except Exception as error:
        return Verdict(failing(error), runs=False)
    if placed is not None:
        return _by_place(small, placed)
    if reached is None:
        return EXACT if ends is None else Verdict(limit=ends.tokens, ends=True)
    crossed = [border for border in small.borders if border.small < reached]
    if not crossed:
        return Verdict(_why(model, texts))
    border = max(crossed, key=_small)
    if context is not None and border.tokens >= context:
        return Verdict(limit=border.tokens, limited_by=border.name)
    return Verdict(_beyond(border), limit=border.tokens)


def _by_place(small: SmallConfig, reached: int) -> Verdict:
    """The verdict on a model that takes a node's place in a pass for its position: it differs
    where these are on two sides of a border, so texts must end before any tree gets there."""
    near = [border for border in small.borders if border.small < reached + STEP]
    border = max(near, key=_small, default=None)
    if border is None or border.tokens <= MAX_NODES:
        return Verdict("a pass over a tree does not reproduce its attention")
    names = sorted({one.name for one in near if one.small == border.small})
    return Verdict(limit=border.tokens - MAX_NODES, limited_by=" or ".join(names))


def failing(error: Exception) -> str:
    """The reason for a model whose pass raises ``error``."""
    text = " ".join(str(error).split())[:120]
    return f"its passes do not follow the common interface ({type(error).__name__}: {text})"


def _small(border: Border) -> int:
    return border.small


def _beyond(border: Border) -> str:
    if "position" in border.name:
        return f"its rotary positions change beyond {border.tokens} tokens ({border.name})"
    return f"its attention looks back {border.tokens} tokens only ({border.name})"


def _why(model: Any, texts: _Texts) -> str:
    """The reason for a model that differs from its first tree pass on."""
    ids = torch.tensor([texts.ids[:PROMPT]])
    with torch.inference_mode():
        hidden = decoder_of(model)(input_ids=ids).last_hidden_state[0, -1:]
        plain = model.get_output_embeddings()(hidden)
    if agree(plain, texts.logits[:1]):
        return "a pass over a tree does not reproduce its attention"
    return "its logits are scaled or capped after the output layer"


def agree(ours: Tensor, theirs: Tensor, tolerance: float = TOLERANCE) -> bool:
    """Whether logits of one shape differ by at most that part of the largest of ``theirs``."""
    if ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def _differing(model: Any, texts: _Texts, siblings: int = 1) -> Iterator[int]:
    """Decode the text by trees, chains and single tokens; yields the length of text that a pass
    reaches if its logits are not the model's own.

    With many ``siblings`` a node's place in the pass and its position are on two sides of each
    border in turn.
    """
    ids, logits = texts.ids, texts.logits
    last = PROMPT + len(logits) - 1
    prompt = torch.tensor([ids[:PROMPT]])
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    runner = Runner(model)
    prepared = prepare(model, inputs, {"max_new_tokens": 1, "pad_token_id": 0})
    if not agree(runner.prefill(prepared, 4).logits.float(), logits[:1]):
        yield PROMPT
    at, turn = PROMPT, 0
    while at < last:
        path = ids[at : min(at + PASSES[turn % 4], last)]
        wrong = [ids[at - 1]] * siblings if turn % 4 == 0 else []  # of the path's second token
        columns = [0, *range(1 + len(wrong), len(path) + len(wrong))]
        tokens = [path[0], *wrong, *path[1:]]
        depths = [0, *(1 for _ in wrong), *range(1, len(path))]
        visible = np.eye(len(tokens), dtype=bool)
        for i, column in enumerate(columns):
            visible[column, columns[: i + 1]] = True
        visible[:, 0] = True
        ours, _ = runner.forward(tokens, depths, visible)
        theirs = logits[at - PROMPT + 1 : at - PROMPT + 1 + len(path)]
        if not agree(ours[columns].float(), theirs):
            yield at + len(path)
        runner.commit(columns)
        at, turn = at + len(path), turn + 1
