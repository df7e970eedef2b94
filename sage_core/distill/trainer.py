"""The training loop: gradient steps, evaluation on held-out samples, checkpoints."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import astuple, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from sage_core.distill.data import sample_at
from sage_core.distill.logs import Log
from sage_core.distill.options import DistillOptions, default_learning_rate
from sage_core.distill.process_group import ProcessGroup
from sage_core.distill.state import save_state
from sage_core.distill.student import ChainAcceptance, Student
from sage_core.distill.teacher import Example, Teacher
from sage_core.errors import InputError, OptionError
from sage_core.models.quiet import memory_errors

_ADVICE = "use --recompute, a lower --max-new-tokens, --depths or --max-pixels, or --dtype bfloat16"
_MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Event:
    """Progress of a run."""

    step: int
    seconds: float
    values: dict[str, float] = field(default_factory=dict)
    """``loss`` and its parts, ``lr``, ``tokens_per_second``; after an evaluation ``tau`` and
    ``tau/1``... of the held-out samples."""
    note: str = ""
    """A message for the user, such as a sample that is left out."""
    done: float = 0.0
    """Fraction of the run, 0 to 1."""


OnEvent = Callable[[Event], None]


class Trainer:
    """Trains a student until the steps or minutes of ``options`` are over.

    All randomness follows from the seed and the step, and samples are assigned by position: a
    resumed run takes the same steps as one that was not interrupted.

    Args:
        train, held_out: indices of training and evaluation samples.
        folder: where the best draft and the state are written.
        identity: kept in the state, see `state.load_state`.
        on_event: called with progress; with notes in every process, else in the main one.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        train: list[int],
        held_out: list[int],
        options: DistillOptions,
        folder: Path,
        identity: dict[str, Any],
        group: ProcessGroup,
        on_event: OnEvent,
    ) -> None:
        self._student, self._teacher = student, teacher
        self._train, self._held_out = train, held_out
        self._options, self._folder, self._identity = options, folder, identity
        self._group, self._on_event = group, on_event
        self._named = [(n, p) for n, p in student.module.named_parameters() if p.requires_grad]
        self._parameters = [p for _, p in self._named]
        self._rate = options.lr or default_learning_rate(teacher.hidden_size)
        self._optimizer = torch.optim.AdamW(
            self._parameters, self._rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.step = 0
        self.best = -1.0
        self.acceptance = ChainAcceptance()
        self.seconds = 0.0
        self._tokens = 0.0
        self._done = 0.0  # fraction of the run, the same in all processes
        self._unusable: set[int] = set()

    @property
    def parameters(self) -> int:
        """How many weights are trained."""
        return sum(p.numel() for p in self._parameters)

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from what `save_state` wrote."""
        with torch.no_grad():
            for name, parameter in self._named:
                parameter.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]

    def run(self, log: Log | None) -> None:
        """Train to the end; the best draft by held-out τ is then in the folder.

        Raises:
            InputError: no training sample can be used; in all processes alike.
            MemoryExhaustedError: with advice.
            OSError: the last checkpoint cannot be written; the one before it is complete.
        """
        before = self.seconds
        begin = monotonic() - before
        while not self._is_over(monotonic() - begin):
            values = self.take_step()
            self.seconds = seconds = monotonic() - begin
            values["tokens_per_second"] = self._tokens / max(1e-9, seconds - before)
            over = self._is_over(seconds)
            if self.step % self._options.checkpoint_every == 0 or over:
                values |= self._evaluate()
            if self._group.is_main:
                if log is not None:
                    log.write(self.step, seconds, values)
                self._on_event(Event(self.step, seconds, values, done=self._fraction(seconds)))
                if "tau" in values:
                    self._save(values["tau"], seconds, last=over)
        self._group.barrier()  # until the draft is written

    def _is_over(self, seconds: float) -> bool:
        """Whether the run is over, decided by the main process for all."""
        done = self._fraction(seconds) if self._group.is_main else 0.0
        self._done = self._group.sum([done])[0]
        return self._done >= 1

    def _fraction(self, seconds: float) -> float:
        steps, minutes = self._options.steps, self._options.minutes
        by_steps = self.step / steps if steps else 0.0
        return max(by_steps, seconds / (60 * minutes) if minutes else 0.0)

    def take_step(self) -> dict[str, float]:
        """One optimizer step; returns the mean loss and its parts.

        Raises:
            InputError: no training sample can be used; in all processes alike.
            MemoryExhaustedError: with advice.
        """
        with memory_errors("during training", _ADVICE):
            values = self._take_step()
        self.step += 1
        return values

    def _take_step(self) -> dict[str, float]:
        options, group = self._options, self._group
        totals: dict[str, float] = {"loss": 0.0}
        used = tokens = 0
        for place in range(group.rank, options.batch, group.size):
            position = self.step * options.batch + place
            example = self._example(sample_at(self._train, options.seed, position))
            if example is None:
                continue
            _seed(options.seed, position)
            with group.autocast():
                output = self._student.compute_loss(example)
            output.loss.backward()
            totals["loss"] += float(output.loss.detach())
            for name, value in output.parts.items():
                totals[name] = totals.get(name, 0.0) + float(value)
            used += 1
            tokens += example.answer_tokens
        names = ["loss", options.loss, *([] if options.kind == "model" else ["features"])]
        *sums, all_used, all_tokens = group.sum(
            [*(totals.get(name, 0.0) for name in names), used, tokens]
        )
        self._tokens += all_tokens
        if not all_used:  # in all processes, so all of them come here
            self._check_any_usable()
            return dict.fromkeys(names, 0.0)
        group.sum_gradients(self._parameters, 1 / all_used)
        torch.nn.utils.clip_grad_norm_(self._parameters, _MAX_GRADIENT_NORM)
        left, decay = 1 - self._done, options.decay
        rate = self._rate * (left / decay if left < decay else 1.0)
        for parameters in self._optimizer.param_groups:
            parameters["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        means = {name: total / all_used for name, total in zip(names, sums, strict=True)}
        return {**means, "lr": rate}

    def _check_any_usable(self) -> None:
        """Raise if every training sample has failed in some process. All processes must call it;
        all of them then know which samples failed, and all raise or none."""
        samples = sorted(set(self._train))
        failed = self._group.sum([float(index in self._unusable) for index in samples])
        self._unusable |= {index for index, count in zip(samples, failed, strict=True) if count}
        if all(failed):
            raise InputError(
                "none of the training samples can be used: the messages before say why each was "
                "left out"
            )

    def _example(self, index: int) -> Example | None:
        """A sample's example, or None, with a note, if it cannot be used."""
        if index in self._unusable:
            return None
        try:
            return self._teacher.example(index)
        except (InputError, OptionError) as error:
            self._unusable.add(index)
            self._on_event(Event(self.step, 0.0, note=f"{error}: left out"))
            return None

    def _evaluate(self) -> dict[str, float]:
        """τ of the held-out samples, and the acceptance at each depth of the chain."""
        mine = ChainAcceptance()
        self._student.module.eval()
        for index in self._held_out[self._group.rank :: self._group.size]:
            with memory_errors("during evaluation", _ADVICE):
                example = self._example(index)
                if example is not None:
                    with self._group.autocast():
                        mine += self._student.evaluate(example)
        self._student.module.train()
        counts = [self._group.sum(part) for part in astuple(mine)]
        self.acceptance = ChainAcceptance(*(tuple(map(int, part)) for part in counts))
        by_depth = {f"tau/{depth}": x for depth, x in enumerate(self.acceptance.by_depth, 1)}
        return {"tau": self.acceptance.tau, **by_depth}

    def _save(self, tau: float, seconds: float, *, last: bool) -> None:
        """Save the state, and the draft if it is the best so far; errors count the last time."""
        unknown = not self.acceptance.reached[0]
        if unknown and self.best < 0:
            note = "none of the held-out samples can be used: the latest draft is kept"
            self._on_event(Event(self.step, seconds, note=note))
        try:
            if unknown or tau > self.best:
                self._student.save(self._folder)
                self.best = tau
            save_state(
                self._folder,
                {
                    **{"plan": self._identity, "step": self.step, "best": self.best},
                    "seconds": seconds,
                    "weights": {name: p.detach().cpu() for name, p in self._named},
                    "optimizer": self._optimizer.state_dict(),
                },
            )
        except OSError as error:
            if last:
                raise
            note = f"the checkpoint of step {self.step} cannot be written: {error}"
            self._on_event(Event(self.step, seconds, note=note + ": the one before it is kept"))


def _seed(seed: int, position: int) -> None:
    """Make what is drawn for a sample depend on its position in the run alone."""
    torch.manual_seed(random.Random(f"{seed}:{position}").getrandbits(63))
