"""One run from names to a report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sage_core.distill.data import split
from sage_core.distill.found import Found, find
from sage_core.distill.logs import Log
from sage_core.distill.options import DistillOptions
from sage_core.distill.process_group import ProcessGroup
from sage_core.distill.report import (
    REPORT,
    TIMED,
    Report,
    measure,
    shares,
    usable,
    weights_bytes,
)
from sage_core.distill.state import load_state
from sage_core.distill.student import Acceptance, Student
from sage_core.distill.teacher import Teacher
from sage_core.distill.trainer import Event, Tell, Trainer
from sage_core.errors import InputError, OptionError
from sage_core.pair_loading import LoadedPair

__all__ = ["distill", "new_student"]

_MAY_CHANGE = ("steps", "minutes", "checkpoint_every", "recompute", "decay")
"""Options that a run may be resumed with other values of."""


def distill(
    pair: LoadedPair,
    data: str | Path | Found,
    output: Path,
    options: DistillOptions,
    tell: Tell,
    *,
    resume: bool = False,
    tensorboard: bool = False,
) -> Report | None:
    """Train a draft for ``pair.target`` and measure it; None in processes that do not lead.

    Args:
        pair: the target, and the draft it had so far, which the new one is measured against.
        data: a folder of pictures and clips, or a ``.jsonl`` file, see `data.read_samples`; or
            what `found.find` made of it.
        output: where the draft goes, with ``log.csv``, ``report.json`` and the run's state.
        options: of the run.
        tell: called with what happens.
        resume: go on from the state in ``output``, if there is one.
        tensorboard: write event files too.

    Raises:
        InputError: nothing can be used, or ``output`` holds another run.
        OptionError, ModelError: the draft cannot be made.
        MemoryExhaustedError: with advice.
        OSError: ``output`` cannot be written.
    """
    found = data if isinstance(data, Found) else find(data, output, resume=resume)
    samples = found.samples
    crew = ProcessGroup(pair.target.get_output_embeddings().weight.device)
    if crew.leads:
        for note in found.notes:
            tell(Event(0, 0.0, note=note))
    train, held = split(len(samples), options.seed)
    teacher = Teacher(pair, samples, options)
    student = new_student(teacher, options)
    plan = _plan(pair, options, samples)
    state = load_state(output, plan) if resume else None
    trainer = Trainer(student, teacher, train, held, options, output, plan, crew, tell)
    if state is not None:
        trainer.resume(state)
    log = Log(output, trainer.step, tensorboard=tensorboard) if crew.leads else None
    try:
        trainer.run(log)
    finally:
        if log is not None:
            log.close()
    crew.part()
    if not crew.leads:
        return None
    report = _report(trainer, student, teacher, held, len(samples), options, output)
    text = json.dumps(report.as_json(), indent=2) + "\n"
    (output / REPORT).write_text(text, encoding="utf-8")
    return report


def new_student(teacher: Teacher, options: DistillOptions) -> Student:
    """The draft that ``options`` ask for, at its beginning.

    Raises:
        OptionError, ModelError: it cannot be made.
    """
    if options.kind == "model":
        from sage_core.distill.model_student import ModelStudent

        return ModelStudent(teacher, options)
    from sage_core.distill.head_student import HeadStudent

    return HeadStudent(teacher, options)


def _plan(pair: LoadedPair, options: DistillOptions, samples: list[Any]) -> dict[str, Any]:
    """What must not change when a run is resumed."""
    from sage_core.drafts.head.fingerprint import fingerprint

    chosen = {name: value for name, value in asdict(options).items() if name not in _MAY_CHANGE}
    text = repr([(s.files, s.prompt, s.answer) for s in samples])
    data = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return {**chosen, "target": fingerprint(pair.target), "data": data}


@torch.no_grad()
def _judged(student: Student, teacher: Teacher, held: list[int]) -> Acceptance:
    found = Acceptance()
    for index in held:
        try:
            found += student.evaluate(teacher.example(index))
        except (InputError, OptionError):  # it was told in training
            continue
    return found


def _report(
    trainer: Trainer,
    student: Student,
    teacher: Teacher,
    held: list[int],
    samples: int,
    options: DistillOptions,
    output: Path,
) -> Report:
    """Of the draft that was kept, which need not be the last."""
    trained = sum(p.numel() for p in student.module.parameters() if p.requires_grad)
    draft = student.load(output)
    # A run that is resumed may have told an earlier head what it foretells; that is not trained.
    student.module.load_state_dict(draft.state_dict(), strict=False)
    found = _judged(student, teacher, held)
    prompts = usable(teacher, held)
    timed = list(islice(prompts, TIMED))
    foretold = student.fit_acceptance(draft, prompts, output)
    before = [(teacher.pair.draft_id or "previous", teacher.pair.draft)]
    drafts = [*(before if teacher.pair.draft is not None else []), ("new", draft)]
    depths, ranks = shares(found)
    return Report(
        kind=options.kind,
        target=teacher.pair.target_id,
        output=str(output),
        steps=trainer.step,
        seconds=round(trainer.seconds, 1),
        samples=samples,
        held_out=len(held),
        tau=round(found.tau, 4),
        by_depth=depths,
        by_rank=ranks,
        parameters=trained,
        bytes=weights_bytes(output),
        foretold=foretold,
        speeds=measure(teacher, timed, drafts, options.max_new_tokens),
    )
