"""The frozen target: it writes the answers that are missing, and reads samples for the student."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sage_core.distill.data import Sample
from sage_core.distill.options import DistillOptions
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import InputError
from sage_core.media import Clip, open_media
from sage_core.models.families import Family
from sage_core.models.inputs import IMAGE_PROMPT, VIDEO_PROMPT, cast, on_device
from sage_core.models.visual_tokens import visual_mask
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.cpu.executor import CpuBackend

__all__ = ["KEPT", "Example", "Teacher", "read_prompt"]

KEPT = 512 * 1024**2
"""Bytes of lessons kept in memory: all of a small run's, so that the target reads them once, and
next to none of a large model's."""


@dataclass(frozen=True, eq=False)
class Example:
    """One sample as the target reads it, n tokens: the prompt and the answer without its last.

    What follows the last token is nothing to learn, so every token here has a target's choice.
    """

    inputs: dict[str, Any]
    """What the target's forward was given."""
    prompt_tokens: int
    features: Tensor
    """(1, n, size): the decoder's last hidden states, after its final norm."""
    embeds: Tensor
    """(1, n, size): what the decoder was given; a picture's rows are what its tower gave."""
    visual: Tensor
    """bool (n,): which tokens stand for pictures."""
    positions: Tensor
    """(1, n) or (axes, 1, n): rotary positions."""
    logits: Tensor
    """(L, vocabulary): the target's, behind each of the answer's L tokens."""

    @property
    def tokens(self) -> int:
        return int(self.features.shape[1])

    @property
    def answer_tokens(self) -> int:
        return self.tokens - self.prompt_tokens

    @property
    def bytes(self) -> int:
        """Of its tensors, where they are."""
        held = [self.features, self.embeds, self.logits, *self.inputs.values()]
        return sum(one.nbytes for one in held if isinstance(one, Tensor))

    @property
    def answer_features(self) -> Tensor:
        """(L, size): at each of the answer's tokens."""
        return self.features[0, self.prompt_tokens :]


class Teacher:
    """Makes lessons of samples; the same sample gives the same lesson under a seed.

    The target's weights ask for no gradients from here on. Answers it has written are kept in
    memory, and lessons while they fit into `KEPT`; nothing is stored.

    Args:
        pair: the target; its draft, if any, makes writing faster.
        samples: all of them.
        options: of the run.
    """

    def __init__(
        self, pair: LoadedPair, samples: Sequence[Sample], options: DistillOptions
    ) -> None:
        self.pair = pair
        self.backend = CpuBackend()
        self.target = pair.target.requires_grad_(False)
        self._samples = samples
        self._options = options
        self._answers: dict[int, Tensor] = {}
        self._lessons: dict[int, Example] = {}
        self._room = KEPT
        self._head = self.target.get_output_embeddings()
        policy = "autoregressive" if pair.draft is None else "sage"
        self._writer = self.decoder(pair.draft, policy)

    def decoder(self, draft: Any, policy: str = "sage") -> SpeculativeDecoder:
        """The target with a draft, run as `sage_core.load` runs them."""
        return SpeculativeDecoder(self.target, draft, policy, backend=self.backend)

    @property
    def hidden_size(self) -> int:
        return int(self.target.get_decoder().config.hidden_size)

    def logits(self, features: Tensor) -> Tensor:
        """(rows, vocabulary) of the target's own output head, for predicted features too."""
        logits: Tensor = self._head(features.to(self._head.weight.dtype))
        return logits

    def prompt(self, index: int) -> dict[str, Any]:
        """A sample's prompt as the target's forward takes it, on its device.

        Raises:
            InputError, OptionError: its media or its prompt cannot be used.
        """
        inputs = {k: cast(v, self.target) for k, v in self._read(index).items()}
        return on_device(inputs, self._head.weight.device)

    def _read(self, index: int) -> dict[str, Any]:
        """A sample's prompt on the CPU in float32."""
        return read_prompt(self.pair.family, self._samples[index], self._options.max_pixels)

    def answer(self, index: int, inputs: dict[str, Any]) -> Tensor:
        """int64 (tokens,): the sample's answer with its end, written by the target if it has none.

        Greedy, or drawn under a seed of the sample's own.
        """
        if index not in self._answers:
            self._answers[index] = self._answer(index, inputs)
        return self._answers[index]

    def _answer(self, index: int, inputs: dict[str, Any]) -> Tensor:
        given = self._samples[index].answer
        if given is not None:
            ids = self.pair.family.encode_more(given)[: self._options.max_new_tokens - 1]
            ends = self.target.generation_config.eos_token_id
            end = ends[0] if isinstance(ends, list) else ends
            return torch.tensor([*ids, *([end] if end is not None else [])], dtype=torch.int64)
        settings: dict[str, Any] = {"max_new_tokens": self._options.max_new_tokens}
        if self._options.temperature > 0:
            seed = self._options.seed * 1_000_003 + index
            warm = {"do_sample": True, "temperature": self._options.temperature, "seed": seed}
            settings |= warm
        written = self._writer.generate(**inputs, **settings).sequences
        return written[0, inputs["input_ids"].shape[1] :].cpu().clone()

    def example(self, index: int) -> Example:
        """The target's reading of a sample with its answer.

        Raises:
            InputError, OptionError: the sample cannot be used.
        """
        if index in self._lessons:
            return self._lessons[index]
        example = self._example(index)
        if example.bytes <= self._room:
            self._room -= example.bytes
            self._lessons[index] = example
        return example

    @torch.no_grad()
    def _example(self, index: int) -> Example:
        inputs = self.prompt(index)
        answer = self.answer(index, inputs)
        if len(answer) < 2:
            raise InputError(f"{self._samples[index].name}: the answer is too short to learn from")
        read = _continued(inputs, answer[:-1])
        with _watched(self.target.get_decoder()) as seen:
            self.target.base_model(**read, use_cache=False)
        features = seen["output"].last_hidden_state
        ids = read["input_ids"]
        embeds = seen.get("inputs_embeds")
        positions = seen.get("position_ids")
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


def read_prompt(family: Family, sample: Sample, max_pixels: int | None) -> dict[str, Any]:
    """A sample's prompt as the target's forward takes it, on the CPU in float32.

    Raises:
        InputError, OptionError: its media or its prompt cannot be used.
    """
    from sage_core.options import Options

    sampling = Options(max_pixels=max_pixels).sampling(family.sampling)
    media = [open_media(file, sampling) for file in sample.files]
    clip = any(isinstance(one, Clip) for one in media)
    return family.prepare(media, sample.prompt or (VIDEO_PROMPT if clip else IMAGE_PROMPT))


def _continued(inputs: dict[str, Any], answer: Tensor) -> dict[str, Any]:
    """The prompt's inputs with an answer behind it: text, seen, and of no picture."""
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
def _watched(decoder: Any) -> Iterator[dict[str, Any]]:
    """While open, what ``decoder`` is given by name, and its ``output``."""
    seen: dict[str, Any] = {}

    def note(_module: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        seen.update(kwargs, output=output)

    handle = decoder.register_forward_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
