"""A dry run: one real training step on the longest sample, measured; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf
from pathlib import Path
from time import monotonic
from typing import Any

from sage_core.distill.data import Sample, split
from sage_core.distill.options import DistillOptions
from sage_core.distill.process_group import ProcessGroup
from sage_core.distill.run import new_student
from sage_core.distill.teacher import Example, Teacher, usable
from sage_core.distill.trainer import Event, OnEvent, Trainer
from sage_core.errors import InputError
from sage_core.pair_loading import LoadedPair
from sage_core.runtime.device import peak_memory

_MEASURED = 64  # prompts whose length is looked at; preparing thousands of images takes long


@dataclass(frozen=True)
class DryRun:
    """What one step of a run needed, and what follows for the whole run."""

    target: str
    kind: str
    device: str
    parameters: int
    """Trained weights."""
    samples: int
    """Training samples, without held-out ones."""
    measured: int
    """Samples whose prompts were prepared to find the longest, evenly spread over all."""
    sample: str
    """The longest of them, by tokens of its prompt and of its own answer if it has one."""
    prompt_tokens: int
    visual_tokens: int
    answer_tokens: int
    batch: int
    peak_memory: int
    """Bytes since the start of the process: allocated on the device on CUDA, else resident."""
    answer_seconds: float
    """The target writing the sample's answer, needed once per sample; 0 for a given answer."""
    step_seconds: float
    """A step on ``batch`` copies of the sample, which the target reads anew each time."""
    steps: int
    """That fit into the time limit, at most those asked for."""
    seconds: float
    """Of the run, without evaluation and checkpoints."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def dry_run(
    pair: LoadedPair, samples: Sequence[Sample], options: DistillOptions, on_event: OnEvent
) -> DryRun:
    """Take one training step on the longest of ``samples`` and measure it.

    ``on_event`` is called with a note for each sample that cannot be used.

    Raises:
        InputError: none of the samples that were tried can be used.
        OptionError, ModelError: such a draft cannot be made for this target.
        MemoryExhaustedError: the step does not fit into memory; with advice.
    """
    group = ProcessGroup(pair.target.get_output_embeddings().weight.device)
    teacher = Teacher(pair, samples, options, cache_bytes=0)
    student = new_student(teacher, options)
    train, _ = split(len(samples), options.seed)
    tried = train[:: ceil(len(train) / _MEASURED)]
    index, sample, answer_seconds = _longest(teacher, tried, on_event)
    trainer = Trainer(student, teacher, [index], [], options, Path(), {}, group, on_event)
    begin = monotonic()
    trainer.take_step()
    step_seconds = monotonic() - begin
    steps, seconds = run_length(options, len(train), step_seconds, answer_seconds / group.size)
    found = DryRun(
        target=pair.target_id,
        kind=options.kind,
        device=pair.device,
        parameters=trainer.parameters,
        samples=len(train),
        measured=len(tried),
        sample=samples[index].name,
        **sample,
        batch=options.batch,
        peak_memory=peak_memory(teacher.device),
        answer_seconds=round(answer_seconds, 4),
        step_seconds=round(step_seconds, 4),
        steps=steps,
        seconds=round(seconds, 1),
    )
    group.close()
    return found


def _longest(
    teacher: Teacher, indices: Sequence[int], on_event: OnEvent
) -> tuple[int, dict[str, int], float]:
    """The longest usable sample, its tokens by kind, and the seconds that its answer took."""

    def left_out(error: Exception) -> None:
        on_event(Event(0, 0.0, note=f"{error}: left out"))

    def length(index: int) -> int:
        given = teacher.given_answer(index)
        tokens = int(teacher.prompt(index)["input_ids"].shape[1])
        return tokens + (0 if given is None else len(given))

    def read(index: int) -> tuple[int, float, Example]:
        begin = monotonic()
        answer = teacher.answer(index, teacher.prompt(index))
        seconds = monotonic() - begin if teacher.given_answer(index) is None else 0.0
        return len(answer), seconds, teacher.example(index)

    lengths = dict(usable(length, indices, left_out))
    longest_first = sorted(lengths, key=lambda one: -lengths[one])
    for index, (answer, seconds, example) in usable(read, longest_first, left_out):
        visual = int(example.visual.sum())
        counts = {"prompt_tokens": example.prompt_tokens, "visual_tokens": visual}
        return index, {**counts, "answer_tokens": answer}, seconds
    raise InputError("none of the training samples can be used: the messages before say why")


def run_length(
    options: DistillOptions, samples: int, step: float, answer: float
) -> tuple[int, float]:
    """Steps and seconds of a run in which the target writes each sample's answer once.

    ``step`` and ``answer`` are the seconds of one of them; ``samples`` is a number.
    """
    first = samples / options.batch  # steps in which answers are still to be written
    limit = 60 * options.minutes if options.minutes is not None else inf
    slow = step + options.batch * answer
    within = limit / slow if limit <= first * slow else first + (limit - first * slow) / step
    steps = min(options.steps or inf, ceil(within) if within < inf else inf)
    return int(steps), min(limit, steps * step + min(steps, first) * options.batch * answer)
