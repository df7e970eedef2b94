"""Data parallelism over single-threaded processes that average gradients in each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """This process among ``size``; with one process, methods do nothing."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def join(rank: int, size: int, meeting: Path) -> Group:
        """Initialize the process group through a file, with one thread per process."""
        if size > 1:
            torch.set_num_threads(1)
            dist.init_process_group(
                "gloo", init_method=f"file://{meeting}", rank=rank, world_size=size
            )
        return Group(rank, size)

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, value: float) -> float:
        """The value of the first process."""
        if self.size == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)

    def mean_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the processes."""
        if self.size == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in grads])
        dist.all_reduce(flat)
        flat /= self.size
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    def owned(self, index: int) -> bool:
        return index % self.size == self.rank

    @torch.no_grad()
    def share(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Broadcast the parameters that each process owns."""
        if self.size == 1:
            return
        for owner in range(self.size):
            mine = [p for i, p in enumerate(parameters) if i % self.size == owner]
            flat = torch.cat([p.reshape(-1) for p in mine])
            dist.broadcast(flat, owner)
            if owner != self.rank:
                for p, part in zip(mine, flat.split([p.numel() for p in mine]), strict=True):
                    p.copy_(part.view_as(p))
