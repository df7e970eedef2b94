"""What `generate` would decode with, obtained from transformers itself.

`generate(custom_generate=...)` merges the checkpoint's generation config with the caller's config
and keyword arguments, builds the logits processors and stopping criteria, and calls the given
function with them. Here that function returns them, so that no config logic is reimplemented.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sage_core.errors import OptionError, UnsupportedError
from sage_core.models.checkpoint_errors import forward_errors
from sage_core.models.quiet import SharedContext


@dataclass(frozen=True)
class Prepared:
    """One prompt, ready for prefill, with its logits processors and stopping criteria."""

    input_ids: Tensor
    """(1, prompt tokens) int64, visual placeholders included."""
    processors: Any
    """A `LogitsProcessorList`, including the warpers if text is sampled."""
    criteria: Any
    """A `StoppingCriteriaList`."""
    config: Any
    """The merged `GenerationConfig`."""
    model_inputs: dict[str, Any]
    """Keyword arguments of the model's forward for the prefill, without a cache."""
    position_offset: int
    """Rotary position of a text token minus its cache index (`rope_deltas` of Qwen-VL)."""
    read: int = 0
    """Length of the prompt's prefix that the target's cache already holds."""

    @property
    def prompt_tokens(self) -> int:
        return int(self.input_ids.shape[1])

    @property
    def unread(self) -> list[int]:
        """The ids after the cached prefix."""
        ids: list[int] = self.input_ids[0, self.read :].tolist()
        return ids


_UNSUPPORTED = (
    *("assistant_model", "custom_generate", "inputs_embeds", "negative_prompt_ids"),
    *("past_key_values", "streamer"),
)
_INSTEAD = {"inputs_embeds": "pass input_ids, which the draft reads as well"}
_GENERATE_ARGUMENTS = {
    *("assistant_model", "custom_generate", "generation_config", "logits_processor"),
    *("negative_prompt_attention_mask", "negative_prompt_ids", "prefix_allowed_tokens_fn"),
    *("stop_strings", "stopping_criteria", "streamer", "synced_gpus", "tokenizer"),
}
_LOOP_ARGUMENTS = (
    *("generation_config", "input_ids", "logits_processor", "past_key_values"),
    *("stopping_criteria", "synced_gpus"),
)
_REFUSED_FIELDS = {
    "num_beams": (1, "beam search is not supported"),
    "num_return_sequences": (1, "one text a prompt"),
    "guidance_scale": (1, "guidance needs a second prompt"),
    "penalty_alpha": (None, "contrastive search"),
    "dola_layers": (None, "DoLa reads inner layers"),
    "token_healing": (None, "it rewrites the prompt"),
    "prompt_lookup_num_tokens": (None, "use a policy"),
    "constraints": (None, "constrained beam search"),
    "force_words_ids": (None, "constrained beam search"),
    "use_mtp": (None, "use a policy"),
    "assistant_early_exit": (None, "use a policy"),
    "prefill_chunk_size": (None, "the prompt is read in one pass"),
}
"""Fields of a generation config that are refused unless they are falsy or have the neutral value;
some versions of transformers lack some of them."""


def split_arguments(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model inputs (ids, masks, pixels) and generation options (fields of `GenerationConfig`,
    ``generation_config``, processors, criteria and so on) among the arguments of `generate`."""
    from transformers import GenerationConfig

    rules = set(GenerationConfig().to_dict()) | _GENERATE_ARGUMENTS
    inputs = {name: value for name, value in arguments.items() if name not in rules}
    return inputs, {name: value for name, value in arguments.items() if name in rules}


def prepare(
    model: Any, inputs: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Prepared:
    """What ``model.generate`` would decode ``inputs`` with, under generation ``options``.

    Decoding is greedy unless the caller asks for sampling, also where the checkpoint samples.

    Raises:
        UnsupportedError: beams, guidance, several prompts, a padded prompt, or any other option
            that cannot be followed exactly.
        OptionError: transformers refuses the options.
    """
    options = {**inputs, **(options or {})}
    refuse_arguments(options)
    _refuse_settings(model, options)
    _take_stop_strings(model, options)
    given = options.get("generation_config")
    if given is None or not given.do_sample:
        options.setdefault("do_sample", False)
    return prepared_by_generate(model, _capture(model, options, inputs))


def prepared_by_generate(model: Any, arguments: dict[str, Any]) -> Prepared:
    """The arguments that `generate` calls a decoding function with, as `Prepared`.

    Raises:
        UnsupportedError: as `prepare`.
    """
    refuse_config(arguments["generation_config"])
    _refuse_batch(arguments["input_ids"], arguments)
    return _prepared(model, arguments)


def prepare_draft(model: Any, inputs: Mapping[str, Any]) -> Prepared:
    """The same prompt for a draft model, whose generation config is irrelevant."""
    plain = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "max_new_tokens": 1}
    return _prepared(model, _capture(model, {**inputs, **plain}, inputs))


def _capture(model: Any, options: dict[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `generate` would call its own loop with.

    `generate` may encode images; ``inputs`` are the forward's, to tell whose error that gives.
    """
    captured: dict[str, Any] = {}

    def capture(model: Any, input_ids: Tensor, **arguments: Any) -> Tensor:
        captured.update(arguments, input_ids=input_ids)
        return input_ids

    try:
        own = forward_errors(lambda: model(**inputs))
        with torch.no_grad(), _quiet_generation_warnings(), own:
            model.generate(**options, custom_generate=capture)
    except ValueError as error:
        raise OptionError(f"transformers refuses this: {' '.join(str(error).split())}") from error
    return captured


def _prepared(model: Any, captured: dict[str, Any]) -> Prepared:
    kwargs = {name: value for name, value in captured.items() if name not in _LOOP_ARGUMENTS}
    input_ids = captured["input_ids"]
    return Prepared(
        input_ids=input_ids,
        processors=captured.get("logits_processor") or [],
        criteria=captured.get("stopping_criteria") or [],
        config=captured["generation_config"],
        model_inputs=kwargs,
        position_offset=_position_offset(model, kwargs, input_ids.shape[1]),
    )


def _take_stop_strings(model: Any, options: dict[str, Any]) -> None:
    """Turn stop strings into a stopping criterion.

    `generate` does not pass the tokenizer on with ``custom_generate`` (transformers 5.23), and
    refuses stop strings without one.
    """
    from transformers import StoppingCriteriaList, StopStringCriteria

    tokenizer = options.pop("tokenizer", None)
    given = options.get("generation_config")
    strings = options.pop("stop_strings", None)
    if given is not None and given.stop_strings is not None:
        options["generation_config"] = given = copy.deepcopy(given)
        strings, given.stop_strings = strings or given.stop_strings, None
    if strings is None:
        if model.generation_config.stop_strings is not None:
            raise UnsupportedError(
                "generation option stop_strings of the checkpoint's own config is not supported: "
                "clear it there, and pass stop_strings with a tokenizer"
            )
        return
    if tokenizer is None:
        raise OptionError("stop_strings needs the tokenizer: pass tokenizer=... as well")
    criteria = StoppingCriteriaList(options.get("stopping_criteria") or [])
    criteria.append(StopStringCriteria(stop_strings=strings, tokenizer=tokenizer))
    options["stopping_criteria"] = criteria


@SharedContext
@contextmanager
def _quiet_generation_warnings() -> Iterator[None]:
    """Hide the warning that greedy decoding ignores the checkpoint's temperature."""
    names = ("configuration_utils", "utils")
    loggers = [logging.getLogger(f"transformers.generation.{name}") for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def refuse_arguments(options: Mapping[str, Any]) -> None:
    """Refuse arguments of `generate` that cannot be followed exactly.

    Raises:
        UnsupportedError: names the argument.
    """
    for name in _UNSUPPORTED:
        if options.get(name) is not None:
            raise UnsupportedError(f"{name} is not supported: {_INSTEAD.get(name, 'leave it out')}")


def refuse_prompt(inputs: Mapping[str, Any]) -> None:
    """Refuse inputs without a prompt of ids.

    Raises:
        OptionError: ``input_ids`` is missing, empty, or no tensor of two dimensions.
    """
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor) or ids.dim() != 2 or not ids.numel():
        raise OptionError(
            "input_ids must be a tensor of shape (1, tokens), as a processor gives it"
        )


def _refuse_settings(model: Any, options: dict[str, Any]) -> None:
    given = options.get("generation_config")
    for source in (given, model.generation_config):
        if getattr(source, "is_assistant", False) or options.get("is_assistant"):
            raise UnsupportedError("generation option is_assistant is not supported: clear it")
    several = options.get("num_return_sequences") or getattr(given, "num_return_sequences", 1)
    if (several or 1) > 1:
        raise UnsupportedError("generation option num_return_sequences is not supported: one text")


def refuse_config(config: Any) -> None:
    """Refuse options that cannot be followed exactly.

    Raises:
        UnsupportedError: names the option.
    """
    for name, (neutral, reason) in _REFUSED_FIELDS.items():
        value = getattr(config, name, None)
        if value and value != neutral:
            raise UnsupportedError(f"generation option {name} is not supported: {reason}")
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(config, name):
            raise UnsupportedError(
                f"generation option {name} is not supported: ids, scores and logits come back"
            )


def _refuse_batch(input_ids: Tensor, kwargs: dict[str, Any]) -> None:
    if input_ids.shape[0] != 1:
        raise UnsupportedError(
            f"{input_ids.shape[0]} prompts in one call are not supported: pass them one by one, or "
            "to generate_batch"
        )
    mask = kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):
        raise UnsupportedError("a padded prompt is not supported: pass it without padding")


def _position_offset(model: Any, kwargs: dict[str, Any], prompt_tokens: int) -> int:
    """Rotary position of the first token after the prompt minus its cache index.

    ``position_ids`` have shape (1, n), or (axes, 1, n) for multi-axis rotary embeddings, where four
    axes begin with plain text positions. Text continues after the greatest rotary position.
    """
    positions = kwargs.get("position_ids")
    if positions is None:
        deltas = getattr(getattr(model, "model", None), "rope_deltas", None)
        return int(deltas.max()) if deltas is not None else 0
    if positions.ndim == 3 and positions.shape[0] == 4:
        positions = positions[1:]
    return int(positions.max()) + 1 - prompt_tokens
