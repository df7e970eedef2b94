"""`custom_generate`: speculative decoding within transformers' `generate`, by one argument."""

from __future__ import annotations

import inspect
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation.utils import GenerateDecoderOnlyOutput

from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.batching.padded import is_padded, pad_texts, split_prompts
from sage_core.engine.costs.store import CostStore
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.model_check import ModelChecks
from sage_core.engine.session import DecodingSession
from sage_core.errors import UnsupportedError
from sage_core.generation.prepare import prepared_by_generate, refuse_arguments
from sage_core.runtime.cpu.executor import CpuBackend
from sage_core.trees.pass_costs import TYPICAL
from sage_core.trees.policy import Policy


class CustomGenerate:
    """A decoding function for ``model.generate(custom_generate=...)``; `custom_generate` is one.

    It keeps packed weights, traces and pass costs of models in use for later calls. Nothing is
    stored on the models.
    """

    __name__ = "custom_generate"

    def __init__(self) -> None:
        self._backend = CpuBackend()
        self._costs = CostStore()
        self._checks = ModelChecks()

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        *,
        draft_model: Any = None,
        policy: str | Policy = "sage",
        pruning: Pruning | None = None,
        candidates: str = "topk",
        seed: int | None = None,
        draft_vocab: Any = None,
        lookup: Any = None,
        lossy: Any = None,
        viskip: float | None = None,
        reproducible: bool = False,
        **arguments: Any,
    ) -> Any:
        """Decode by speculation within ``model.generate(custom_generate=custom_generate)``.

        Further arguments of that call:

        - ``draft_model``: the draft, a loaded transformers model with the same tokenizer;
        - ``policy``, ``pruning``, ``candidates``, ``draft_vocab``, ``lookup``, ``lossy``,
          ``viskip``: as for `SpeculativeDecoder`; with ``lossy`` the text may differ from the one
          of `generate`;
        - ``reproducible``: trees follow fixed costs: equal runs give equal texts in 16 bits too;
        - ``seed``: of a sampled text; without one torch's global generator is used, so that after
          ``torch.manual_seed`` the text is the one of `generate`.

        The generation config is followed, sampling included; processors, stopping criteria and a
        streamer work. Stop strings do not, because transformers (5.23) does not pass the tokenizer
        on; a `StopStringCriteria` among the stopping criteria does.

        Several prompts, padded on the left, are decoded together, each as it would be alone,
        without its padding, and with the same ``seed``. (The padded batch of `generate` itself may
        differ by rounding, or where a rule counts the padding.)

        Returns:
            As `generate`: (B, prompt + new tokens) ids or, with ``return_dict_in_generate``, a
            `GenerateDecoderOnlyOutput` without a cache.

        Raises:
            OptionError: no draft, an unknown policy, padding on the right.
            UnsupportedError: what cannot be followed exactly: beams, a streamer for several
                prompts, images that cannot be assigned to prompts...
        """
        call = _call_of_generate()
        given = call.get("kwargs", {})
        refuse_arguments(given)
        config = arguments["generation_config"]
        streamer = arguments.pop("streamer", None) or call.get("streamer")
        decoder = SpeculativeDecoder(
            model,
            draft_model,
            policy,
            pruning,
            TYPICAL if reproducible else self._costs,
            candidates,
            self._backend,
            checks=self._checks,
            draft_vocab=draft_vocab,
            lookup=lookup,
            lossy=lossy,
            viskip=viskip,
        )
        if is_padded(input_ids, arguments):
            if streamer is not None:
                raise UnsupportedError(
                    "a streamer works with one prompt without padding: pass prompts one by one, or "
                    "leave it out"
                )
            return _batch(decoder, input_ids, arguments, call, seed)
        prepared = prepared_by_generate(model, {**arguments, "input_ids": input_ids})
        prompt = {**_inputs_of(arguments), **given, "input_ids": input_ids}
        session = decoder.stream(prepared=prepared, seed=seed, **prompt)
        _run(session, streamer)
        output = session.output()
        return _returned(config, output.sequences, output.scores, output.logits)


custom_generate = CustomGenerate()


def _batch(
    decoder: SpeculativeDecoder,
    input_ids: Tensor,
    arguments: dict[str, Any],
    call: dict[str, Any],
    seed: int | None,
) -> Any:
    """Decode several prompts, or one with padding, in shared passes."""
    prompts = split_prompts(decoder.settings.target, input_ids, arguments, call)
    alone = any(one.single_text for one in decoder.settings.extensions)
    outputs = decoder.generate_batch(prompts, 1 if alone else None, seed=seed)
    config = arguments["generation_config"]
    return _returned(config, *pad_texts(outputs, input_ids, config))


def _returned(
    config: Any,
    sequences: Tensor,
    scores: tuple[Tensor, ...] | None,
    logits: tuple[Tensor, ...] | None,
) -> Any:
    """Ids or the dict output, by the config."""
    if not config.return_dict_in_generate:
        return sequences
    # Clones, because tensors made in inference mode are restricted in use.
    records: dict[str, Any] = {
        name: record and tuple(values.clone() for values in record)
        for name, record in (("scores", scores), ("logits", logits))
    }
    return GenerateDecoderOnlyOutput(sequences=sequences, **records)  # type: ignore[arg-type]


def _run(session: DecodingSession, streamer: Any) -> None:
    """Decode to the end; a streamer gets tokens one by one, as from `generate`."""
    for step in session:
        if streamer is not None:
            for token in step.tokens:
                streamer.put(torch.tensor([token]))
    if streamer is not None:
        streamer.end()


def _inputs_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The inputs among the arguments of a decoding function, without what is the target's only."""
    own = ("position_ids", "past_key_values", "mm_encoder_outputs", "logits_to_keep", "use_cache")
    return {
        name: value
        for name, value in arguments.items()
        if isinstance(value, Tensor) and name not in own
    }


def _call_of_generate() -> dict[str, Any]:
    """The arguments of the `generate` that calls the decoding function; empty without one.

    `generate` (transformers 5.17 to 5.23) does not pass on two of them: the streamer, after putting
    the prompt into it, and images before the target has encoded them, which the draft encodes with
    its own weights. So both are read from the frame of that call.
    """
    code = inspect.unwrap(GenerationMixin.generate).__code__
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return {} if frame is None else dict(frame.f_locals)
