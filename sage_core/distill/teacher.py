"""The frozen target as teacher: it writes missing answers and reads samples for the student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from sage_core.distill.data import Sample
from sage_core.distill.options import DistillOptions
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import InputError, OptionError
from sage_core.media import Clip, open_media
from sage_core.models.inputs import IMAGE_PROMPT, VIDEO_PROMPT, cast, on_device, visual_mask
from sage_core.models.parts import decoder_of
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.cpu.executor import CpuBackend

T = TypeVar("T")
CACHE_BYTES = 512 * 1024**2
"""Bytes of examples kept in memory: with a small target and few samples the target reads each
sample once, with a large one at every use."""


@dataclass(frozen=True, eq=False)
class Example:
    """A sample as the target reads it: n tokens, the prompt and the answer without its last token.

    Nothing is learned from what follows the last token, so that the target has a next token for
    each token here.
    """

    inputs: dict[str, Any]
    prompt_tokens: int
    features: Tensor
    """(1, n, size): the decoder's last hidden states, after its final norm."""
    embeds: Tensor
    """(1, n, size): the decoder's input embeddings, those of the vision tower included."""
    visual: Tensor
    """bool (n,): which tokens are visual."""
    positions: Tensor
    """(1, n) or (axes, 1, n): rotary positions."""
    logits: Tensor
    """(L, vocabulary): the target's logits after each of the L answer tokens."""

    @property
    def tokens(self) -> int:
        return int(self.features.shape[1])

    @property
    def answer_tokens(self) -> int:
        return self.tokens - self.prompt_tokens

    @property
    def bytes(self) -> int:
        tensors = [self.features, self.embeds, self.logits, *self.inputs.values()]
        return sum(one.nbytes for one in tensors if isinstance(one, Tensor))

    @property
    def answer_features(self) -> Tensor:
        """(L, size): at the answer's tokens."""
        return self.features[0, self.prompt_tokens :]


class Teacher:
    """Makes an `Example` of a sample; the same one each time, as answers are drawn under a seed.

    The target's weights require no gradients from here on. Answers that it wrote are kept in
    memory; nothing is stored.

    Args:
        pair: the target; its draft, if any, speeds up writing.
        samples: all samples, by index.
        cache_bytes: examples are kept while they fit.
    """

    def __init__(
        self,
        pair: LoadedPair,
        samples: Sequence[Sample],
        options: DistillOptions,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.pair = pair
        self.backend = CpuBackend()
        self.target = pair.target.requires_grad_(False)
        self._samples = samples
        self._options = options
        self._answers: dict[int, Tensor] = {}
        self._examples: dict[int, Example] = {}
        self._cache_left = cache_bytes
        self._head = self.target.get_output_embeddings()
        policy = "autoregressive" if pair.draft is None else "sage"
        self._writer = self.decoder(pair.draft, policy)

    def decoder(self, draft: Any, policy: str = "sage") -> SpeculativeDecoder:
        return SpeculativeDecoder(self.target, draft, policy, backend=self.backend)

    @property
    def hidden_size(self) -> int:
        return int(decoder_of(self.target).config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the target's output head is, and the student."""
        device: torch.device = self._head.weight.device
        return device

    def logits(self, features: Tensor) -> Tensor:
        """(n, vocabulary): the target's output head on features (n, size)."""
        logits: Tensor = self._head(features.to(self._head.weight.dtype))
        return logits

    def prompt(self, index: int) -> dict[str, Any]:
        """A sample's prompt as inputs of the target's forward, on its device.

        Raises:
            InputError, OptionError: its media or its prompt cannot be used.
        """
        inputs = {k: cast(v, self.target) for k, v in self._read(index).items()}
        return on_device(inputs, self.device)

    def _read(self, index: int) -> dict[str, Any]:
        """A sample's prompt on the CPU in float32."""
        from sage_core.options import Options

        family, sample = self.pair.family, self._samples[index]
        sampling = Options(max_pixels=self._options.max_pixels).sampling(family.sampling)
        media = [open_media(file, sampling) for file in sample.files]
        video = any(isinstance(one, Clip) for one in media)
        if sample.prompt is not None:
            family.check_text(sample.prompt, f"{sample.name}: the prompt")
        return family.prepare(media, sample.prompt or (VIDEO_PROMPT if video else IMAGE_PROMPT))

    def given_answer(self, index: int) -> Tensor | None:
        """int64 (tokens,): the sample's own answer with an end token, or None if it has none."""
        given = self._samples[index].answer
        if given is None:
            return None
        self.pair.family.check_text(given, f"{self._samples[index].name}: the answer")
        ids = self.pair.family.encode_more(given)[: self._options.max_new_tokens - 1]
        ends = self.target.generation_config.eos_token_id
        end = ends[0] if isinstance(ends, list) else ends
        return torch.tensor([*ids, *([end] if end is not None else [])], dtype=torch.int64)

    def answer(self, index: int, inputs: dict[str, Any]) -> Tensor:
        """int64 (tokens,): the sample's own answer, or the one that the target writes to its
        prompt ``inputs``: greedy, or drawn under a seed of the sample."""
        if index not in self._answers:
            self._answers[index] = self._answer(index, inputs)
        return self._answers[index]

    def _answer(self, index: int, inputs: dict[str, Any]) -> Tensor:
        if (given := self.given_answer(index)) is not None:
            return given
        settings: dict[str, Any] = {"max_new_tokens": self._options.max_new_tokens}
        if self._options.temperature > 0:
            settings |= {"do_sample": True, "temperature": self._options.temperature}
            settings["seed"] = self._options.seed * 1_000_003 + index
        written = self._writer.generate(**inputs, **settings).sequences
        return written[0, inputs["input_ids"].shape[1] :].cpu().clone()

    def example(self, index: int) -> Example:
        """The sample with its answer as the target reads it, from memory if it is kept.

        Raises:
            InputError, OptionError: the sample cannot be used.
        """
        if index in self._examples:
            return self._examples[index]
        example = self._example(index)
        if example.bytes <= self._cache_left:
            self._cache_left -= example.bytes
            self._examples[index] = example
        return example

    @torch.no_grad()
    def _example(self, index: int) -> Example:
        inputs = self.prompt(index)
        answer = self.answer(index, inputs)
        if len(answer) < 2:
            name = self._samples[index].name
            raise InputError(f"{name}: the answer has fewer than 2 tokens: nothing to learn from")
        read = _with_answer(inputs, answer[:-1])
        with _recorded(decoder_of(self.target)) as seen:
            self.target.base_model(**read, use_cache=False)
        features, ids = seen["output"].last_hidden_state, read["input_ids"]
        embeds, positions = seen.get("inputs_embeds"), seen.get("position_ids")
        if embeds is None:
            embeds = self.target.get_input_embeddings()(ids)
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        p = int(inputs["input_ids"].shape[1])
        return Example(
            inputs=read,
            prompt_tokens=p,
            features=features,
            embeds=embeds,
            visual=visual_mask(self.target.config, ids)[0],
            positions=positions,
            logits=self.logits(features[0, p:]),
        )


def usable(
    read: Callable[[int], T],
    indices: Iterable[int],
    left_out: Callable[[Exception], None] | None = None,
) -> Iterator[tuple[int, T]]:
    """``(index, read(index))`` of the samples that can be used; ``left_out`` gets other errors."""
    for index in indices:
        try:
            found = read(index)
        except (InputError, OptionError) as error:
            if left_out is not None:
                left_out(error)
            continue
        yield index, found


def _with_answer(inputs: dict[str, Any], answer: Tensor) -> dict[str, Any]:
    """The prompt's inputs followed by an answer of text tokens."""
    ids = inputs["input_ids"]
    more = answer.to(ids.device)[None]
    longer = dict(inputs)
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.shape == ids.shape:
            added = more if name == "input_ids" else torch.zeros_like(more)
            added = torch.ones_like(more) if name == "attention_mask" else added
            longer[name] = torch.cat([value, added.to(value.dtype)], dim=1)
    return longer


@contextmanager
def _recorded(decoder: Any) -> Iterator[dict[str, Any]]:
    """The keyword arguments of ``decoder``'s forward while this is open, and its ``output``."""
    seen: dict[str, Any] = {}

    def record(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        seen.update(kwargs, output=output)

    handle = decoder.register_forward_hook(record, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
