"""TODO docstring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sage_core.drafts.drafter import Drafter, NoDrafter
from sage_core.drafts.forced_tokens import ForcedDrafter
from sage_core.drafts.head.drafter import HeadDrafter
from sage_core.drafts.head.module import Head
from sage_core.drafts.model_drafter import ModelDrafter
from sage_core.drafts.ngram import BREAK, NgramDrafter
from sage_core.drafts.ngram_hybrid import OwnPart, Payoff, WithLookup
from sage_core.drafts.pruning.draft_prompt import DraftPrompt
from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.tree_drafter import TreeDrafter
from sage_core.engine.costs.calibration import calibrate
from sage_core.engine.loop import decode
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.engine.results import DecodeOutput, Stats
from sage_core.engine.viskip import ViSkipPlanner, VisualAttention
from sage_core.generation.json_schema import JsonGrammar
from sage_core.generation.lossy_acceptance import with_lossy_acceptance
from sage_core.generation.prepare import Prepared
from sage_core.generation.sequence import TokenSequence
from sage_core.generation.speculative_sampling import sampling_fields, sampling_strategy
from sage_core.models.inputs import on_device
from sage_core.models.shared_vision import SharedVision
from sage_core.models.visual_tokens import visual_mask
from sage_core.runtime.device import peak_memory, reset_peak_memory
from sage_core.runtime.runner import Runner
from sage_core.trees.policies import TreePlanner
from sage_core.trees.policies.autoregressive import Autoregressive
from sage_core.trees.steps import Step

if TYPE_CHECKING:
    from sage_core.engine.decoder import SpeculativeDecoder


class Stream(Iterator[Step]):
    """One decoding under way: iterate for steps; `output` then gives sequences and totals."""

    def __init__(
        self,
        decoder: SpeculativeDecoder,
        inputs: dict[str, Any],
        reading: PrefixReuse,
        prepared: Prepared | None = None,
        seed: int | None = None,
    ) -> None:
        self._decoder = decoder
        self._prepared = prepared
        self._seed = seed
        self.sampling: dict[str, Any] | None = None
        """What tokens are drawn by: fields of the generation config, and ``candidates``. None if
        the text is greedy, and before its first step."""
        self._reading = reading
        self._target = reading.runner(decoder.target, decoder.draft, decoder.runner)
        self._inputs = on_device(inputs, self._target.device)
        self._run = self._decode()
        self._steps: list[Step] = []
        self._text: TokenSequence | None = None
        self._sight: DraftPrompt | None = None
        self._draft_visual: int | None = None
        self._wall = 0.0

    def __next__(self) -> Step:
        started = perf_counter()
        step = next(self._run)
        self._wall += perf_counter() - started
        self._steps.append(step)
        return step

    @property
    def finish_reason(self) -> str:
        """``eos``, ``length`` or ``stop`` once the text has ended, empty before."""
        return self._text.reason if self._text else ""

    def output(self) -> DecodeOutput:
        """The sequences and totals of what has been decoded so far."""
        if self._text is None:
            raise RuntimeError("iterate the stream first: nothing has been decoded yet")
        scores, logits = self._text.scores_record, self._text.logits_record
        return DecodeOutput(
            self._text.ids.clone(),
            tuple(self._steps),
            self.stats(),
            self.finish_reason,
            None if scores is None else tuple(scores),
            None if logits is None else tuple(logits),
            None if self._decoder.lossy is None else str(self._decoder.lossy),
        )

    def stats(self) -> Stats:
        """Totals of the steps so far; ``wall_seconds`` leaves out what the caller did between."""
        drafts = self._decoder.draft is not None
        kept = self._sight.kept_tokens if self._sight else 0
        seen = kept if self._draft_visual is None else self._draft_visual
        return Stats.from_steps(
            self._steps,
            prompt_tokens=self._text.prompt_tokens if self._text else 0,
            visual_tokens=self._sight.visual_tokens if self._sight else 0,
            draft_visual_tokens=seen if self._sight and drafts else 0,
            wall_seconds=self._wall,
            peak_memory=peak_memory(self._target.device),
        )

    def _decode(self) -> Iterator[Step]:
        policy, draft = self._decoder.policy, self._decoder.draft
        reset_peak_memory(self._target.device)
        vision = SharedVision(self._decoder.target, draft)
        with vision.recording():
            started = perf_counter()
            prepared = self._prepared or self._reading.prepare(self._inputs)
            preparing = perf_counter() - started
            config = prepared.config
            fields = sampling_fields(config)
            kind = self._decoder.candidates
            self.sampling = None if fields is None else {**fields, "candidates": kind}
            record = [name for name in ("scores", "logits") if getattr(config, f"output_{name}")]
            self._text = text = TokenSequence(prepared, record)
            # Behind the prompt: the text itself, and one whole tree with its root.
            added = self._decoder.lookup.nodes if self._decoder.lookup else 0
            room = max(0, text.remaining) + policy.max_nodes + added + 1
            self._sight = sight = seen_by_draft(self._decoder, prepared)
            model = self._reading.drafter or drafting_model(
                self._decoder, self._target, self._inputs, prepared, room, vision, sight
            )
            drafter, planner = drafting(self._decoder, self._reading, self._target, prepared, model)
            gaze: VisualAttention | None = None
            if self._decoder.viskip is not None and sight.visual_tokens:
                gaze = VisualAttention(self._target, sight.visual_positions)
                planner = ViSkipPlanner(planner, gaze, self._decoder.viskip)
            choice = sampling_strategy(
                config,
                self._decoder.candidates,
                self._seed,
                text.ids.device,
                model.device if model else text.ids.device,
            )
            if model is not None:
                model.candidates = choice.candidates
            accept = with_lossy_acceptance(choice, self._decoder.lossy).accept
            if self._decoder.group is not None:
                drafter = self._decoder.group.drafting(drafter)
                accept = self._decoder.group.accepting(accept)
            steps = decode(self._target, prepared, drafter, planner, text, room=room, accept=accept)
            steps = steps if gaze is None else gaze.over(steps)
            steps = self._reading.following(steps, text, model or drafter)
            listening = model.listening(self._target) if model is not None else nullcontext()
            with sight.watching(self._target.decoder), listening:
                first = next(steps)
            if model is not None and model.visual_tokens is not None:
                self._draft_visual = model.visual_tokens
            settle = calibrate(self._decoder, self._target, planner, model or drafter)
        # Preparing may have encoded the pictures already: it is part of the target's prefill.
        seconds = first.seconds
        yield replace(
            first, seconds=replace(seconds, prefill_target=seconds.prefill_target + preparing)
        )
        yield from steps
        if settle is not None:
            settle(self._steps)


def seen_by_draft(decoder: SpeculativeDecoder, prepared: Prepared) -> DraftPrompt:
    """What the draft will see of the prompt's pictures."""
    pruning, draft = decoder.pruning, decoder.draft
    # A head compresses pictures by itself, if at all, unless it is told more.
    if draft is None or (isinstance(draft, Head) and pruning.ratio is None):
        pruning = Pruning(method="none")
    return DraftPrompt(pruning, decoder.target.config, prepared)


def drafting_model(
    decoder: SpeculativeDecoder,
    target: Runner,
    inputs: dict[str, Any],
    prepared: Prepared,
    room: int,
    vision: SharedVision,
    sight: DraftPrompt,
) -> TreeDrafter | None:
    """The drafter that runs the decoder's draft; None if it has none.

    ``inputs`` is the prompt as the processor returned it, ``room`` the cache slots to reserve
    behind it.
    """
    draft = decoder.draft
    if draft is None:
        return None
    if isinstance(draft, Head):
        return HeadDrafter(draft, target, prepared, room, sight, decoder.reduced, decoder.runner)
    runner = decoder.runner(draft)
    return ModelDrafter(runner, inputs, target.vocab_size, room, vision, sight, decoder.reduced)


def drafting(
    decoder: SpeculativeDecoder,
    reading: PrefixReuse,
    target: Runner,
    prepared: Prepared,
    model: TreeDrafter | None,
) -> tuple[Drafter, TreePlanner]:
    """The drafter, with lookups and grammars around the ``model``, and the shaper of its trees."""
    policy, lookup = decoder.policy, decoder.lookup
    if lookup is None:
        drafter: Drafter = model or NoDrafter()
        for grammar in [p for p in prepared.processors if isinstance(p, JsonGrammar)]:
            drafter = ForcedDrafter(drafter, grammar)
        return drafter, policy.planner()
    limit = policy.max_nodes if model is None else lookup.nodes
    words = NgramDrafter(lookup, _words(decoder, target, prepared), limit)
    if model is None:  # nothing is grown: all that the policy says is its node limit
        return words, Autoregressive().planner()
    payoff = reading.payoff = reading.payoff or Payoff(lookup.price)
    both = WithLookup(model, words, payoff)
    return both, OwnPart(policy.planner(), both)


def _words(decoder: SpeculativeDecoder, target: Runner, prepared: Prepared) -> list[int]:
    """The prompt's ids, with breaks for pictures and for ids that the target cannot embed."""
    ids = prepared.input_ids[0]
    no_words = visual_mask(decoder.target.config, ids) | (ids >= target.vocab_size)
    words: list[int] = ids.masked_fill(no_words, BREAK).tolist()
    return words
