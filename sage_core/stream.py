"""TODO docstring."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sage_core.drafts.ngram import Ngram
from sage_core.engine.batching.scheduler import BatchScheduler
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.engine.results import Stats
from sage_core.media import Clip, Picture, Sampling, open_media
from sage_core.models.detokenize import Detokenizer
from sage_core.models.inputs import cast
from sage_core.models.quiet import memory_errors, quiet
from sage_core.models.weights import MEMORY_ADVICE
from sage_core.options import Options
from sage_core.pair_loading import LoadedPair
from sage_core.trees.policies import spec
from sage_core.trees.steps import Step


@dataclass(frozen=True)
class Result:
    """A finished text with everything about how it came about."""

    text: str
    tokens: tuple[int, ...]
    """Ids of the new tokens, the end token included as `generate` returns it."""
    stats: Stats
    steps: tuple[Step, ...]
    files: tuple[str, ...]
    prompt: str
    finish_reason: str
    """``eos``, ``length``, or ``stop``: another criterion, or closed before the end."""
    policy: str = ""
    """The policy that was used, as `sage_core.trees.policies.parse` reads it."""
    sampling: Mapping[str, Any] | None = None
    """What tokens were drawn by: fields of the generation config, and ``candidates``. None if
    the text is greedy."""
    lossy: str | None = None
    """The lossy rule that drafts were accepted by; None if the text is the model's own."""


def open_files(files: Any, sampling: Sampling) -> list[Picture | Clip]:
    """Open one file or several, of the kinds that `Pipeline.stream` takes.

    Raises:
        InputError: one cannot be read.
    """
    sources = [files] if _is_one(files) else list(files)
    with memory_errors("while opening the files", "give fewer or smaller ones"):
        return [open_media(source, sampling) for source in sources]


def _is_one(files: Any) -> bool:
    single = str | os.PathLike | bytes | bytearray | Picture | Clip
    return isinstance(files, single) or hasattr(files, "getexif") or hasattr(files, "read")


class Stream(Iterator[Step]):
    """One text as it is decoded: iterate it for the steps as they happen."""

    def __init__(
        self,
        pair: LoadedPair,
        inputs: dict[str, Any],
        options: Options,
        files: tuple[str, ...],
        prompt: str,
        media_seconds: float,
        reading: PrefixReuse | None = None,
        table: BatchScheduler | None = None,
    ) -> None:

        self.files = files
        self.prompt = prompt
        self._tokenizer = pair.family.tokenizer
        self._media_seconds = media_seconds
        self._steps: list[Step] = []
        self._detokenizer = Detokenizer(self._tokenizer)
        policy = options.policy
        lookup = pair.lookup or (Ngram() if options.draft_lookup else None)
        if pair.draft is None and lookup is None and policy == "sage":
            policy = "autoregressive"  # the default needs a draft; another policy is refused
        decoder = SpeculativeDecoder(
            pair.target,
            pair.draft,
            policy,
            options.pruning(),
            lookup=lookup,
            candidates=options.candidates,
            runner=pair.runners,
            draft_vocab=pair.reduced,
            lossy=options.lossy,
            viskip=options.viskip,
        )
        if table is not None:
            decoder = table.attach(decoder)
        self.policy = spec(decoder.policy)
        self.lossy = None if decoder.lossy is None else str(decoder.lossy)
        settings = {**options.generation, **options.sampling_params().generation_fields()}
        settings["max_new_tokens"] = options.max_new_tokens
        if "stop_strings" in settings:
            settings["tokenizer"] = self._tokenizer
        if options.json_schema is not None:
            from sage_core.generation.json_schema import schema_processors

            rules = schema_processors(options.json_schema, pair.target, self._tokenizer, inputs)
            settings["logits_processor"] = rules
        inputs = {k: cast(v, pair.target) for k, v in inputs.items()}
        self._run = decoder.stream(reading=reading, seed=options.seed, **inputs, **settings)
        self._closed = False

    @property
    def text(self) -> str:
        """The text so far, without special tokens; an incomplete character is held back."""
        return self._detokenizer.text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Ids of the new tokens so far."""
        return tuple(token for step in self._steps for token in step.tokens)

    @property
    def finish_reason(self) -> str:
        """As `Result.finish_reason`; ``stop`` while the text goes on."""
        return self._run.finish_reason or "stop"

    def token_text(self, token_id: int) -> str:
        """One token as text, for drawing trees; special tokens by their names."""
        return self._detokenizer.token_text(token_id)

    def __next__(self) -> Step:
        if self._closed:
            raise StopIteration
        try:
            with memory_errors("while decoding", MEMORY_ADVICE + ", or fewer frames"):
                if self._steps:
                    step = next(self._run)
                else:  # the prefill is where the libraries have advice to give
                    with quiet():
                        step = next(self._run)
        except StopIteration:
            self._detokenizer.finish()
            raise
        self._steps.append(step)
        self._detokenizer.push(step.tokens)
        if step.finished:
            self._detokenizer.finish()
        return step

    def result(self) -> Result:
        """Decode what is left, unless closed, and give the whole."""
        for _ in self:
            pass
        return Result(
            text=self.text,
            tokens=self.tokens,
            stats=replace(self._run.stats(), media_seconds=self._media_seconds),
            steps=tuple(self._steps),
            files=self.files,
            prompt=self.prompt,
            finish_reason=self.finish_reason,
            policy=self.policy,
            sampling=self._run.sampling,
            lossy=self.lossy,
        )

    def close(self) -> None:
        """Stop here: no more steps come, and `result` gives what there is."""
        self._closed = True
        self._detokenizer.finish()
