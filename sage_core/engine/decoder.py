"""`SpeculativeDecoder`: two loaded transformers models in, the target's own output, sooner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sage_core.drafts.head.checkpoint import check_head
from sage_core.drafts.head.module import Head
from sage_core.drafts.ngram import Ngram, as_ngram, is_lookup
from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead, reduced_head
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.engine.costs.store import CostStore, default_path
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.engine.results import DecodeOutput
from sage_core.engine.session import Stream
from sage_core.errors import OptionError
from sage_core.generation.lossy import Lossy, as_lossy, check_lossy
from sage_core.generation.prepare import Prepared
from sage_core.generation.sampling_params import check_candidates, check_viskip
from sage_core.runtime.backend import MakeRunner
from sage_core.runtime.cpu.runner import CpuRunners
from sage_core.runtime.cuda.runner import CudaGraphRunners
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies import Policy, parse

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
        runner: makes what runs a model, such as `captured.CudaGraphRunners()`, or `Runner` for plain
            passes; None: `packed.CpuRunners()`.
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
        costs: Costs | CostStore | None = None,
        lookup: str | Ngram | None = None,
        candidates: str = "topk",
        runner: MakeRunner | None = None,
        group: Group | None = None,
        draft_vocab: DraftVocab | Sequence[int] | ReducedHead | None = None,
        lossy: str | Lossy | None = None,
        viskip: float | None = None,
    ) -> None:
        self.policy = parse(policy)
        self.costs = costs or CostStore(default_path())
        self.candidates = candidates
        self.pruning = pruning or Pruning()
        if is_lookup(draft):
            draft, lookup = None, draft
        self.lookup = as_ngram(lookup) if lookup is not None else None
        check_candidates(candidates, self.policy, lookup=self.lookup is not None)
        self.runner = runner or CpuRunners()
        self.lossy = None if lossy is None else as_lossy(lossy)
        check_lossy(self.lossy, self.policy, candidates)
        eager = not isinstance(runner, CudaGraphRunners)
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
        reading: PrefixReuse | None = None,
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
        return Stream(self, inputs, reading or PrefixReuse(), prepared, seed)

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
