"""The processes of one run: alone, or several under ``accelerate launch`` or torchrun."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["ProcessGroup", "leads", "own_device"]


def leads() -> bool:
    """Whether this is the process that writes and tells, as its launcher numbered it."""
    return int(os.environ.get("RANK", "0")) == 0


def own_device() -> str:
    """What ``auto`` means: a GPU of its own for each of several processes, if there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "auto"


class ProcessGroup:
    """Which of how many processes this is, and what they add up together.

    Samples are dealt out by position, so the number of processes changes speed and rounding only.

    Args:
        device: where this process computes; on a GPU passes run in mixed precision, bfloat16.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = 0, 1
        self._device = device
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=device.type == "cpu")
            self.rank, self.size = int(state.process_index), int(state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and tells."""
        return self.rank == 0

    def computing(self) -> AbstractContextManager[object]:
        """Around each pass of the student."""
        if self._device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def add_gradients(self, parameters: Sequence[Tensor], share: float) -> None:
        """Make every parameter's gradient the sum over processes, times ``share``.

        One that was not used anywhere gets zeros, so that all processes take the same step.
        """
        grads = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            grads.append(parameter.grad)
        if self.size > 1:
            from accelerate.utils import reduce

            flat = reduce(torch.cat([grad.flatten() for grad in grads]), "sum")
            parts = flat.split([grad.numel() for grad in grads])
            for grad, part in zip(grads, parts, strict=True):
                grad.copy_(part.view_as(grad))
        for grad in grads:
            grad.mul_(share)

    def wait(self) -> None:
        """Until all processes are here."""
        self.add([0.0])

    def part(self) -> None:
        """Go separate ways. Left to the interpreter's end, gloo's threads may abort the process."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
            self.size = 1

    def add(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes."""
        if self.size == 1:
            return list(values)
        from accelerate.utils import reduce

        both = torch.tensor(values, dtype=torch.float64, device=self._device)
        total: list[float] = reduce(both, "sum").tolist()
        return total
