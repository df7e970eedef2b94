"""The training loop: lessons, gradients, steps; a look at held-out samples and a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import torch

from sage_core.distill.data import order
from sage_core.distill.logs import Log
from sage_core.distill.options import DistillOptions, rate_for
from sage_core.distill.process_group import ProcessGroup
from sage_core.distill.state import save_state
from sage_core.distill.student import Acceptance, Student
from sage_core.distill.teacher import Teacher
from sage_core.errors import InputError, OptionError
from sage_core.models.quiet import memory_errors

__all__ = ["Event", "Trainer"]

_ADVICE = "use --recompute, a lower --max-new-tokens, --depths or --max-pixels, or --dtype bfloat16"
_LARGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Event:
    """What a run tells as it goes on."""

    step: int
    seconds: float
    values: dict[str, float] = field(default_factory=dict)
    """``loss`` and its parts, ``tokens_per_second``; ``tau`` and ``tau/1``... of held-out
    samples."""
    note: str = ""
    """Something a person should know, such as a picture that is left out."""
    done: float = 0.0
    """The share of the run, 0 to 1."""


Tell = Callable[[Event], None]


class Trainer:
    """Trains a student until the steps or minutes of ``options`` are over.

    Everything random follows from the seed and the step, and samples are dealt out by position:
    a run that goes on from a checkpoint takes the steps that it would have taken.

    Args:
        student: what is trained.
        teacher: what it learns from.
        train: indices of samples to train on.
        held: indices of those to judge by.
        options: of the run.
        folder: where the best draft and the state go.
        plan: kept in the state, see `state.load_state`.
        crew: the processes.
        tell: called with what happens, in the process that leads.
    """

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        train: list[int],
        held: list[int],
        options: DistillOptions,
        folder: Path,
        plan: dict[str, Any],
        crew: ProcessGroup,
        tell: Tell,
    ) -> None:
        self._student, self._teacher = student, teacher
        self._train, self._held = train, held
        self._options, self._folder, self._plan = options, folder, plan
        self._crew, self._tell = crew, tell
        self._named = [(n, p) for n, p in student.module.named_parameters() if p.requires_grad]
        self._parameters = [p for _, p in self._named]
        self._rate = options.lr or rate_for(teacher.hidden_size)
        self._optimizer = torch.optim.AdamW(
            self._parameters, self._rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.step = 0
        self.best = -1.0
        self.held_out = Acceptance()
        self.seconds = 0.0
        self._left_out: set[int] = set()

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `save_state` wrote."""
        with torch.no_grad():
            for name, parameter in self._named:
                parameter.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]

    def run(self, log: Log | None) -> None:
        """Train to the end; the best draft by held-out τ is then in the folder.

        Raises:
            InputError: no sample can be used.
            MemoryExhaustedError: with advice.
            OSError: the last checkpoint cannot be written; the one before it is whole.
        """
        before = self.seconds
        begin = monotonic() - before
        while not self._over(monotonic() - begin):
            with memory_errors("while training", _ADVICE):
                values = self._take_step()
            self.step += 1
            self.seconds = seconds = monotonic() - begin
            values["tokens_per_second"] = self._tokens / max(1e-9, seconds - before)
            over = self._over(seconds)
            if self.step % self._options.checkpoint_every == 0 or over:
                values |= self._judged()
            if self._crew.leads:
                if log is not None:
                    log.row(self.step, seconds, values)
                self._tell(Event(self.step, seconds, values, done=self._done(seconds)))
                if "tau" in values:
                    self._keep(values["tau"], seconds, last=over)
        self._crew.wait()  # until the draft is written

    def _over(self, seconds: float) -> bool:
        """Whether the run is over, for all processes alike."""
        done = self._done(seconds) if self._crew.leads else 0.0
        self._run = self._crew.add([done])[0]
        return self._run >= 1

    def _done(self, seconds: float) -> float:
        steps, minutes = self._options.steps, self._options.minutes
        by_steps = self.step / steps if steps else 0.0
        return max(by_steps, seconds / (60 * minutes) if minutes else 0.0)

    _tokens = 0.0
    _run = 0.0  # the share of the run that is done, the same in all processes

    def _faded(self) -> float:
        """The learning rate now."""
        left, decay = 1 - self._run, self._options.decay
        return self._rate * (left / decay if left < decay else 1.0)

    def _take_step(self) -> dict[str, float]:
        """One step of the optimizer; the mean loss and its parts."""
        options, crew = self._options, self._crew
        totals: dict[str, float] = {"loss": 0.0}
        used = tokens = 0
        for place in range(crew.rank, options.batch, crew.size):
            position = self.step * options.batch + place
            example = self._example(order(self._train, options.seed, position))
            if example is None:
                continue
            _seed(options.seed, position)
            with crew.computing():
                lost = self._student.compute_loss(example)
            lost.loss.backward()
            totals["loss"] += float(lost.loss.detach())
            for name, value in lost.parts.items():
                totals[name] = totals.get(name, 0.0) + float(value)
            used += 1
            tokens += example.answer_tokens
        names = ["loss", *self._part_names()]
        *sums, used_all, tokens_all = crew.add([*(totals.get(n, 0.0) for n in names), used, tokens])
        self._tokens += tokens_all
        if not used_all:  # nothing to step on; unless a later batch has something, that is the end
            if len(self._left_out) >= len(self._train[:: crew.size]):
                raise InputError("none of the samples can be used: see what was left out")
            return dict.fromkeys(names, 0.0)
        share = 1 / used_all
        crew.add_gradients(self._parameters, share)
        torch.nn.utils.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT)
        rate = self._faded()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return {**{name: x * share for name, x in zip(names, sums, strict=True)}, "lr": rate}

    def _part_names(self) -> list[str]:
        features = [] if self._options.kind == "model" else ["features"]
        return [self._options.loss, *features]

    def _example(self, index: int) -> Any:
        """A lesson, or None for a sample that cannot be used; that is told once."""
        if index in self._left_out:
            return None
        try:
            return self._teacher.example(index)
        except (InputError, OptionError) as error:
            self._left_out.add(index)
            self._tell(Event(self.step, 0.0, note=f"{error}: left out"))
            return None

    def _judged(self) -> dict[str, float]:
        """τ of the held-out samples, of the chain's depths too."""
        found = Acceptance()
        self._student.module.eval()
        for index in self._held[self._crew.rank :: self._crew.size]:
            with memory_errors("while judging", _ADVICE):
                example = self._example(index)
                if example is not None:
                    with self._crew.computing():
                        found += self._student.evaluate(example)
        self._student.module.train()
        depths = len(found.reached)
        counts = self._crew.add([*found.reached, *found.accepted, *found.ranks])
        whole = [int(count) for count in counts]
        found = Acceptance(
            tuple(whole[:depths]), tuple(whole[depths : 2 * depths]), tuple(whole[2 * depths :])
        )
        self.held_out = found
        by_depth = {f"tau/{depth}": share for depth, share in enumerate(found.by_depth, 1)}
        return {"tau": found.tau, **by_depth}

    def _keep(self, tau: float, seconds: float, *, last: bool) -> None:
        """Save the draft if it is the best so far, and the state; the last time it must work."""
        try:
            if tau > self.best:
                self._student.save(self._folder)
                self.best = tau
            save_state(
                self._folder,
                {
                    "plan": self._plan,
                    "step": self.step,
                    "best": self.best,
                    "seconds": seconds,
                    "weights": {name: p.detach().cpu() for name, p in self._named},
                    "optimizer": self._optimizer.state_dict(),
                },
            )
        except OSError as error:
            if last:
                raise
            note = f"the checkpoint of step {self.step} is not written: {error}"
            self._tell(Event(self.step, seconds, note=note + ": the one before it is kept"))


def _seed(seed: int, position: int) -> None:
    """What is drawn while a sample is passed depends on nothing but its place in the run."""
    torch.manual_seed(random.Random(f"{seed}:{position}").getrandbits(63))
