"""Conversations about files: each turn reads new tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.errors import OptionError
from sage_core.media import Clip, Opener, Picture, open_media
from sage_core.models.families.base import Turn
from sage_core.models.inputs import cast
from sage_core.models.quiet import memory_errors
from sage_core.options import Options
from sage_core.pair_loading import LoadedPair
from sage_core.stream import Result, Stream, open_files

NEW_FILES = "new files: the conversation is read again from its start"
REWRITTEN = "the model's chat template changes an earlier answer: it is read again"


@dataclass(frozen=True, eq=False)
class _Pending:
    """An answer that is being decoded: its question, and its prompt as text and as ids."""

    stream: Stream
    turn: Turn
    rendered: str
    prompt: list[int]


class Conversation:
    """Answers to one question after another, made by `Pipeline.chat`.

    Both models keep their caches between turns. The token ids of an answer are kept, and what the
    chat template adds after it, the next question included, is appended. So each answer is the one
    of `generate` for the whole conversation. If there are new files, or the template changes
    earlier answers, the conversation is tokenized again and read from the first difference; `note`
    then says so.

    Threads may share a conversation: `ask` holds the pipeline's lock until its answer is whole.

    An answer that ended early, by its length limit or by `Stream.close`, is kept as it is; a
    question without any answer token is dropped.
    """

    def __init__(
        self,
        pair: LoadedPair,
        decoder: SpeculativeDecoder,
        files: Any,
        options: Options,
        opener: Opener = open_media,
    ) -> None:
        wrong = options.text_rules().used.keys() - {"stop_repetition", "system"}
        if wrong:
            raise OptionError(
                f"{', '.join(sorted(wrong))}: answers of a conversation are kept as the model "
                "writes them: leave it out"
            )
        self._pair = pair
        self._opener = opener
        self._decoder = decoder
        self._lock = decoder.settings.backend.lock
        self._options = options
        self._sampling = options.sampling(pair.family.sampling)
        self._reuse = PrefixReuse()
        self._turns: list[Turn] = []
        self._new: list[Picture | Clip] = []
        self._media_inputs: dict[str, Any] | None = None
        self._media_seconds = 0.0
        self._written = ""
        """The latest prompt and its answer, without a special token at the end."""
        self._ids: list[int] = []
        """The same as ids; empty if it must be tokenized again."""
        self._pending: _Pending | None = None
        self.note = ""
        """Why the latest turn read earlier ones again; empty if it did not."""
        self.add(files)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files, in order."""
        return tuple(item.name for item in self._media())

    @property
    def turns(self) -> tuple[tuple[str, str], ...]:
        """Questions and answers so far."""
        self._finish()
        return tuple((turn.text, turn.answer or "") for turn in self._turns)

    @property
    def reused(self) -> int:
        """Tokens of the latest prompt that were in the target's cache."""
        return self._reuse.reused

    def add(self, files: Any) -> None:
        """Add files to the next question. They are opened here.

        Raises:
            InputError: one cannot be read or processed; none is added then.
        """
        started = perf_counter()
        new = open_files(files, self._sampling, self._opener)
        if not new:
            return
        with self._lock:
            self._finish()
            media_inputs = self._process_media([*self._media(), *new])
            self._new += new
            self._media_inputs = media_inputs
            self._media_seconds += perf_counter() - started

    def reset(self) -> None:
        """Remove all questions and answers; the files stay."""
        self._finish()
        self._new = self._media()
        self._turns, self._written, self._ids = [], "", []

    def ask(self, question: str) -> Result:
        """Answer the next question. Raises as `stream` and its steps."""
        with self._lock:
            return self.stream(question).result()

    def stream(self, question: str) -> Stream:
        """Start answering the next question; iterate the result for steps.

        An unfinished answer ends here.

        Raises:
            OptionError: an empty question, or one that contains the model's placeholders.
            UnsupportedError: generation options that cannot be followed exactly.
        """
        if not question.strip():
            raise OptionError("the question is empty: ask something")
        with self._lock:
            return self._stream(question)

    def _stream(self, question: str) -> Stream:
        self._finish()
        started = perf_counter()
        self._pair.family.check_text(question)
        turn = Turn(tuple(self._new), question)
        rendered, inputs = self._inputs([*self._turns, turn])
        stream = Stream(
            self._decoder,
            self._pair.family.tokenizer,
            inputs,
            self._options,
            self.files,
            question,
            self._media_seconds + perf_counter() - started,
            self._reuse,
        )
        prompt = inputs["input_ids"][0].tolist()
        self._pending = _Pending(stream, turn, rendered, prompt)
        self._new, self._media_seconds = [], 0.0
        return stream

    def _finish(self) -> None:
        """Add the latest answer to the conversation."""
        if self._pending is None:
            return
        now, self._pending = self._pending, None
        now.stream.close()
        tokens, family = list(now.stream.tokens), self._pair.family
        if not tokens:
            self._new = [*now.turn.media, *self._new]
            return
        self._turns.append(replace(now.turn, answer=now.stream.text))
        # The chat template adds the end of an answer, if there is one.
        ended = now.stream.finish_reason == "eos"
        if ended and tokens[-1] in family.tokenizer.all_special_ids:
            tokens.pop()
        self._written = now.rendered + family.decode_more(tokens)
        self._ids = now.prompt + tokens
        if set(tokens) & set(family.tokenizer.convert_tokens_to_ids(list(family.placeholders))):
            self._ids = []  # placeholders in an answer do not represent images

    def _media(self) -> list[Picture | Clip]:
        turns = [*self._turns, *([self._pending.turn] if self._pending else [])]
        return [*(item for turn in turns for item in turn.media), *self._new]

    def _process_media(self, media: Sequence[Picture | Clip]) -> dict[str, Any]:
        """The model inputs of the media, on its device, computed once for all turns."""
        target = self._pair.target
        device = target.get_input_embeddings().weight.device
        with memory_errors("while preparing the files", "give fewer or smaller ones"):
            with self._pair.family.input_errors(media):
                media_inputs = self._pair.family.process_media(media)
            return {
                name: cast(value, target).to(device) if hasattr(value, "to") else value
                for name, value in media_inputs.items()
            }

    def _inputs(self, turns: Sequence[Turn]) -> tuple[str, dict[str, Any]]:
        """The rendered conversation, and its model inputs."""
        family = self._pair.family
        media_inputs = self._media_inputs or {}
        rendered = family.render(turns, self._options.system or "")
        self.note = ""
        if len(turns) > 1:
            if turns[-1].media:
                self.note = NEW_FILES
            else:
                ids = self._appended(rendered)
                if ids is not None:
                    return rendered, family.add_token_types(_as_inputs(ids) | media_inputs)
                self.note = REWRITTEN
        media = [item for turn in turns for item in turn.media]
        with family.input_errors(media):
            return rendered, family.build_inputs(rendered, media, media_inputs)

    def _appended(self, rendered: str) -> list[int] | None:
        """The ids so far and those of the rest of ``rendered``; None if it begins otherwise."""
        if not self._ids or not rendered.startswith(self._written):
            return None
        return self._ids + self._pair.family.encode_more(rendered[len(self._written) :])


def _as_inputs(ids: list[int]) -> dict[str, Any]:
    import torch

    whole = torch.tensor([ids])
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
