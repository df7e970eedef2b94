"""`Pipeline`: files and a prompt in, text out."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from sage_core.conversation import Conversation
from sage_core.engine.batching.scheduler import BatchScheduler, Outcome
from sage_core.engine.costs.store import CostStore
from sage_core.engine.model_check import look, with_a_picture
from sage_core.errors import OptionError
from sage_core.media import Clip, Opener, Sampling, open_media
from sage_core.models.families import Family
from sage_core.models.inputs import IMAGE_PROMPT, VIDEO_PROMPT
from sage_core.models.quiet import memory_errors, quiet
from sage_core.models.small_config import context_length
from sage_core.models.weights import MEMORY_ADVICE
from sage_core.options import Options, TextRequest
from sage_core.pair_loading import LoadedPair, load_pair
from sage_core.runtime.passes import Passes
from sage_core.stream import Decoders, Result, Stream, is_one_file, open_files

PAYS: Mapping[str, int] = MappingProxyType({"cpu": 8})
"""Texts at once by device, as measured by `benchmarks/batches.py`; 1 on other devices."""


class Pipeline:
    """A loaded pair with its family, made by `sage_core.load`.

    Threads may share a pipeline. One lock is held during each step of a text, for `captions` with
    a batch until the next one is done, and never while a caller looks at what was yielded: texts of
    several threads, and several streams of one thread, take turns. In a process that was forked
    after loading, a text is refused unless PyTorch has one thread there.

    Args:
        pair: the models.
        costs: of passes; its file is written when the pipeline is deleted. None: a store in
            memory.
        opener: opens the files.
    """

    def __init__(
        self, pair: LoadedPair, costs: CostStore | None = None, opener: Opener = open_media
    ) -> None:
        with memory_errors("while trying the model", MEMORY_ADVICE):
            unproven = pair.family.needs_tree_probe
            look(pair.target, with_a_picture(pair.target, pair.family) if unproven else None)
        self._pair = pair
        self._opener = opener
        self.target_id = pair.target_id
        self.draft_id = pair.draft_id
        self.device = pair.device
        self.dtype = pair.dtype
        self.note = pair.note
        self._decoders = Decoders(pair, costs)
        self._lock = self._decoders.backend.lock
        weakref.finalize(self, self._decoders.costs.save)

    def caption(
        self, files: Any, prompt: str | None = None, *, batch: int | str = 1, **options: Any
    ) -> Any:
        """Describe each file: a `Result` for one file, a list of them for a sequence.

        ``prompt`` replaces the default one for images or videos. Options are fields of `Options`.
        ``batch`` files are decoded at once, see `captions`.

        Raises:
            InputError, OptionError, UnsupportedError, MemoryExhaustedError.
        """
        if is_one_file(files):
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
        """Describe each file; yields a numbered `Outcome` as each is done.

        ``batch`` files are decoded at once, see `outcomes`. A file is opened when it is started.

        Raises:
            OptionError: ``batch`` is not an integer of at least 1.
        """
        return self.outcomes((TextRequest(file, prompt) for file in files), batch=batch, **options)

    def outcomes(
        self, requests: Iterable[TextRequest], *, batch: int | str = 1, **options: Any
    ) -> Generator[Outcome[Result]]:
        """Decode a text for each request; yields a numbered `Outcome` as each is done.

        ``batch`` texts are decoded at once, each the one that it is alone (in bfloat16 and float16
        but for ties within rounding, which depend on the batch too); ``auto`` is `pays`. A request
        is taken, and its files are opened, when its text is started. An error of one is its
        outcome's ``error`` and does not affect the others. Closing this ends them all. Options are
        fields of `Options`; a request's own come first.

        Raises:
            OptionError: ``batch`` is not an integer of at least 1.
        """
        alone = Options.of(options).single_text
        width = (1 if alone else self.pays) if batch == "auto" else batch
        scheduler = BatchScheduler(self._pair.target, width)  # type: ignore[arg-type]
        if width == 1:
            for number, one in enumerate(requests):
                try:
                    chosen = {**options, **one.options}
                    yield Outcome(number, self.stream(one.files, one.prompt, **chosen).result())
                except Exception as error:
                    yield Outcome(number, error=error)
            return

        def decode(one: TextRequest) -> Passes[Result]:
            chosen = {**options, **one.options}
            stream = self._stream(one.files, one.prompt, chosen, scheduler)
            return (yield from stream.passes())

        # Around all of them, because texts start and end in any order.
        with quiet(), closing(scheduler.run(partial(decode, one) for one in requests)) as outcomes:
            while True:
                with self._lock:
                    outcome = next(outcomes, None)
                if outcome is None:
                    return
                yield outcome

    @property
    def pays(self) -> int:
        """The number of texts at once that was measured to be fastest on this kind of device."""
        return PAYS.get(self.device, 1)

    @property
    def context(self) -> int | None:
        """Tokens of prompt and text together that the target can read; None: any number."""
        known = (context_length(self._pair.target.config), self._pair.verdict.limit)
        return min((limit for limit in known if limit is not None), default=None)

    def sampling(self, options: Options) -> Sampling:
        """Which frames of a video are taken with ``options``: the family's default with them."""
        return options.sampling(self._pair.family.sampling)

    def count_tokens(self, text: str) -> int:
        """The tokens of a text without anything around it."""
        return len(self._pair.family.tokenizer(text, add_special_tokens=False)["input_ids"])

    def prompt_tokens(self, prompt: str, system: str = "") -> int:
        """The tokens of a prompt without files, in the model's template."""
        with self._lock:
            inputs = self._pair.family.prepare([], prompt, system=system)
        return int(inputs["input_ids"].shape[1])

    def ask(self, files: Any, question: str, **options: Any) -> Result:
        """Answer a question about all ``files`` together. Raises as `caption`."""
        return self.stream(files, question, **options).result()

    def stream(self, files: Any, prompt: str | None = None, **options: Any) -> Stream:
        """Start decoding for all ``files`` together; iterate the result for steps.

        A file is a path, bytes, an open binary file, a Pillow image, or an opened `Picture` or
        `Clip`. Without a prompt the default one for images or videos is used. Files are opened
        here; the models run when the stream is iterated.

        Raises:
            InputError, OptionError, UnsupportedError.
        """
        return self._stream(files, prompt, options)

    def _stream(
        self,
        files: Any,
        prompt: str | None,
        options: Mapping[str, Any],
        scheduler: BatchScheduler | None = None,
    ) -> Stream:
        chosen = Options.of(options)
        with self._lock:
            decoder = self._decoders.of(chosen)
            if scheduler is not None:
                decoder = decoder.attached(scheduler)
        started = perf_counter()
        media = open_files(files, self.sampling(chosen), self._opener)
        if prompt is None:
            if not media:
                raise OptionError("nothing to describe: give a file, or a prompt")
            video = any(isinstance(item, Clip) for item in media)
            prompt = VIDEO_PROMPT if video else IMAGE_PROMPT
        advice = "give fewer or smaller ones"
        with self._lock, memory_errors("while preparing the files", advice):
            rules = chosen.text_rules()
            inputs = self._pair.family.prepare(
                media, prompt, system=rules.system or "", start_with=rules.start
            )
        return Stream(
            decoder,
            self._pair.family.tokenizer,
            inputs,
            chosen,
            tuple(item.name for item in media),
            prompt,
            perf_counter() - started,
        )

    def chat(self, files: Any = (), **options: Any) -> Conversation:
        """Start a conversation about all ``files``; each turn reads new tokens only.

        Options are fields of `Options`, for all turns.

        Raises:
            InputError, OptionError.
        """
        chosen = Options.of(options)
        with self._lock:
            decoder = self._decoders.of(chosen)
        return Conversation(self._pair, decoder, files, chosen, self._opener)


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
    costs: str | Path | None = None,
    progress: Callable[[str, float], None] | None = None,
    opener: Opener = open_media,
    on_family: Callable[[Family], None] | None = None,
) -> Pipeline:
    """Load a target and its draft.

    Configurations and tokenizers are fetched and compared first and the pair is measured; weights
    are downloaded and read only if both fit each other and the machine.

    Args:
        target: a hub id (``owner/name`` or ``owner/name@revision``), the folder of a checkpoint
            or of a pair; None: the bundled pair.
        draft: the same; ``auto``: the draft known for the target, preferably a cached one;
            ``ngram``: n-gram lookup in the text; None: autoregressive decoding only.
        device: ``auto`` (one GPU if the pair fits, else several, else the CPU), ``cpu``,
            ``cuda``, ``cuda:N``, ``mps``.
        dtype: ``auto`` (the checkpoint's on a GPU; float32 on the CPU, or the checkpoint's if that
            does not fit) or its name. The draft takes the target's.
        quantization: of the target's weights: ``8bit`` or ``4bit`` (bitsandbytes), ``int8`` or
            ``int4`` (torchao); None or ``none``: not quantized.
        revision: branch, tag or commit of the target on the hub.
        draft_revision: the same of the draft.
        draft_device: ``auto`` (the target's if there is room), or as ``device``.
        trust_remote_code: allow code that comes with the checkpoints.
        costs: a file for pass costs, written when the pipeline is deleted; None: in memory only.
        progress: called with a message and the fraction done, from 0 to 1.
        opener: opens the files of all requests, as `open_media` does; ``partial(open_media,
            isolate=worker)`` decodes them in a `MediaWorker`.
        on_family: called with the model family, which knows the sampling of videos, before weights
            are read.

    Raises:
        ModelError: not found, not a checkpoint, damaged, of an unknown kind, or not a pair.
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
        on_family=on_family,
    )
    return Pipeline(pair, CostStore(Path(costs)) if costs is not None else None, opener)
