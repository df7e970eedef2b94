"""One target over several GPUs, a process each, by transformers' tensor parallelism.

Every process runs the same loop over its shard of the target. Process 0, the leader, drafts, plans
and accepts, and broadcasts trees and committed tokens, so that rounding and timing cannot make
processes diverge::

    with tensor_parallel.joined() as group:                # under torchrun, a process per GPU
        target = tensor_parallel.load_target("path/to/72b", torch.bfloat16)
        draft = load_draft() if group.leads else None
        output = group.decoder(target, draft, "static").generate(**inputs)

All processes make the same calls in the same order and decode texts to the end: if one stops early,
the others wait until the process group's timeout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.distributed as dist
from torch import Tensor

from sage_core.drafts.drafter import Drafter
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.extensions import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import ModelError, OptionError
from sage_core.generation.acceptance import AcceptRule
from sage_core.generation.sequence import TokenSequence
from sage_core.models.catalog import weight_files
from sage_core.models.checkpoint import load_config
from sage_core.runtime.passes import Passes
from sage_core.runtime.runner import PromptOutputs
from sage_core.trees.pass_costs import Costs
from sage_core.trees.policies.sage.policy import UNKNOWN
from sage_core.trees.policy import TreePlanner
from sage_core.trees.steps import Acceptance, Proposal
from sage_core.trees.tree import TokenTree


@dataclass(frozen=True)
class Group(DecodingExtension):
    """The processes that share a target, as an extension of drafting and acceptance."""

    rank: int
    size: int

    name: ClassVar[str] = "tensor_parallel"
    single_text: ClassVar[bool] = True
    order: ClassVar[int] = 10

    @classmethod
    def parse(cls, value: Any) -> Self:
        raise OptionError("a group of processes is joined by `joined`")

    @property
    def leads(self) -> bool:
        """True in process 0, which drafts and accepts."""
        return self.rank == 0

    def broadcast(self, value: Any) -> Any:
        """The leader's ``value``, in every process."""
        box = [value if self.leads else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
        strategy = replace(parts.strategy, accept=self._accepting(parts.strategy.accept))
        return replace(parts, drafter=_SharedDrafter(self, parts.drafter), strategy=strategy)

    def _accepting(self, rule: AcceptRule) -> AcceptRule:
        """``rule`` in the leader; its tokens are appended in every process."""

        def accept(proposal: Proposal, logits: Tensor, sequence: TokenSequence) -> Acceptance:
            outcome: Acceptance = self.broadcast(
                rule(proposal, logits, sequence) if self.leads else None
            )
            if not self.leads:
                for token in outcome.tokens:
                    sequence.append(token)
            return outcome

        return accept

    def decoder(
        self,
        target: Any,
        draft: Any = None,
        policy: str = "static",
        costs: Costs = UNKNOWN,
        **options: Any,
    ) -> SpeculativeDecoder:
        """A decoder of the shared target; ``draft`` and ``policy`` are used by the leader only.

        Args:
            target: of `load_target`.
            draft: unsharded, on the leader's device; None in the other processes.
            policy: as for `SpeculativeDecoder`.
            costs: of passes, for policies that weigh them; they cannot be measured, because the
                leader cannot make a pass alone.
            options: of `SpeculativeDecoder`.

        Raises:
            OptionError: a draft in a process other than the leader.
        """
        if not self.leads:
            if draft is not None:
                raise OptionError("only process 0 drafts: load the draft there alone")
            draft, policy = None, "autoregressive"
        return SpeculativeDecoder(target, draft, policy, costs=costs, extensions=[self], **options)


class _SharedDrafter(Drafter):
    """Drafts in the leader; its trees are broadcast to every process."""

    def __init__(self, group: Group, drafter: Drafter) -> None:
        self._group = group
        self._drafter = drafter
        self.needs_features = group.leads and drafter.needs_features

    def prefill(self, first: int, prompt: PromptOutputs) -> Passes[None]:
        if self._group.leads:
            yield from self._drafter.prefill(first, prompt)

    def propose(self, planner: TreePlanner, sequence: TokenSequence) -> Passes[Proposal]:
        proposal: Proposal | None = None
        if self._group.leads:
            proposal = yield from self._drafter.propose(planner, sequence)
        shared: Proposal = self._group.broadcast(proposal)
        return shared

    def observe(self, tree: TokenTree, outcome: Acceptance, hidden: Tensor) -> None:
        if self._group.leads:
            self._drafter.observe(tree, outcome, hidden)


@contextmanager
def joined() -> Iterator[Group]:
    """The group of the processes that torchrun started, this one on the GPU of its local rank.

    The backend is NCCL on CUDA, else gloo. An existing default group is used and kept.

    Raises:
        OptionError: not started by torchrun.
    """
    made = not dist.is_initialized()
    if made and "RANK" not in os.environ:
        raise OptionError("tensor parallelism needs a process per GPU: start this with torchrun")
    if made:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    finally:
        if made:
            dist.destroy_process_group()


def load_target(path: str, dtype: torch.dtype) -> Any:
    """This process's shard of the model at ``path``, by transformers' plan for it.

    Raises:
        ModelError: there is no such plan, or the heads cannot be divided evenly.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.distributed import DistributedConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    config = _checked_config(path)
    sees = config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    kind = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    shared = DistributedConfig(tp_plan="auto")
    weight_files(Path(path))  # refuses names that lead out of the folder
    model = kind.from_pretrained(
        path, config=config, dtype=dtype, distributed_config=shared, use_safetensors=True
    )
    return model.eval()


def _checked_config(path: str) -> Any:
    config = load_config(Path(path))
    text, size = config.get_text_config(), dist.get_world_size()
    if not getattr(text, "base_model_tp_plan", None):
        raise ModelError(
            f"{path}: transformers has no tensor-parallel plan for {text.model_type}: leave it to "
            "--device auto"
        )
    for heads in (text.num_attention_heads, text.num_key_value_heads):
        if heads % size:
            raise ModelError(
                f"{path}: {heads} attention heads cannot be divided by {size} processes: start a "
                "number that divides them"
            )
    return config
