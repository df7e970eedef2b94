"""What a shaper is told before its first tree: what passes cost, what was learned of the pair.

After a text both are corrected by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sage_core.drafts.drafter import Drafter
from sage_core.drafts.tree_drafter import TreeDrafter
from sage_core.runtime.runner import Runner
from sage_core.trees.pass_costs import Costs, Curve
from sage_core.trees.policies import TreePlanner, spec
from sage_core.trees.steps import Step

if TYPE_CHECKING:
    from sage_core.engine.decoder import SpeculativeDecoder


def calibrate(
    decoder: SpeculativeDecoder, target: Runner, planner: TreePlanner, drafter: Drafter
) -> Callable[[Sequence[Step]], None] | None:
    """Tell the shaper what passes cost; gives what is to hear of the text's steps, if any is."""
    costs = decoder.costs
    if not planner.counts_costs or not isinstance(drafter, TreeDrafter) or not drafter.started:
        return None
    if isinstance(costs, Costs):
        planner.calibrate(costs)
        return None
    name, pair, context = key(decoder, target), pair_of(decoder), target.committed
    rehearsing = partial(time_pass, target, drafter, planner.branching)
    planner.calibrate(costs.costs(name, context, rehearsing))
    planner.recall(costs.learned(pair))

    def settle(steps: Sequence[Step]) -> None:
        costs.keep(pair, planner.learned())
        costs.learn(name, context, steps)

    return settle


def key(decoder: SpeculativeDecoder, target: Runner) -> str:
    """What passes of this pair cost depends on: devices, threads, passes, models, formats."""
    where = f"cpu x{torch.get_num_threads()}"
    if target.device.type == "cuda":
        where = torch.cuda.get_device_name(target.device)
    if target.backend != Runner.backend:
        where += f", {target.backend} passes"
    if decoder.reduced is not None:
        where += f", draft of {len(decoder.reduced)} tokens"
    models = (decoder.target, decoder.draft)
    names = [_described(model) for model in models]
    elsewhere = getattr(decoder.draft, "device", target.device)
    if elsewhere != target.device:
        names[1] += f" on {elsewhere}"
    return ", ".join([where, *names, torch.__version__])


def _described(model: Any) -> str:
    """A model's kind, size and number format: ``Qwen2ForCausalLM 28x3584 bfloat16``."""
    config = model.get_decoder().config
    size = f"{config.num_hidden_layers}x{config.hidden_size}"
    quantized = getattr(getattr(model, "config", None), "quantization_config", None)
    if quantized is not None:
        found = quantized if isinstance(quantized, dict) else quantized.to_dict()
        method = found.get("quant_method")
        fields = json.dumps(found, default=str, sort_keys=True)
        size += f" {getattr(method, 'value', method)} {_digest(fields.encode())}"
    return f"{type(model).__name__} {size} {str(model.dtype).removeprefix('torch.')}"


def pair_of(decoder: SpeculativeDecoder) -> str:
    """What a policy learns depends on: its options, the models and a little of their weights."""
    reduced = "" if decoder.reduced is None else f" of {len(decoder.reduced)} tokens"
    models = [f"{_described(m)} {_weights(m)}" for m in (decoder.target, decoder.draft)]
    return f"{spec(decoder.policy)}: {', '.join(models)}{reduced}"


@torch.no_grad()
def _weights(model: Any) -> str:
    """A few digits that tell models of one shape apart; of quantized weights nothing is read."""
    matrices = [
        w
        for w in model.get_decoder().parameters()
        if type(w) is nn.Parameter and w.dim() == 2 and not w.is_meta
    ]
    if not matrices:
        return ""
    return _digest(matrices[-1][:4].float().cpu().numpy().tobytes())


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:12]


TARGET_SIZES = (1, 2, 4, 8, 16, 32, 64)


DRAFT_SIZES = (1, 2, 4, 8, 12)


REPEATS = 3


_PASSES = REPEATS + 1


def time_pass(target: Runner, drafter: TreeDrafter, branching: int) -> Costs:
    """What passes over trees of several sizes cost now, behind the text that both have read.

    A draft pass counts with the ranking of its candidates. The least of `REPEATS` counts, and
    not the first pass of a size, since it may allocate.
    """

    def verify(tokens: int) -> None:
        target.forward([0] * tokens, [0] * tokens, np.eye(tokens, dtype=bool))
        target.commit([0])  # each pass behind a longer text, as in earnest

    verifying = _curve(verify, TARGET_SIZES, target.device)
    target.truncate(len(TARGET_SIZES) * _PASSES)
    drafting = _curve(lambda rows: drafter.time_pass(rows, branching), DRAFT_SIZES, target.device)
    drafter.discard_timed(len(DRAFT_SIZES) * _PASSES)
    return Costs(verifying, drafting)


def _curve(act: Callable[[int], None], sizes: Sequence[int], device: torch.device) -> Curve:
    # A busy machine only ever adds time: the least of several is nearest to what a pass costs, and
    # a pass over fewer tokens costs no more than one over more.
    times = [min([_seconds(act, size, device) for _ in range(_PASSES)][1:]) for size in sizes]
    points = [(size, min(times[i:])) for i, size in enumerate(sizes)]
    return tuple(points)


def _seconds(act: Callable[[int], None], size: int, device: torch.device) -> float:
    started = perf_counter()
    act(size)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - started
