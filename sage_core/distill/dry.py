"""A dry run: what distilling would need for this target and this data, before weights are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sage_core.distill.data import Sample, read_samples, split
from sage_core.distill.options import DistillOptions
from sage_core.distill.plan import Machine, Plan, Shape, Target, make_plan
from sage_core.distill.teacher import read_prompt
from sage_core.errors import InputError, OptionError
from sage_core.models.checkpoint import inspect
from sage_core.models.families import find_family
from sage_core.models.pair_names import find_pair
from sage_core.models.quantization import find_method
from sage_core.models.visual_tokens import visual_mask

__all__ = ["DryRun", "dry_run"]

_LOOKED_AT = 8


@dataclass(frozen=True)
class DryRun:
    """A plan, and what it was made for."""

    target: str
    samples: int
    """That are trained on."""
    shape: Shape
    """The longest of those that were looked at."""
    machine: Machine
    plan: Plan

    def seconds(self, steps: int, batch: int) -> float:
        """Of so many steps; each sample's answer is written once."""
        seconds = self.plan.seconds
        return steps * seconds["step"] + min(steps * batch, self.samples) * seconds["write"]


def dry_run(
    target: str | Path | None,
    data: str | Path,
    options: DistillOptions,
    machine: Machine,
    notice: Callable[[str], None],
    *,
    dtype: str = "auto",
    quantization: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> DryRun:
    """Plan for the longest prompt of the first samples, with answers as long as they may be.

    Args:
        target, dtype, quantization, revision, trust_remote_code: as `load_pair` takes them;
            dtype ``auto`` is the checkpoint's own on a GPU and float32 on a CPU.
        data: as `read_samples` takes it.
        options: of the run.
        machine: that it is planned for.
        notice: told which samples cannot be used.

    Raises:
        InputError: none of the first samples can be used.
        ModelError: not found, damaged, or of an unknown kind.
        OptionError: options that no such draft has.
    """
    method = find_method(quantization)
    names = find_pair(target, None)
    part = inspect(names.target, names.target_id, revision, trust_remote_code, method)
    samples = read_samples(data, notice)
    family = find_family(part.config)(part.checkpoint.folder, part.config, part.tokenizer)
    shapes = [
        shape
        for sample in samples[:_LOOKED_AT]
        if (shape := _shape(family, part.config, sample, options, notice)) is not None
    ]
    if not shapes:
        raise InputError("none of the first samples can be used: see what was left out")
    if dtype == "auto":
        dtype = part.size.own_dtype if machine.gpu else "float32"
    described = Target.of(names.target_id, part.config, dtype, method)
    shape = max(shapes, key=lambda one: one.prompt)
    plan = make_plan(described, shape, options, machine)
    train, _ = split(len(samples), options.seed)
    return DryRun(names.target_id, len(train), shape, machine, plan)


def _shape(
    family: Any, config: Any, sample: Sample, options: DistillOptions, notice: Callable[[str], None]
) -> Shape | None:
    try:
        inputs = read_prompt(family, sample, options.max_pixels)
    except (InputError, OptionError) as error:
        notice(f"{error}: left out")
        return None
    ids = inputs["input_ids"]
    return Shape(
        prompt=int(ids.shape[1]),
        visual=int(visual_mask(config, ids)[0].sum()),
        patches=_patches(inputs, config),
        answer=options.max_new_tokens,
    )


def _patches(inputs: dict[str, Any], config: Any) -> int:
    """Patches that the vision tower reads."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return 0
    pixels = [v for name, v in inputs.items() if name.startswith("pixel") and _is_float(v)]
    channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3
    each = channels * vision.patch_size**2 * getattr(vision, "temporal_patch_size", 1)
    return int(sum(v.numel() for v in pixels) // each)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()
