"""One text being decoded: makes its parts, runs the loop, keeps the steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter
from typing import Any

from sage_core.checks import as_seed
from sage_core.drafts.drafter import NoDrafter
from sage_core.drafts.forced_tokens import ForcedDrafter
from sage_core.drafts.head.drafter import HeadDrafter
from sage_core.drafts.head.module import Head
from sage_core.drafts.model_drafter import ModelDrafter
from sage_core.drafts.pruning.draft_prompt import DraftPrompt
from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.tree_drafter import TreeDrafter
from sage_core.engine.costs.calibration import Calibration
from sage_core.engine.costs.keys import cost_keys
from sage_core.engine.extensions import DecodingContext, DecodingParts
from sage_core.engine.loop import Decoding, decode
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.engine.results import DecodeOutput, Stats
from sage_core.engine.settings import DecoderSettings
from sage_core.engine.text_limits import context_reached, limit_text, refuse_long_prompt
from sage_core.generation.json_schema import JsonGrammar
from sage_core.generation.prepare import Prepared, refuse_arguments, refuse_prompt
from sage_core.generation.sequence import LIKELY_TOKENS, TokenSequence
from sage_core.generation.speculative_sampling import sampling_fields, sampling_strategy
from sage_core.models.inputs import on_device
from sage_core.models.shared_vision import SharedVision
from sage_core.models.small_config import context_length
from sage_core.runtime.device import peak_memory, reset_peak_memory
from sage_core.runtime.passes import Passes, passes_until_event, run_passes
from sage_core.runtime.runner import Runner
from sage_core.trees.steps import Step


class DecodingSession(Iterator[Step]):
    """The decoding of one text: iterate it for steps, or give its `passes` to a scheduler.

    Args:
        settings: of the decoder.
        inputs: the prompt, as the processor returned it.
        options: further arguments of `generate`.
        reuse, prepared, seed: as for `SpeculativeDecoder.stream`.
    """

    def __init__(
        self,
        settings: DecoderSettings,
        inputs: dict[str, Any],
        options: dict[str, Any],
        *,
        reuse: PrefixReuse | None = None,
        prepared: Prepared | None = None,
        seed: int | None = None,
    ) -> None:
        self._settings = settings
        self._options = options
        self._prepared = prepared
        self._seed = None if seed is None else as_seed(seed)
        self.sampling: dict[str, Any] | None = None
        """Sampling fields of the generation config, and ``candidates``. None if the text is greedy,
        and before its first step."""
        self._reuse = reuse or PrefixReuse(single=True)
        with settings.backend.lock:
            # Their state may have changed since the decoder was made.
            self._verdict = settings.checks.pair(settings.target, settings.draft)
            self._target = self._reuse.runner(settings)
        if prepared is None:
            refuse_arguments({**inputs, **options})
            refuse_prompt(inputs)
        ids = inputs["input_ids"] if prepared is None else prepared.input_ids
        refuse_long_prompt(settings.target.config, ids.shape[-1])
        self._inputs = on_device(inputs, self._target.device)
        self._decoding = self._decode()
        self._steps: list[Step] = []
        self._sequence: TokenSequence | None = None
        self._draft_prompt: DraftPrompt | None = None
        self._draft_visual: int | None = None
        self._wall = 0.0

    def __next__(self) -> Step:
        with self._settings.backend.lock:
            step = run_passes(self.next_step())
        if step is None:
            raise StopIteration
        return step

    def passes(self) -> Passes[DecodeOutput]:
        """Decode to the end; the passes are yielded."""
        while (yield from self.next_step()) is not None:
            pass
        return self.output()

    def next_step(self) -> Passes[Step | None]:
        """The next step, None at the end; the passes are yielded."""
        begun = perf_counter()
        step: Step | None = yield from passes_until_event(self._decoding)
        self._wall += perf_counter() - begun
        if step is not None:
            self._steps.append(step)
        return step

    @property
    def finish_reason(self) -> str:
        """``eos``, ``length`` or ``stop``; empty before the end of the text."""
        return self._sequence.reason if self._sequence else ""

    @property
    def context_reached(self) -> int | None:
        """The target's context in tokens, if the text has filled it; else None."""
        length = self._sequence.length if self._sequence else 0
        return context_reached(self._settings.target.config, length)

    def output(self) -> DecodeOutput:
        """The text so far, with its steps and totals."""
        if self._sequence is None:
            raise RuntimeError("iterate the session first: nothing has been decoded yet")
        scores, logits = self._sequence.scores_record, self._sequence.logits_record
        return DecodeOutput(
            self._sequence.ids.clone(),
            tuple(self._steps),
            self.stats(),
            self.finish_reason,
            None if scores is None else tuple(scores),
            None if logits is None else tuple(logits),
            self._settings.lossy,
            self.context_reached,
        )

    def stats(self) -> Stats:
        """Totals of the steps so far; ``wall_seconds`` excludes the caller's time between steps."""
        prompt, drafts = self._draft_prompt, self._settings.draft is not None
        kept = prompt.kept_tokens if prompt else 0
        read = kept if self._draft_visual is None else self._draft_visual
        return Stats.from_steps(
            self._steps,
            prompt_tokens=self._sequence.prompt_tokens if self._sequence else 0,
            visual_tokens=prompt.visual_tokens if prompt else 0,
            draft_visual_tokens=read if prompt and drafts else 0,
            wall_seconds=self._wall,
            peak_memory=peak_memory(self._target.device),
        )

    def _decode(self) -> Decoding:
        settings, target = self._settings, self._target
        reset_peak_memory(target.device)
        vision = SharedVision(settings.target, settings.draft)
        with vision.recording():
            begun = perf_counter()
            prepared = self._prepared or self._reuse.prepare(self._inputs, self._options)
            preparing = perf_counter() - begun
            sequence = self._start(prepared)
            self._draft_prompt = draft_prompt = _draft_prompt(settings, prepared)
            # After the prompt: the text, and one whole tree with its root.
            nodes = settings.policy.max_nodes + sum(e.more_nodes for e in settings.extensions)
            room = max(0, min(sequence.remaining, LIKELY_TOKENS)) + nodes + 1
            model = self._reuse.drafter or self._model_drafter(prepared, room, vision)
            parts = self._parts(prepared, sequence, model)
            decoding = decode(
                target,
                prepared,
                parts.drafter,
                parts.planner,
                sequence,
                room=room,
                accept=parts.strategy.accept,
                phase_times=settings.phase_times,
            )
            for around in parts.around:
                decoding = around(decoding)
            decoding = self._reuse.following(decoding, sequence, model)
            with draft_prompt.observing(target.decoder):
                first: Step | None = yield from passes_until_event(decoding)
            assert first is not None
        if model is not None:
            self._draft_visual = model.visual_tokens
        calibration = self._calibration(parts, model)
        if calibration is not None:
            yield from calibration.start(min(sequence.remaining, LIKELY_TOKENS))
        # Preparation may encode the images: it is part of the target's prefill.
        seconds = replace(first.seconds, prefill_target=first.seconds.prefill_target + preparing)
        step: Step | None = replace(first, seconds=seconds)
        while step is not None:
            yield step
            if calibration is not None and not step.finished:
                yield from calibration.after(step)
            step = yield from passes_until_event(decoding)
        if calibration is not None:
            calibration.finish(self._steps)

    def _start(self, prepared: Prepared) -> TokenSequence:
        """The empty sequence of new tokens."""
        config = prepared.config
        fields = sampling_fields(config)
        kind = self._settings.candidates
        self.sampling = None if fields is None else {**fields, "candidates": kind}
        record = [name for name in ("scores", "logits") if getattr(config, f"output_{name}")]
        self._sequence = TokenSequence(prepared, record)
        limit_text(self._verdict, self._sequence)
        return self._sequence

    def _model_drafter(
        self, prepared: Prepared, room: int, vision: SharedVision
    ) -> TreeDrafter | None:
        """The drafter of the draft model or head; None without one."""
        settings, draft, prompt = self._settings, self._settings.draft, self._draft_prompt
        assert prompt is not None
        if draft is None:
            return None
        if isinstance(draft, Head):
            return HeadDrafter(draft, self._target, prepared, room, prompt, settings.backend)
        runner = Runner(draft, settings.backend.executor(draft))
        context = context_length(draft.config)
        return ModelDrafter(
            runner, self._inputs, self._target.vocab_size, room, vision, prompt, context
        )

    def _parts(
        self, prepared: Prepared, sequence: TokenSequence, model: TreeDrafter | None
    ) -> DecodingParts:
        """Drafter, planner and acceptance rule, wrapped by all extensions."""
        settings, prompt = self._settings, self._draft_prompt
        assert prompt is not None
        device = sequence.ids.device
        drafting = model.device if model else device
        strategy = sampling_strategy(
            prepared.config, settings.candidates, self._seed, device, drafting
        )
        parts = DecodingParts(model or NoDrafter(), settings.policy.planner(), strategy)
        context = DecodingContext(
            self._target, prepared, settings.policy, prompt, model, self._reuse.kept
        )
        for extension in settings.extensions:
            parts = extension.wrap(parts, context)
        for processor in prepared.processors:
            if isinstance(processor, JsonGrammar):
                parts = replace(parts, drafter=ForcedDrafter(parts.drafter, processor))
        if model is not None:
            model.candidates = parts.strategy.candidates
        return parts

    def _calibration(self, parts: DecodingParts, model: TreeDrafter | None) -> Calibration | None:
        """The planner's calibration; None if it uses no costs or there is no draft model."""
        if not parts.planner.counts_costs or model is None or not model.started:
            return None
        settings, target = self._settings, self._target
        return Calibration(
            settings.costs,
            lambda: cost_keys(settings, target),
            parts.planner,
            target,
            model,
            timed=settings.times_phases,
        )


def _draft_prompt(settings: DecoderSettings, prepared: Prepared) -> DraftPrompt:
    """The tokens of the prompt that the draft reads."""
    pruning, draft = settings.pruning, settings.draft
    # By default nothing is pruned for heads, which may compress images themselves.
    if draft is None or (isinstance(draft, Head) and pruning.ratio is None):
        pruning = Pruning(method="none")
    return DraftPrompt(pruning, settings.target.config, prepared)
