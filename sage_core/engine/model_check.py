"""Which models can be decoded exactly: the others are refused by name before a text."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sage_core.drafts.head.module import Head
from sage_core.engine.trial import (
    EXACT,
    TOLERANCE,
    Verdict,
    agree,
    failing,
    plain_tokens,
    refusal,
    try_class,
)
from sage_core.errors import SageError, UnsupportedError
from sage_core.generation.prepare import prepare
from sage_core.media.types import Picture
from sage_core.models.families.base import Family
from sage_core.models.families.generic import TEXT_INPUTS, TOKEN_TYPES
from sage_core.models.inputs import cast, on_device
from sage_core.models.memory_needs import auto_class
from sage_core.models.quiet import is_memory_error, quiet
from sage_core.models.small_config import text_config
from sage_core.runtime.runner import Runner

LOOK = 8
"""Tokens of the prompt of a look at a loaded model."""
ROUNDED = 0.1
"""`TOLERANCE` in dtypes shorter than float32."""
_NO_TREE_MASK = ("flex", "flash", "paged")
"""Parts of the names of attention implementations that take no mask over pairs of tokens."""


class ModelChecks:
    """The checks of the models in use, kept by whoever makes several decoders.

    A model's state is checked each time, its passes once, and again when its modules are others.
    """

    def __init__(self) -> None:
        self._targets: weakref.WeakKeyDictionary[Any, tuple[Verdict, _Kinds]]
        self._targets = weakref.WeakKeyDictionary()
        self._drafts: weakref.WeakSet[Any] = weakref.WeakSet()

    def know(self, model: Any, verdict: Verdict) -> None:
        """Take over the verdict on a target that has been checked."""
        self._targets[model] = verdict, _kinds(model)

    def pair(self, target: Any, draft: Any) -> Verdict:
        """Check a target, and a draft that is a model: a head is checked when it is given.

        Raises:
            ModelError, UnsupportedError: as `target` and `draft`.
        """
        verdict = self.target(target)
        if draft is not None and not isinstance(draft, Head):
            self.draft(draft)
        return verdict

    def target(self, model: Any) -> Verdict:
        """Check a loaded target.

        Raises:
            ModelError: passes over trees do not reproduce its text.
            UnsupportedError: it is in a state in which they do not (training, an attention
                implementation without masks, virtual tokens).
        """
        refuse_state(model)
        _refuse_training(model)
        verdict, checked = self._targets.get(model, (EXACT, None))
        if checked != _kinds(model):
            verdict = check_target(_base(model).config, verdict_of(model))
            look(model)
            self.know(model, verdict)
        return verdict

    def draft(self, model: Any) -> None:
        """Check a loaded draft model, which need not be exact.

        Raises:
            ModelError: its passes fail.
            UnsupportedError: it has virtual tokens, or attention without masks.
        """
        refuse_state(model)
        if model not in self._drafts:
            check_draft(_base(model).config, verdict_of(model))
            self._drafts.add(model)


def verdict_of(model: Any) -> Verdict:
    """The verdict on the class and configuration of a loaded model."""
    base = _base(model)
    attention = str(getattr(base.config, "_attn_implementation", "sdpa"))
    used = attention if attention in ("sdpa", "eager") else "sdpa"

    def build(config: Any) -> Any:
        return type(base)._from_config(config, dtype=torch.float32, attn_implementation=used)

    return try_class((type(base), used), base.config, build)


def verdict_before_loading(config: Any, *, code: bool) -> Verdict:
    """The verdict on the class that ``config`` names; ``code``: its own code may run."""
    kind = auto_class(config)

    def build(config: Any) -> Any:
        return kind.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=code
        )

    return try_class((kind, type(config)), config, build)


def check_target(config: Any, verdict: Verdict) -> Verdict:
    """The ``verdict`` on a target.

    Raises:
        ModelError: it is against it.
    """
    if verdict.reason:
        raise refusal(config, verdict.reason)
    return verdict


def check_draft(config: Any, verdict: Verdict) -> None:
    """Raise `ModelError` if the passes of a draft fail."""
    if not verdict.runs:
        raise refusal(config, verdict.reason)


def refuse_state(model: Any) -> None:
    """Refuse a loaded model with virtual tokens, or with attention that takes no mask of a tree.

    Raises:
        UnsupportedError: what the state is, and how to leave it.
    """
    owner = getattr(_bound_method(model), "__self__", model)
    for wrapper in (model, owner):
        adapter: Any = getattr(wrapper, "active_peft_config", None)
        if getattr(adapter, "is_prompt_learning", False):
            kind = str(getattr(adapter.peft_type, "value", adapter.peft_type)).lower()
            raise UnsupportedError(
                f"PEFT's {kind} adds virtual tokens to every prompt, which is not supported: use "
                "the model without this adapter, or an adapter of its weights such as LoRA"
            )
    attention = _attention(model)
    if any(part in attention for part in _NO_TREE_MASK):
        raise UnsupportedError(
            f"attention by {attention} takes no mask of a tree: call "
            "model.set_attn_implementation('sdpa') first"
        )


def _refuse_training(model: Any) -> None:
    """Refuse a target whose training mode changes its text."""
    for name, module in model.named_modules():
        if module.training and _is_random(module):
            raise UnsupportedError(
                f"the model is in training mode, where {name or 'it'} changes its output at "
                "random: call model.eval() first"
            )


_Kinds = tuple[Any, ...]


def _kinds(model: Any) -> _Kinds:
    """The classes of a model's modules, which quantization and adapters replace, and how it
    computes attention."""
    return (_attention(model), *map(type, model.modules()))


def _attention(model: Any) -> str:
    return str(getattr(text_config(_base(model).config), "_attn_implementation", "sdpa"))


def _is_random(module: nn.Module) -> bool:
    """Whether training mode changes what a module computes: dropout, or no use of the cache."""
    if getattr(module, "gradient_checkpointing", False):
        return True
    rates = [value for name, value in vars(module).items() if "drop" in name]
    if "Dropout" in type(module).__name__:
        rates.append(getattr(module, "p", 0))
    return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def _base(model: Any) -> Any:
    """The transformers model within a PEFT model; else the model."""
    inner = getattr(model, "get_base_model", None)
    return model if inner is None else inner()


def _bound_method(model: Any) -> Any:
    """PEFT replaces this method of the inner model while its own `generate` runs."""
    return getattr(model, "prepare_inputs_for_generation", None)


def look(model: Any, inputs: Mapping[str, Any] | None = None) -> None:
    """Compare a first pass over a tree with the model's own forward over the same text.

    Args:
        model: a loaded target.
        inputs: of its forward, on its device; the last three tokens become a path of the tree.
            None: a few tokens of text.

    Raises:
        ModelError: they disagree, or a pass fails.
    """
    try:
        with quiet():
            same = _tree_agrees(model, inputs or _plain_text(model))
    except (MemoryError, SageError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and is_memory_error(error):
            raise
        raise refusal(_base(model).config, failing(error)) from error
    if not same:
        raise refusal(
            _base(model).config,
            "a pass over a tree does not reproduce its own forward: its attention is not plainly "
            "causal, or its numbers depend on the whole batch, as in dynamic quantization",
        )


def _plain_text(model: Any) -> dict[str, Tensor]:
    device = model.get_input_embeddings().weight.device
    ids = torch.tensor([plain_tokens(_base(model), LOOK)], device=device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def with_a_picture(model: Any, family: Family) -> dict[str, Any]:
    """Inputs for `look` with a picture, prepared by a family that has not been proven."""
    shades = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    inputs = family.prepare([Picture(Image.fromarray(shades), "an image")], "What is this?")
    path = torch.tensor([plain_tokens(model, 3)])
    ids = torch.cat([inputs["input_ids"], path], dim=1)
    media = {k: v for k, v in inputs.items() if k not in TEXT_INPUTS + TOKEN_TYPES}
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    whole = on_device(
        family.add_token_types(text | media), model.get_input_embeddings().weight.device
    )
    return {name: cast(value, model) for name, value in whole.items()}


def _without_last(inputs: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The inputs without the last tokens, which are text."""
    shape = inputs["input_ids"].shape
    return {
        name: value[:, :-count] if getattr(value, "shape", None) == shape else value
        for name, value in inputs.items()
    }


def _tree_agrees(model: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether the logits after a path in a small tree are those of a forward over the same text.

    A sibling stands between the path's nodes, so that the tree mask matters.
    """
    runner = Runner(model)
    own = runner.prefill(prepare(model, inputs, {"max_new_tokens": 1}), 8).logits.float()
    root, child, last = inputs["input_ids"][0, -3:].tolist()
    if runner.restorable(3) == runner.committed - 3:
        runner.truncate(3)
    else:  # a state does not go back
        runner.prefill(prepare(model, _without_last(inputs, 3), {"max_new_tokens": 1}), 8)
    mask = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], dtype=bool)
    logits, _ = runner.forward([root, child, root, last], [0, 1, 1, 2], mask, last=1)
    return agree(logits.float(), own, TOLERANCE if model.dtype == torch.float32 else ROUNDED)
