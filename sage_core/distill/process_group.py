"""The processes of a run: one, or several under ``accelerate launch`` or torchrun."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def is_main_process() -> bool:
    """Whether this process writes files and messages, by the launcher's numbering."""
    return int(os.environ.get("RANK", "0")) == 0


def local_device() -> str:
    """The device of ``auto``: with several processes on GPUs, one GPU for each."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "auto"


class ProcessGroup:
    """Rank and size of the group, and its collective operations.

    Samples are assigned by position, so the number of processes changes speed and rounding only.
    On a GPU the student runs in mixed precision, bfloat16.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = 0, 1
        self._device = device
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            state = PartialState(cpu=device.type == "cpu")
            self.rank, self.size = int(state.process_index), int(state.num_processes)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """The context of the student's forward passes."""
        if self._device.type == "cuda":
            return torch.autocast("cuda", torch.bfloat16)
        return nullcontext()

    def sum_gradients(self, parameters: Sequence[Tensor], scale: float) -> None:
        """Make every gradient the sum over processes, times ``scale``.

        A parameter without a gradient gets zeros, so that all processes take the same step.
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
            grad.mul_(scale)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes. Every process must call it, with as many values."""
        if self.size == 1:
            return list(values)
        from accelerate.utils import reduce

        mine = torch.tensor(values, dtype=torch.float64, device=self._device)
        total: list[float] = reduce(mine, "sum").tolist()
        return total

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.sum([0.0])

    def close(self) -> None:
        """Leave the group. If left to the interpreter's end, gloo's threads may abort."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()
            self.size = 1
