"""Unusable samples: all processes of a run reach the same decision, and say what is unusable."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sage_core.distill.process_group import ProcessGroup
from sage_core.distill.student import EVALUATED_DEPTH, RANKS, ChainAcceptance, LossOutput
from sage_core.distill.trainer import Event, Trainer
from sage_core.errors import InputError
from tests.core import distill_runs

TRAIN, HELD_OUT = [0, 1, 2, 3], [4, 5]


class FakeGroup(ProcessGroup):
    """A group whose processes are threads. A process left alone fails instead of hanging."""

    def __init__(self, rank: int, values: list[Any], barrier: Barrier) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.size = rank, len(values)
        self._values, self._barrier = values, barrier

    def sum(self, values: Sequence[float]) -> list[float]:
        self._values[self.rank] = list(values)
        self._barrier.wait(10)
        total = [sum(column) for column in zip(*self._values, strict=True)]
        self._barrier.wait(10)
        return total

    def sum_gradients(self, parameters: Any, scale: float) -> None:
        for parameter in parameters:
            gradient = [0.0] * parameter.numel()
            if parameter.grad is not None:
                gradient = parameter.grad.flatten().tolist()
            parameter.grad = torch.tensor(self.sum(gradient)).view_as(parameter) * scale


class FakeTeacher:
    hidden_size = 8

    def __init__(self, unusable: Collection[int]) -> None:
        self._unusable = unusable

    def example(self, index: int) -> Any:
        if index in self._unusable:
            raise InputError(f"sample {index} is damaged")
        return SimpleNamespace(answer_tokens=3)


class FakeStudent:
    def __init__(self) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        self.saves = 0

    def compute_loss(self, example: Any) -> LossOutput:
        loss = self.module(torch.ones(1, 1)).sum()
        return LossOutput(loss, {"sage": loss.detach(), "features": loss.detach()})

    def evaluate(self, example: Any) -> ChainAcceptance:
        return ChainAcceptance((3,) * EVALUATED_DEPTH, (1,) * EVALUATED_DEPTH, (3,) * (RANKS + 1))

    def save(self, folder: Path) -> None:
        self.saves += 1


def _run(
    folder: Path, unusable: Collection[int], processes: int, **more: Any
) -> tuple[list[BaseException | None], list[str], list[FakeStudent]]:
    """What each process raised, all notes, and the students."""
    given: dict[str, Any] = {"steps": 24, "batch": processes, "checkpoint_every": 1, **more}
    options = distill_runs.options(**given)
    values: list[Any] = [None] * processes
    barrier, notes = Barrier(processes), []
    students = [FakeStudent() for _ in range(processes)]

    def note(event: Event) -> None:
        if event.note:
            notes.append(event.note)

    def process(rank: int) -> None:
        group = FakeGroup(rank, values, barrier)
        student, teacher = students[rank], FakeTeacher(unusable)
        parts: Any = (student, teacher, TRAIN, HELD_OUT, options, folder, {}, group, note)
        Trainer(*parts).run(None)

    with ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(process, rank) for rank in range(processes)]
    return [future.exception() for future in futures], notes, students


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_no_usable_training_sample_is_an_error_in_all_processes(
    tmp_path: Path, processes: int
) -> None:
    errors, notes, _ = _run(tmp_path, TRAIN, processes)
    for error in errors:
        assert isinstance(error, InputError) and "none of the training samples" in str(error)
    assert {f"sample {index} is damaged: left out" for index in TRAIN} <= set(notes)


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("unusable", [[4, 5, 0, 1], [4, 0, 1, 2], [5, 1, 2, 3], [4, 5]])
def test_one_usable_training_sample_is_enough(
    tmp_path: Path, processes: int, unusable: list[int]
) -> None:
    """With one sample a step and held-out failures, steps without any sample come early."""
    errors, notes, _ = _run(tmp_path, unusable, processes)
    assert errors == [None] * processes
    assert {f"sample {index} is damaged: left out" for index in unusable} <= set(notes)


def test_without_held_out_samples_the_latest_draft_is_kept(tmp_path: Path) -> None:
    errors, notes, students = _run(tmp_path, HELD_OUT, 2, steps=5)
    assert errors == [None, None]
    assert sum("none of the held-out samples can be used" in note for note in notes) == 1
    assert [student.saves for student in students] == [5, 0]
    _, _, students = _run(tmp_path, [], 1, steps=5)
    assert students[0].saves == 1  # τ is the same each time
