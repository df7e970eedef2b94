"""`SpeculativeDecoder`: speculative decoding of two loaded transformers models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sage_core.drafts.head.checkpoint import check_head
from sage_core.drafts.head.module import Head
from sage_core.drafts.ngram import is_lookup
from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.batching.scheduler import BatchScheduler, check_width
from sage_core.engine.costs.store import CostStore
from sage_core.engine.extensions import DecodingExtension, resolve
from sage_core.engine.model_check import ModelChecks
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.engine.results import DecodeOutput
from sage_core.engine.session import DecodingSession
from sage_core.engine.settings import DecoderSettings
from sage_core.errors import OptionError
from sage_core.generation.prepare import Prepared, split_arguments
from sage_core.runtime.backend import Backend
from sage_core.runtime.cpu.executor import CpuBackend
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policy import Policy


class SpeculativeDecoder:
    """Decodes ``target`` by speculation with ``draft`` under a tree policy.

    The text is the one of `generate`. With ``do_sample`` it is distributed as the target's own, and
    with candidates ``topk`` it is the one of `generate` under the same seed.

    Args:
        target: a loaded transformers model with a `generate` method, in evaluation mode.
        draft: a smaller model with the same tokenizer; a `drafts.head.module.Head` of this target;
            ``"ngram"``, perhaps with options: n-gram lookup without a model; None allows only
            ``autoregressive``.
        policy: a name or spec such as ``"sage-paper:dmax=12"``, or a `Policy`; None: ``sage`` with
            a draft and ``autoregressive`` without.
        pruning: which visual tokens the draft reads; it changes speed only.
        costs: of passes, for policies that weigh them: fixed `Costs`, for reproducible trees, or a
            `CostStore` that measures missing ones. None: a store in memory.
        candidates: ``topk`` or ``drawn``, the candidates of sampled texts
            (`generation.speculative_sampling`).
        backend: `CpuBackend` (the default), `CudaGraphBackend` or `EagerBackend`.
        checks: what is known of models in use, so that several decoders of a model check it once;
            None: the models are checked here, by two short passes of the target. Each text checks
            that they are still in a state that can be followed.
        phase_times: on CUDA, time the phases of each step, by five device synchronizations a step.
        extensions: further extensions, as objects.
        options: options that change drafting or acceptance, by the names of
            `engine.extensions.available`: ``lookup`` (adds looked-up branches to trees while they
            pay), ``draft_vocab`` (tokens that the draft computes logits of), ``lossy`` (a rule of
            lossy acceptance), ``viskip`` (no drafts from this share of attention on visual
            tokens).

    Threads may share a decoder: each step holds the backend's lock, which is released between
    steps. Decoders of one model that are used by several threads must share one backend.

    Raises:
        OptionError: unknown policy, candidates or option, or a drafting policy without a draft.
        ModelError: a target whose text passes over trees do not reproduce, a draft whose passes
            fail, or a head of another target.
        UnsupportedError: options that cannot be combined, or a model in a state that cannot be
            followed: training mode, attention without masks, virtual tokens.
    """

    def __init__(
        self,
        target: Any,
        draft: Any = None,
        policy: str | Policy | None = None,
        pruning: Pruning | None = None,
        costs: Costs | CostStore | None = None,
        candidates: str = "topk",
        backend: Backend | None = None,
        *,
        checks: ModelChecks | None = None,
        phase_times: bool = False,
        extensions: Sequence[DecodingExtension] = (),
        **options: Any,
    ) -> None:
        if is_lookup(draft):
            draft, options = None, {**options, "lookup": draft}
        chosen, asked = resolve(policy, candidates, options, extensions, draft=draft is not None)
        draft = draft if chosen.drafts else None
        checks = checks or ModelChecks()
        checks.pair(target, draft)
        if isinstance(draft, Head):
            check_head(target, draft)
        self.settings = DecoderSettings(
            target=target,
            draft=draft,
            policy=chosen,
            pruning=pruning or Pruning(),
            candidates=candidates,
            costs=costs or CostStore(),
            backend=backend or CpuBackend(),
            extensions=tuple(one.bind(target, draft) for one in asked),
            checks=checks,
            phase_times=phase_times,
        )

    @property
    def target(self) -> Any:
        """The model whose output is reproduced."""
        return self.settings.target

    @property
    def draft(self) -> Any:
        """The draft model or head; None without one."""
        return self.settings.draft

    @property
    def policy(self) -> Policy:
        """The tree policy."""
        return self.settings.policy

    def stream(
        self,
        *,
        reuse: PrefixReuse | None = None,
        prepared: Prepared | None = None,
        seed: int | None = None,
        **arguments: Any,
    ) -> DecodingSession:
        """Start decoding; iterate the result for a `Step` of the prefill and of each step.

        Args:
            reuse: caches of an earlier text, whose common prefix is not read again.
            prepared: the arguments as `generate` prepared them; the arguments are then the draft's
                inputs.
            seed: of a sampled text; None: torch's global generator, as in `generate`.
            arguments: the processor's outputs, and arguments of `generate`: ``max_new_tokens``,
                ``generation_config``, ``logits_processor``, ``stopping_criteria``...

        Raises:
            UnsupportedError: arguments that cannot be followed exactly.
        """
        inputs, options = split_arguments(arguments)
        return DecodingSession(
            self.settings, inputs, options, reuse=reuse, prepared=prepared, seed=seed
        )

    def generate(self, **arguments: Any) -> DecodeOutput:
        """Decode to the end. Takes what `stream` takes."""
        session = self.stream(**arguments)
        for _ in session:
            pass
        return session.output()

    def generate_batch(
        self, prompts: Iterable[Mapping[str, Any]], width: int | None = None, **shared: Any
    ) -> list[DecodeOutput]:
        """Decode several texts at once, each as `generate` would alone, with shared passes.

        Args:
            prompts: arguments of `generate` for each text; lengths and media may differ.
            width: most texts at once, the others wait for a slot; None: all.
            shared: further arguments of `generate` for all texts. Each text has the given ``seed``;
                without one, sampled texts of a batch depend on each other.

        Returns:
            An output for each prompt, in order. Seconds in ``stats`` are wall-clock seconds of
            that text: passes that it shared or waited for count in full.

        Raises:
            OptionError: a ``width`` below 1, ``reuse`` or ``prepared`` for several texts.
            UnsupportedError: as `generate`, and options that need one text alone.
            An error of any text, which ends the others.
        """
        given = [{**shared, **prompt} for prompt in prompts]
        for name in ("reuse", "prepared"):
            if any(name in arguments for arguments in given):
                raise OptionError(f"{name} belongs to one text: leave it out for several at once")
        check_width(1 if width is None else width)
        width = max(1, min(width or len(given), len(given)))
        scheduler = BatchScheduler(self.settings.target, width)
        decoder = self.attached(scheduler)
        jobs = (lambda one=one: decoder.stream(**one).passes() for one in given)
        with self.settings.backend.lock:
            outputs = {outcome.number: outcome.get() for outcome in scheduler.run(jobs)}
        return [outputs[number] for number in range(len(given))]

    def attached(self, scheduler: BatchScheduler) -> SpeculativeDecoder:
        """This decoder for texts of one batch.

        Raises:
            UnsupportedError: as `BatchScheduler.attach`.
        """
        decoder = object.__new__(SpeculativeDecoder)
        decoder.settings = scheduler.attach(self.settings)
        return decoder
