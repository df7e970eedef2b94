"""A small model of the target's class in training, with the target's vision tower if possible."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sage_core.distill.losses import distribution_loss
from sage_core.distill.options import DistillOptions
from sage_core.distill.state import write_errors
from sage_core.distill.student import EVALUATED_DEPTH, ChainAcceptance, LossOutput, chain_acceptance
from sage_core.distill.teacher import Example, Teacher
from sage_core.errors import ModelError, OptionError
from sage_core.files.atomic_write import replacing_files
from sage_core.models.checkpoint import load_model
from sage_core.models.inputs import cast
from sage_core.models.quiet import quiet
from sage_core.models.shared_vision import find_tower, share_vision

_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "*.pth", "config.json")
_PER_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")


class ModelStudent:
    """Trains a small model; weights with the target's shapes start as copies, others at random.

    Raises:
        OptionError: ``layers`` or ``hidden`` that the target's class does not allow.
        ModelError: no such model can be made.
    """

    def __init__(self, teacher: Teacher, options: DistillOptions) -> None:
        torch.manual_seed(options.seed)
        model = new_model(teacher.target, options.layers, options.hidden)
        self.module = model.to(teacher.target.device)
        if options.recompute:
            older = model.gradient_checkpointing_enable  # its name before transformers 5.23
            getattr(model, "activation_checkpointing_enable", older)({"use_reentrant": False})
            # Otherwise the inputs require gradients, and a frozen tower keeps its activations.
            model.disable_input_require_grads()
        self._teacher, self._options = teacher, options

    def compute_loss(self, example: Example) -> LossOutput:
        loss = distribution_loss(self._options.loss, self._logits(example), example.logits)
        return LossOutput(loss, {self._options.loss: loss.detach()})

    def _logits(self, example: Example) -> Tensor:
        """(L, vocabulary) after each of the answer's tokens."""
        inputs = {name: cast(value, self.module) for name, value in example.inputs.items()}
        hidden = self.module.base_model(**inputs, use_cache=False).last_hidden_state
        logits: Tensor = self.module.get_output_embeddings()(hidden[0, example.prompt_tokens :])
        return logits

    @torch.no_grad()
    def evaluate(self, example: Example) -> ChainAcceptance:
        logits = self._logits(example)
        # A model reads tokens alone, so that its logits along an accepted chain are those of the
        # text.
        return chain_acceptance(
            [logits[k:] for k in range(EVALUATED_DEPTH)][: len(logits)], example.logits
        )

    def save(self, folder: Path) -> None:
        with write_errors(folder), replacing_files(folder) as scratch:
            self._write(scratch)

    def _write(self, folder: Path) -> None:
        # The tokenizer and the image processor are the target's.
        for file in self._teacher.pair.folder.iterdir() if self._teacher.pair.folder else ():
            if file.is_file() and not any(file.match(pattern) for pattern in _WEIGHTS):
                shutil.copy(file, folder / file.name)
        # In the target's dtype, so that a shared tower is equal to the target's bit for bit.
        small = copy.deepcopy(self.module).to(self._teacher.target.dtype)
        small.generation_config = copy.deepcopy(self._teacher.target.generation_config)
        with quiet():  # it has a progress bar
            small.save_pretrained(folder)

    def load(self, folder: Path) -> Any:
        target = self._teacher.target
        dtype = str(target.dtype).removeprefix("torch.")
        draft = load_model(folder, str(target.device), dtype)
        share_vision(target, draft)
        return draft

    def fit_acceptance(self, draft: Any, prompts: Iterable[dict[str, Any]], folder: Path) -> int:
        return 0  # a transformers checkpoint has no acceptance predictor


def new_model(target: Any, layers: int | None, hidden: int | None) -> Any:
    """A small model in float32 for a target, in training mode.

    Weights with the target's shapes are copied; a vision tower that is copied whole is frozen.

    Raises:
        OptionError: ``layers`` or ``hidden`` that the target's class does not allow.
        ModelError: no such model can be made.
    """
    config = small_config(target.config, layers, hidden)
    try:
        model = type(target)(config).float().train()
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(f"no model of these sizes can be made: {error}") from error
    shared = _take_weights(model, target)
    if shared is not None:
        shared.requires_grad_(False).eval()
    return model


def small_config(config: Any, layers: int | None, hidden: int | None) -> Any:
    """The target's configuration with fewer layers, a smaller hidden size, and as many attention
    heads as fit.

    Raises:
        OptionError: ``layers`` or ``hidden`` that the target's class does not allow.
    """
    small = copy.deepcopy(config)
    text = small.get_text_config(decoder=True)
    vision = getattr(small, "vision_config", None)
    bound = getattr(vision, "out_hidden_size", None) == text.hidden_size
    size, count = text.hidden_size, text.num_hidden_layers
    new = hidden or (size if bound else size // 2)
    head = getattr(text, "head_dim", None) or size // text.num_attention_heads
    if new % head:
        raise OptionError(f"hidden must be a multiple of the target's head size, {head}: {new}")
    text.num_hidden_layers = layers or max(1, count // 8)
    if text.num_hidden_layers > count:
        raise OptionError(f"layers must be at most the target's {count}")
    for name in _PER_LAYER:
        if (kinds := getattr(text, name, None)) is not None:
            setattr(text, name, list(kinds)[: text.num_hidden_layers])
    if new != size:
        if vision is not None and bound:
            vision.out_hidden_size = new
        text.hidden_size = new
        text.num_attention_heads = new // head
        text.num_key_value_heads = _fitting(text.num_key_value_heads, new // head)
        # A multiple of 64 where it is large, for the kernels.
        scaled = text.intermediate_size * new // size
        text.intermediate_size = max(scaled // 64 * 64, min(scaled, 64))
    return small


def _fitting(groups: int, heads: int) -> int:
    """The largest divisor of ``heads`` up to ``groups``, the number of key heads."""
    return next(n for n in range(min(groups, heads), 0, -1) if heads % n == 0)


@torch.no_grad()
def _take_weights(model: Any, target: Any) -> Any:
    """Copy weights of equal name and shape.

    Returns:
        The vision tower if all of it was copied, else None.
    """
    known = target.state_dict()
    for name, weight in model.state_dict().items():
        given = known.get(name)
        if given is not None and given.shape == weight.shape and given.is_floating_point():
            weight.copy_(given)
    mine, theirs = find_tower(model)[2], find_tower(target)[2]
    if mine is None or theirs is None:
        return None
    source = theirs.state_dict()
    same = all(source[key].shape == value.shape for key, value in mine.state_dict().items())
    return mine if same else None
