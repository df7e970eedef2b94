"""Files and a prompt in, text out: media, family and decoder behind three methods."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sage_core.drafts.ngram import Ngram
from sage_core.engine.results import Stats
from sage_core.errors import OptionError
from sage_core.media import Clip, Picture, Sampling, open_media
from sage_core.models.checkpoint import MEMORY_ADVICE, LoadedPair, load_pair
from sage_core.models.detokenize import Detokenizer
from sage_core.models.quiet import memory_errors, quiet
from sage_core.options import Options
from sage_core.trees.steps import Step

if TYPE_CHECKING:
    from sage_core.conversation import Conversation
    from sage_core.engine.batching.scheduler import Outcome, Table
    from sage_core.engine.prefix_reuse import Reading

IMAGE_PROMPT = "Describe this image in detail."
VIDEO_PROMPT = "Describe this video in detail."

PAYS: Mapping[str, int] = MappingProxyType({"cpu": 8})
"""Texts at once by device; one where nothing has been measured (`benchmarks/batches.py`)."""


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


class Pipeline:
    """A loaded pair with its family. Made by `sage_core.load`."""

    def __init__(self, pair: LoadedPair) -> None:
        with memory_errors("while trying the model", MEMORY_ADVICE):
            pair.family.check(pair.target)
        self._pair = pair
        self.target_id = pair.target_id
        self.draft_id = pair.draft_id
        self.device = pair.device
        self.dtype = pair.dtype
        self.note = pair.note
        self._asked: tuple[Any, LoadedPair] = (None, pair)
        """The latest draft vocabulary that was asked for, and the pair with it."""

    def caption(
        self, files: Any, prompt: str | None = None, *, batch: int | str = 1, **options: Any
    ) -> Any:
        """Describe files: one gives a `Result`, a sequence gives a list, each its own.

        ``prompt`` replaces the default one for pictures or clips. Options are `Options`' fields.
        ``batch`` files are decoded at once, see `captions`.

        Raises:
            InputError, OptionError, UnsupportedError, MemoryExhaustedError.
        """
        if _is_one(files):
            return self.stream(files, prompt, **options).result()
        with closing(self.captions(files, prompt, batch=batch, **options)) as outcomes:
            results = {outcome.number: outcome.get() for outcome in outcomes}
        return [results[number] for number in sorted(results)]

    def captions(
        self,
        files: Iterable[Any],
        prompt: str | None = None,
        *,
        batch: int | str = 1,
        **options: Any,
    ) -> Generator[Outcome[Result]]:
        """Describe files, each its own; gives a numbered `Outcome` as each is done.

        ``batch`` files are decoded at once, each with the text that it has alone; ``auto`` is as
        many as were measured to pay, see `pays`. A file is opened when its turn comes. What one
        raises is its outcome's ``error``, and the others go on. Closing this ends them all.

        Raises:
            OptionError: ``batch`` is no number of texts.
        """
        from sage_core.engine.batching.scheduler import Outcome, Table

        alone = options.get("viskip") is not None  # it watches the passes of one text
        width = (1 if alone else self.pays) if batch == "auto" else batch
        table = Table(self._pair.target, width)  # type: ignore[arg-type]

        def one(file: Any) -> Result:
            return self._stream(file, prompt, options, table).result()

        if width == 1:
            for number, file in enumerate(files):
                try:
                    yield Outcome(number, one(file))
                except Exception as error:
                    yield Outcome(number, error=error)
            return
        # Around all of them: the rows' own begin and end in any order.
        with quiet(), closing(table.run(partial(one, file) for file in files)) as outcomes:
            yield from outcomes

    @property
    def pays(self) -> int:
        """How many texts at once were measured to be fastest on this kind of device."""
        return PAYS.get(self.device, 1)

    def ask(self, files: Any, question: str, **options: Any) -> Result:
        """Answer a question about all ``files`` seen together. Raises what `caption` does."""
        return self.stream(files, question, **options).result()

    def stream(self, files: Any, prompt: str | None = None, **options: Any) -> Stream:
        """Start decoding about all ``files`` seen together; iterate the result for steps.

        A file is a path, bytes, an open binary file, a Pillow image, or an opened `Picture` or
        `Clip`. Without a prompt the default one of pictures or clips is used. Files are opened
        here; the models run as the stream is iterated.

        Raises:
            InputError, OptionError, UnsupportedError.
        """
        return self._stream(files, prompt, options)

    def _stream(
        self,
        files: Any,
        prompt: str | None,
        options: Mapping[str, Any],
        table: Table | None = None,
    ) -> Stream:
        chosen = Options.of(options)
        pair = self._scoring(chosen)
        started = perf_counter()
        media = open_files(files, chosen.sampling(self._pair.family.sampling))
        if prompt is None:
            if not media:
                raise OptionError("nothing to describe: give a file, or a prompt")
            clip = any(isinstance(item, Clip) for item in media)
            prompt = VIDEO_PROMPT if clip else IMAGE_PROMPT
        with memory_errors("while preparing the files", "give fewer or smaller ones"):
            inputs = self._pair.family.prepare(media, prompt)
        return Stream(
            pair,
            inputs,
            chosen,
            tuple(item.name for item in media),
            prompt,
            perf_counter() - started,
            table=table,
        )

    def chat(self, files: Any = (), **options: Any) -> Conversation:
        """Start a conversation about all ``files``; its turns read only what is new.

        Options are `Options`' fields and hold for all turns.

        Raises:
            InputError, OptionError.
        """
        from sage_core.conversation import Conversation

        chosen = Options.of(options)
        return Conversation(self._scoring(chosen), files, chosen)

    def _scoring(self, options: Options) -> LoadedPair:
        """The pair, its draft scoring what the options say; kept for the next request."""
        if self._asked[0] != options.draft_vocab:
            from sage_core.drafts.vocab.reduced_lm_head import with_vocab

            self._asked = (options.draft_vocab, with_vocab(self._pair, options.draft_vocab))
        return self._asked[1]


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
        reading: Reading | None = None,
        table: Table | None = None,
    ) -> None:
        from sage_core.engine.decoder import SpeculativeDecoder
        from sage_core.trees.policies import spec

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
            decoder = table.joining(decoder)
        self.policy = spec(decoder.policy)
        self.lossy = None if decoder.lossy is None else str(decoder.lossy)
        settings = {**options.generation, **options.choosing().as_generation()}
        settings["max_new_tokens"] = options.max_new_tokens
        if "stop_strings" in settings:
            settings["tokenizer"] = self._tokenizer
        if options.json_schema is not None:
            from sage_core.generation.json_schema import following

            rules = following(options.json_schema, pair.target, self._tokenizer, inputs)
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


def cast(value: Any, model: Any) -> Any:
    """Pixels in the model's own dtype; ids and sizes as they are."""
    floating = hasattr(value, "is_floating_point") and value.is_floating_point()
    return value.to(model.dtype) if floating else value


def load(
    target: str | Path | None = None,
    draft: str | Path | None = "auto",
    device: str = "auto",
    dtype: str = "auto",
    *,
    quantization: str | None = None,
    revision: str | None = None,
    draft_revision: str | None = None,
    draft_device: str = "auto",
    trust_remote_code: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Pipeline:
    """Load a target and its draft.

    Configurations and tokenizers are fetched and compared first and the pair is measured; weights
    are downloaded and read only when both fit each other and the machine.

    Args:
        target: a hub id (``owner/name`` or ``owner/name@revision``), the folder of a checkpoint
            or of a pair; None is the bundled pair.
        draft: the same; ``auto`` is the one known for the target, the best that is cached if one
            is; ``ngram`` looks drafts up in the text; None goes without, which allows only
            autoregressive decoding.
        device: ``auto`` (one GPU if the pair fits, else several, else the CPU), ``cpu``,
            ``cuda``, ``cuda:N``, ``mps``.
        dtype: ``auto`` (the checkpoint's own on a GPU; float32 on the CPU, or the checkpoint's
            own where that does not fit) or its name. The draft takes the target's.
        quantization: how to shrink the target's weights while loading: ``8bit`` or ``4bit``
            (bitsandbytes), ``int8`` or ``int4`` (torchao); None or ``none`` leaves them.
        revision: branch, tag or commit of the target on the hub.
        draft_revision: the same of the draft.
        draft_device: ``auto`` (beside the target if there is room), or as ``device``.
        trust_remote_code: let modules run that come with the checkpoints.
        progress: called with a message and the fraction done, from 0 to 1, as loading goes on.

    Raises:
        ModelError: not found, damaged, of an unknown kind, or no pair.
        OptionError: an unknown or absent device, or an unknown dtype or quantization.
        MemoryExhaustedError: it does not fit; says what it needs and what would fit.
    """
    pair = load_pair(
        target,
        draft,
        device,
        dtype,
        progress,
        quantization=quantization,
        revision=revision,
        draft_revision=draft_revision,
        draft_device=draft_device,
        trust_remote_code=trust_remote_code,
    )
    return Pipeline(pair)
