"""What passes cost a decoder: told to its shaper before the first tree, corrected after a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from sage_core.costbook import CostBook
from sage_core.costs import Costs
from sage_core.drafter import Drafter, TreeDrafter
from sage_core.policies import Shaper
from sage_core.rehearsal import rehearse
from sage_core.runner import Runner

if TYPE_CHECKING:
    from sage_core.speculative import SpeculativeDecoder


def calibrate(
    decoder: SpeculativeDecoder, target: Runner, shaper: Shaper, drafter: Drafter
) -> CostBook | None:
    """Tell the shaper what passes cost; gives the book that learns from this text, if any."""
    costs = decoder.costs
    if not shaper.counts_costs or not isinstance(drafter, TreeDrafter) or not drafter.started:
        return None
    if isinstance(costs, Costs):
        shaper.calibrate(costs)
        return None
    measured = costs.costs(
        key(decoder, target),
        target.committed,
        lambda: rehearse(target, drafter, shaper.branching),
    )
    shaper.calibrate(measured)
    return costs


def key(decoder: SpeculativeDecoder, target: Runner) -> str:
    """What passes of this pair cost depends on: device, threads, passes, models, dtypes."""
    where = f"cpu x{torch.get_num_threads()}"
    if target.device.type == "cuda":
        where = torch.cuda.get_device_name(target.device)
    if target.way != Runner.way:
        where += f", {target.way} passes"
    if decoder.reduced is not None:
        where += f", draft of {len(decoder.reduced)} tokens"
    models = (decoder.target, decoder.draft)
    return ", ".join([where, *(_described(model) for model in models), torch.__version__])


def _described(model: Any) -> str:
    """A model's kind and size, without its weights: ``Qwen2ForCausalLM 28x3584 bfloat16``."""
    config = model.get_decoder().config
    size = f"{config.num_hidden_layers}x{config.hidden_size}"
    return f"{type(model).__name__} {size} {str(model.dtype).removeprefix('torch.')}"
