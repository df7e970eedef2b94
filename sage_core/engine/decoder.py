"""`SpeculativeDecoder`: two loaded transformers models in, the target's own output, sooner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.batching.scheduler import BatchScheduler, check_width
from sage_core.engine.costs.store import CostStore
from sage_core.engine.extensions import DecodingExtension
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.engine.results import DecodeOutput
from sage_core.engine.session import DecodingSession
from sage_core.engine.settings import DecoderSettings
from sage_core.errors import OptionError
from sage_core.generation.prepare import Prepared, split_arguments
from sage_core.runtime.backend import Backend
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policy import Policy


class SpeculativeDecoder:
    """Decoding of ``target`` by speculation with ``draft`` under a tree policy.

    Greedy unless the caller asks for ``do_sample``; a sampled text is distributed as the target's
    own, and with candidates ``topk`` it is the one that `generate` writes under the same seed.

    Args:
        target: a loaded transformers model with a `generate` method, in evaluation mode.
        draft: a smaller one with the same tokenizer; a `drafts.head.module.Head` of this target;
            ``"ngram"``, perhaps with options, drafts without a model by lookup in the text; None
            allows only ``autoregressive``.
        policy: a name or spec such as ``"sage-paper:dmax=12"``, or a `Policy`; None: ``sage`` with
            a draft and ``autoregressive`` without.
        pruning: what the draft reads of the visual tokens; it changes speed only.
        costs: what passes cost, for policies that weigh it: fixed, so that equal inputs give equal
            trees, or a `CostStore` that measures what it lacks. None: a store in memory.
        candidates: ``topk`` or ``drawn``, how a sampled text's candidates are chosen
            (`generation.speculative_sampling`).
        backend: how passes run: `CpuBackend` (the default), `CudaGraphBackend`, `EagerBackend`.
        phase_times: on CUDA, time the phases of each step, at the price of five device
            synchronisations a step.
        extensions: further extensions, as objects.
        options: options that change drafting or acceptance, by the names of
            `engine.extensions.available`: ``lookup`` (branches that are looked up join the tree
            while they pay), ``draft_vocab`` (the tokens that the draft scores), ``lossy`` (a rule
            that gives up the target's own text), ``viskip`` (draft nothing from this share of
            attention on visual tokens on).

    Raises:
        OptionError: unknown policy, candidates or option, or a drafting policy without a draft.
        ModelError: a head of another target.
        UnsupportedError: options that do not go together, or a model whose attention or logits a
            tree pass cannot reproduce.
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
        phase_times: bool = False,
        extensions: Sequence[DecodingExtension] = (),
        **options: Any,
    ) -> None:
        self.settings = DecoderSettings.of(
            target,
            draft,
            policy,
            pruning,
            costs,
            candidates,
            backend,
            phase_times,
            extensions,
            options,
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
        """Start decoding; iterate the result for a `Step` for the prefill and one per step.

        Args:
            reuse: the caches of an earlier text that this one may go on from; the arguments are
                those of the whole text all the same.
            prepared: what `generate` made of the arguments, if it has been asked already; the
                arguments are then only what the draft reads.
            seed: of everything that a sampled text draws; None draws from torch's global
                generator, as `generate` does.
            arguments: what the processor returned, and any argument of `generate` that sets the
                generation config: ``max_new_tokens``, ``repetition_penalty``, a
                ``generation_config``, ``logits_processor``, ``stopping_criteria``...

        Raises:
            UnsupportedError: the arguments ask for what cannot be followed exactly.
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
            prompts: for each text what `generate` takes; lengths and media may differ.
            width: the most texts at once, the others wait for a slot; None: all.
            shared: further arguments of `generate` for all of them. A ``seed`` is that of each
                text; without one, what texts that are sampled draw depends on their neighbours.

        Returns:
            An output for each prompt, in order. Seconds in ``stats`` are wall-clock seconds of
            that text: passes that it shared or waited for count in full.

        Raises:
            OptionError: a ``width`` below 1, ``reuse`` or ``prepared`` for several texts.
            UnsupportedError: what `generate` refuses, and options that need one text alone.
            What any text raises; the others are then ended.
        """
        given = [{**shared, **prompt} for prompt in prompts]
        for name in ("reuse", "prepared"):
            if any(name in arguments for arguments in given):
                raise OptionError(f"{name} belongs to one text: leave it out for several at once")
        check_width(1 if width is None else width)
        scheduler = BatchScheduler(
            self.settings.target, max(1, min(width or len(given), len(given)))
        )
        joined = self.attached(scheduler)
        jobs = (lambda one=one: joined.stream(**one).passes() for one in given)
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
