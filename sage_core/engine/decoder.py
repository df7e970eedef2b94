"""`SpeculativeDecoder`: two loaded transformers models in, the target's own output, sooner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sage_core.drafts.head.checkpoint import check_head
from sage_core.drafts.head.module import Head
from sage_core.drafts.ngram import Ngram, as_ngram, is_lookup
from sage_core.drafts.pruning.draft_prompt import Sight
from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead, reduced_head
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.engine.costs.calibration import calibrate
from sage_core.engine.costs.store import CostBook, default_path
from sage_core.engine.drafting import drafting, drafting_model, seen_by_draft
from sage_core.engine.loop import decode
from sage_core.engine.output import DecodeOutput
from sage_core.engine.prefix_reuse import MakeRunner, Reading
from sage_core.engine.results import Stats
from sage_core.engine.viskip import Gaze, Skipping
from sage_core.errors import OptionError
from sage_core.generation.lossy import Lossy, as_lossy, check_lossy
from sage_core.generation.lossy_acceptance import relaxed
from sage_core.generation.prepare import Prepared, on_device
from sage_core.generation.sampling_params import check_candidates, check_viskip
from sage_core.generation.sequence import Text
from sage_core.generation.speculative_sampling import choice_of, sampling_fields
from sage_core.models.shared_vision import SharedVision
from sage_core.runtime.cpu.runner import PackedRunners
from sage_core.runtime.cuda.runner import CapturedRunners
from sage_core.runtime.device import peak_memory, reset_peak_memory
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies import Policy, parse
from sage_core.trees.steps import Step

if TYPE_CHECKING:
    from sage_core.engine.tensor_parallel import Group


class SpeculativeDecoder:
    """Decoding of ``target`` by speculation with ``draft`` under a tree policy.

    Greedy unless the caller asks for ``do_sample``; a sampled text is distributed as the target's
    own, and with candidates ``topk`` it is the one that `generate` writes under the same seed.

    Args:
        target: a loaded transformers model with a `generate` method, in evaluation mode.
        draft: a smaller one with the same tokenizer; a `heads.module.Head` of this target;
            ``"ngram"``, perhaps with options, drafts without a model by lookup in the text; None
            allows only ``autoregressive``.
        policy: a name or spec such as ``"sage-paper:dmax=12"``, or a `Policy`.
        pruning: what the draft sees of the visual tokens; it changes speed only.
        costs: what passes cost here, for policies that weigh them: given, so that equal inputs
            give equal trees, or a book that measures what it lacks. None: the user's own
            book, `costbook.default_path`.
        lookup: branches that are looked up join the draft's tree while they pay.
        candidates: ``topk`` or ``drawn``, how a sampled text's candidates are chosen (`sampling`).
        runner: makes what runs a model, such as `captured.CapturedRunners()`, or `Runner` for plain
            passes; None: `packed.PackedRunners()`.
        lossy: a rule of `lossy` that gives up the target's own text; None keeps to it.
        viskip: draft nothing while this share of the last row's attention is on visual tokens
            (`viskip`); it changes speed only. None: always draft.
        group: the processes that share the target, see `parallel`; None: this one has it whole.
        draft_vocab: the tokens that the draft scores, as ids, as a list that knows their order, or
            as the head of another decoder; None: all. Ends of the target's texts are always in.

    Raises:
        OptionError: unknown policy or candidates, a drafting policy without a draft, or the
            reverse.
        ModelError: a head of another target.
        UnsupportedError: candidates that the policy's trees cannot be made of, a lossy rule that
            does not go with policy or candidates, or a model whose attention or logits a tree
            pass cannot reproduce.
    """

    def __init__(
        self,
        target: Any,
        draft: Any = None,
        policy: str | Policy = "sage",
        pruning: Pruning | None = None,
        costs: Costs | CostBook | None = None,
        lookup: str | Ngram | None = None,
        candidates: str = "topk",
        runner: MakeRunner | None = None,
        group: Group | None = None,
        draft_vocab: DraftVocab | Sequence[int] | ReducedHead | None = None,
        lossy: str | Lossy | None = None,
        viskip: float | None = None,
    ) -> None:
        self.policy = parse(policy)
        self.costs = costs or CostBook(default_path())
        self.candidates = candidates
        self.pruning = pruning or Pruning()
        if is_lookup(draft):
            draft, lookup = None, draft
        self.lookup = as_ngram(lookup) if lookup is not None else None
        check_candidates(candidates, self.policy, lookup=self.lookup is not None)
        self.runner = runner or PackedRunners()
        self.lossy = None if lossy is None else as_lossy(lossy)
        check_lossy(self.lossy, self.policy, candidates)
        eager = not isinstance(runner, CapturedRunners)
        check_viskip(viskip, self.policy, model=draft is not None, eager=eager)
        self.viskip = viskip
        self.group = group
        if draft is None and self.lookup is None and self.policy.drafts:
            raise OptionError(
                f"policy {self.policy.name} needs a draft model: pass one, or use autoregressive"
            )
        if self.lookup is not None and not self.policy.drafts:
            raise OptionError(
                f"policy {self.policy.name} verifies no drafts: leave the lookup out, or name "
                "another policy"
            )
        self.target = target
        self.draft = draft if self.policy.drafts else None
        if isinstance(self.draft, Head):
            check_head(target, self.draft)
        self.reduced: ReducedHead | None = None
        if draft_vocab is not None:
            self.reduced = reduced_head(target, self.draft, draft_vocab)

    def stream(
        self,
        *,
        reading: Reading | None = None,
        prepared: Prepared | None = None,
        seed: int | None = None,
        **inputs: Any,
    ) -> Stream:
        """Start decoding; iterate the result for a `Step` for the prefill and one per step.

        Args:
            reading: what the models hold from an earlier text that this one may go on from; the
                inputs are the whole of it all the same.
            prepared: what `generate` made of the inputs, if it has been asked already; the inputs
                are then only what the draft reads.
            seed: of everything that a sampled text draws; None draws from torch's global
                generator, as `generate` does.
            inputs: what the processor returned, and any argument of `generate` that sets the
                generation config: ``max_new_tokens``, ``repetition_penalty``, a
                ``generation_config``, ``logits_processor``, ``stopping_criteria``...

        Raises:
            UnsupportedError: the arguments ask for what cannot be followed exactly.
        """
        return Stream(self, inputs, reading or Reading(), prepared, seed)

    def generate(self, **inputs: Any) -> DecodeOutput:
        """Decode to the end. Takes what `stream` takes."""
        stream = self.stream(**inputs)
        for _ in stream:
            pass
        return stream.output()

    def generate_batch(
        self, prompts: Iterable[Mapping[str, Any]], width: int | None = None, **shared: Any
    ) -> list[DecodeOutput]:
        """Decode several texts at once, each as `generate` would alone, with shared passes.

        Args:
            prompts: for each text what `generate` takes; lengths and media may differ.
            width: the most texts at once, the others wait for a seat; None: all.
            shared: further arguments of `generate` for all of them. A ``seed`` is that of each
                text; without one, what texts that are sampled draw depends on their neighbours.

        Returns:
            An output for each prompt, in order. Seconds in ``stats`` are as the clock on the wall
            saw them from that row: passes that it shared or waited for count in full.

        Raises:
            OptionError: a ``width`` below 1, a ``reading`` or ``prepared`` for several texts.
            UnsupportedError: what `generate` refuses, and a decoder with a ``runner`` or ``group``.
            What any text raises; the others are then ended.
        """
        from sage_core.engine.batching.scheduler import generate_batch

        return generate_batch(self, prompts, width, shared)


class Stream(Iterator[Step]):
    """One decoding under way: iterate for steps; `output` then gives sequences and totals."""

    def __init__(
        self,
        decoder: SpeculativeDecoder,
        inputs: dict[str, Any],
        reading: Reading,
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
        self._text: Text | None = None
        self._sight: Sight | None = None
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
            self._text = text = Text(prepared, record)
            # Behind the prompt: the text itself, and one whole tree with its root.
            added = self._decoder.lookup.nodes if self._decoder.lookup else 0
            room = max(0, text.remaining) + policy.max_nodes + added + 1
            self._sight = sight = seen_by_draft(self._decoder, prepared)
            model = self._reading.drafter or drafting_model(
                self._decoder, self._target, self._inputs, prepared, room, vision, sight
            )
            drafter, shaper = drafting(self._decoder, self._reading, self._target, prepared, model)
            gaze: Gaze | None = None
            if self._decoder.viskip is not None and sight.visual_tokens:
                gaze = Gaze(self._target, sight.visual_positions)
                shaper = Skipping(shaper, gaze, self._decoder.viskip)
            choice = choice_of(
                config,
                self._decoder.candidates,
                self._seed,
                text.ids.device,
                model.device if model else text.ids.device,
            )
            if model is not None:
                model.candidates = choice.candidates
            accept = relaxed(choice, self._decoder.lossy).accept
            if self._decoder.group is not None:
                drafter = self._decoder.group.drafting(drafter)
                accept = self._decoder.group.accepting(accept)
            steps = decode(self._target, prepared, drafter, shaper, text, room=room, accept=accept)
            steps = steps if gaze is None else gaze.over(steps)
            steps = self._reading.following(steps, text, model or drafter)
            listening = model.listening(self._target) if model is not None else nullcontext()
            with sight.watching(self._target.decoder), listening:
                first = next(steps)
            if model is not None and model.visual_tokens is not None:
                self._draft_visual = model.visual_tokens
            settle = calibrate(self._decoder, self._target, shaper, model or drafter)
        # Preparing may have encoded the pictures already: it is part of the target's prefill.
        seconds = first.seconds
        yield replace(
            first, seconds=replace(seconds, prefill_target=seconds.prefill_target + preparing)
        )
        yield from steps
        if settle is not None:
            settle(self._steps)
