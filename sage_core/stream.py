"""The stream of one text's steps, and its result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sage_core.drafts.vocab.reduced_lm_head import ReducedHead, reduced_head
from sage_core.drafts.vocab.token_list import Asked, resolve
from sage_core.engine.costs.store import CostStore
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.model_check import ModelChecks
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.engine.results import Stats
from sage_core.engine.session import DecodingSession
from sage_core.engine.text_limits import refuse_long_prompt
from sage_core.generation.json_schema import schema_processors
from sage_core.generation.text_rules import named_thoughts
from sage_core.media import Clip, Opener, Picture, Sampling, open_media
from sage_core.models.detokenize import Detokenizer
from sage_core.models.inputs import cast, visual_mask
from sage_core.models.quiet import memory_errors, quiet
from sage_core.models.thinking import opened_thought
from sage_core.models.weights import MEMORY_ADVICE
from sage_core.options import Options
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.cpu.executor import CpuBackend
from sage_core.runtime.passes import Passes
from sage_core.trees.pass_costs import TYPICAL
from sage_core.trees.policies import spec
from sage_core.trees.steps import Step

RETRY_PENALTY = 1.2
"""The repetition penalty of a second attempt, times the one of the first."""
_CONTEXT = 16
"""Tokens at the end of a prompt that are looked at."""


@dataclass(frozen=True)
class Result:
    """A finished text with its statistics."""

    text: str
    tokens: tuple[int, ...]
    """Ids of the new tokens, the end token included as in `generate`."""
    stats: Stats
    steps: tuple[Step, ...]
    files: tuple[str, ...]
    prompt: str
    finish_reason: str
    """``eos``; ``length``: cut at ``max_new_tokens``; ``repetition``: it repeats itself, with
    ``stop_repetition``; or ``stop``: another criterion, or closed before the end."""
    policy: str = ""
    """The policy, as `sage_core.trees.policies.parse` reads it."""
    sampling: Mapping[str, Any] | None = None
    """Sampling fields of the generation config, and ``candidates``; None if the text is greedy."""
    lossy: str | None = None
    """The lossy rule of acceptance; None if the text is the model's own."""
    context_reached: int | None = None
    """The target's context in tokens, if prompt and text have filled it; else None."""
    reproducible: bool = True
    """Whether an equal run gives an equal text. In bfloat16 and float16 the shape of trees decides
    between tokens that are tied up to rounding: there, only if trees follow no measured costs."""
    edits: Mapping[str, Any] | None = None
    """The options by which the text is not the model's plain one, see `TextRules`, and
    ``json_schema``; with ``retried``, ``repetition_penalty`` and ``discarded_tokens`` of a text
    that was decoded again. None without any. ``tokens`` are as decoded."""


def open_files(files: Any, sampling: Sampling, opener: Opener = open_media) -> list[Picture | Clip]:
    """Open one file or several with ``opener``, as for `Pipeline.stream`.

    Raises:
        InputError: one cannot be read.
    """
    sources = [files] if is_one_file(files) else list(files)
    with memory_errors("while opening the files", "give fewer or smaller ones"):
        return [opener(source, sampling) for source in sources]


def is_one_file(files: Any) -> bool:
    single = str | os.PathLike | bytes | bytearray | Picture | Clip
    return isinstance(files, single) or hasattr(files, "getexif") or hasattr(files, "read")


class Decoders:
    """Makes the decoders of a pair's requests.

    Keeps what they share: packed weights and traces, pass costs, and the latest reduced vocabulary.

    Args:
        pair: the loaded models.
        costs: of passes; None: a store in memory.
    """

    def __init__(self, pair: LoadedPair, costs: CostStore | None = None) -> None:
        self.checks = ModelChecks()
        self.checks.know(pair.target, pair.verdict)
        self.backend = CpuBackend()
        self.costs = costs or CostStore()
        self._pair = pair
        self._reduced: tuple[Any, ReducedHead | None] = (None, None)

    def of(self, options: Options) -> SpeculativeDecoder:
        """The decoder for a request's options.

        Raises:
            OptionError, InputError, ModelError, UnsupportedError: see `SpeculativeDecoder` and
                `drafts.vocab.token_list.resolve`.
        """
        pair, values = self._pair, options.extensions
        if pair.lookup is not None:
            values["lookup"] = pair.lookup
        values["draft_vocab"] = self.reduced(values["draft_vocab"])
        return SpeculativeDecoder(
            pair.target,
            pair.draft,
            options.policy,
            options.pruning(),
            TYPICAL if options.reproducible else self.costs,
            options.candidates,
            self.backend,
            checks=self.checks,
            phase_times=options.phase_times,
            **values,
        )

    def reduced(self, asked: Asked) -> ReducedHead | None:
        """The draft's output head for a draft vocabulary; None for the whole one."""
        if self._reduced[0] != asked:
            pair = self._pair
            vocab = resolve(asked, pair.target_id, pair.folder, pair.family.tokenizer)
            head = None if vocab is None else reduced_head(pair.target, pair.draft, vocab)
            self._reduced = asked, head
        return self._reduced[1]


class Stream(Iterator[Step]):
    """The decoding of one text: iterate it for the steps as they happen."""

    def __init__(
        self,
        decoder: SpeculativeDecoder,
        tokenizer: Any,
        inputs: dict[str, Any],
        options: Options,
        files: tuple[str, ...],
        prompt: str,
        media_seconds: float,
        reuse: PrefixReuse | None = None,
    ) -> None:
        self.files = files
        self.prompt = prompt
        self._media_seconds = media_seconds
        self._tokenizer = tokenizer
        self._options = options
        self._rules = options.text_rules()
        self._ids = inputs["input_ids"]
        self.policy = spec(decoder.settings.policy)
        self.lossy = decoder.settings.lossy
        self.reproducible = decoder.settings.reproducible
        target = decoder.settings.target
        visual = int(visual_mask(target.config, self._ids).sum())
        refuse_long_prompt(target.config, self._ids.shape[1], visual)
        self._opened = "" if self._rules.start else opened_thought(self._end_of_prompt())
        self._inputs = {name: cast(value, target) for name, value in inputs.items()}
        self._reuse = reuse
        self._settings = decoder.settings
        self._retried: dict[str, Any] = {}
        self._retry_seconds = 0.0
        self._closed = False
        self._begin()

    def _begin(self, **more: Any) -> None:
        """Begin decoding, with ``more`` generation options."""
        options, settings, target = self._options, self._settings, self._settings.target
        self._steps: list[Step] = []
        self._detokenizer = self._new_detokenizer()
        rules = {**options.generation, **options.sampling_params().generation_fields(), **more}
        rules["max_new_tokens"] = options.max_new_tokens
        if criteria := self._criteria():
            rules["stopping_criteria"] = criteria
        if "stop_strings" in rules:
            rules["tokenizer"] = self._tokenizer
        if options.json_schema is not None:
            rules["logits_processor"] = schema_processors(
                options.json_schema, target, self._tokenizer, self._inputs
            )
        self._session = DecodingSession(
            settings, self._inputs, rules, reuse=self._reuse, seed=options.seed
        )

    def _new_detokenizer(self) -> Detokenizer:
        before = self._ids[0, -_CONTEXT:].tolist() if self._rules.start else ()
        named = named_thoughts(self._tokenizer) if self._rules.strip_thinking else None
        return Detokenizer(self._tokenizer, before, named)

    def _criteria(self) -> Any:
        """Stopping criteria about the text."""
        from transformers import StoppingCriteriaList

        from sage_core.generation.text_criteria import Repetition, Sentences

        rules, prompt_tokens = self._rules, int(self._ids.shape[1])
        criteria = StoppingCriteriaList()
        if rules.stop_repetition:
            criteria.append(Repetition(prompt_tokens))
        if rules.max_sentences is not None:
            answer = partial(rules.answer, opened=self._opened)
            detokenizer = self._new_detokenizer()
            criteria.append(Sentences(prompt_tokens, rules.max_sentences, detokenizer, answer))
        return criteria

    def _end_of_prompt(self) -> str:
        ids = self._ids[0, -_CONTEXT:].tolist()
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def _try_again(self) -> bool:
        """Begin again, once, if the text repeats itself and that is asked for."""
        session, rules = self._session, self._rules
        if not rules.retry or self._retried or session.finish_reason != "repetition":
            return False
        own = getattr(self._settings.target.generation_config, "repetition_penalty", None)
        given = self._options.generation.get("repetition_penalty") or own or 1.0
        penalty = round(given * RETRY_PENALTY, 3)
        self._retried = {"repetition_penalty": penalty, "discarded_tokens": len(self.tokens)}
        self._retry_seconds = session.stats().wall_seconds
        del session, self._session  # its caches, before there are new ones
        self._begin(repetition_penalty=penalty)
        return True

    @property
    def text(self) -> str:
        """The text so far as it is decoded, without special tokens and without an incomplete last
        character; `Result.text` is what `TextRules` leave of it."""
        return self._detokenizer.text

    @property
    def tokens(self) -> tuple[int, ...]:
        """Ids of the new tokens so far."""
        return tuple(token for step in self._steps for token in step.tokens)

    @property
    def finish_reason(self) -> str:
        """As `Result.finish_reason`; ``stop`` before the end."""
        return self._session.finish_reason or "stop"

    def token_text(self, token_id: int) -> str:
        """One token as text, special tokens by their names, for drawing trees."""
        return self._detokenizer.token_text(token_id)

    def __next__(self) -> Step:
        if self._closed:
            raise StopIteration
        try:
            with _memory_errors():
                self._try_again()
                # Libraries print advice in the prefill.
                with nullcontext() if self._steps else quiet():
                    step = next(self._session)
        except StopIteration:
            self._detokenizer.finish()
            raise
        self._take(step)
        return step

    def passes(self) -> Passes[Result]:
        """Decode to the end; the passes are yielded."""
        with _memory_errors():
            while True:
                while (step := (yield from self._session.next_step())) is not None:
                    self._take(step)
                if not self._try_again():
                    return self.result()

    def _take(self, step: Step) -> None:
        self._steps.append(step)
        self._detokenizer.push(step.tokens)
        if step.finished:
            self._detokenizer.finish()

    def result(self) -> Result:
        """Decode to the end, unless closed, and return the whole text."""
        for _ in self:
            pass
        ended = self.finish_reason == "eos"
        stats = self._session.stats()
        return Result(
            text=self._rules.apply(self.text, self._opened, ended=ended),
            tokens=self.tokens,
            stats=replace(
                stats,
                media_seconds=self._media_seconds,
                wall_seconds=stats.wall_seconds + self._retry_seconds,
            ),
            steps=tuple(self._steps),
            files=self.files,
            prompt=self.prompt,
            finish_reason=self.finish_reason,
            policy=self.policy,
            sampling=self._session.sampling,
            lossy=self.lossy,
            context_reached=self._session.context_reached,
            reproducible=self.reproducible,
            edits=self._edits(),
        )

    def _edits(self) -> dict[str, Any] | None:
        edits = self._rules.used
        if self._options.json_schema is not None:
            edits["json_schema"] = True
        if self._retried:
            edits["retried"] = self._retried
        return edits or None

    def close(self) -> None:
        """Stop decoding; `result` returns the text so far."""
        self._closed = True
        self._detokenizer.finish()


def _memory_errors() -> AbstractContextManager[None]:
    return memory_errors("while decoding", MEMORY_ADVICE + ", or fewer frames")
