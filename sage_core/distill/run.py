"""A whole run: from a loaded target and samples to a trained draft and its report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from sage_core.distill.data import Sample, read_samples, split
from sage_core.distill.logs import Log
from sage_core.distill.options import DistillOptions
from sage_core.distill.process_group import ProcessGroup
from sage_core.distill.report import REPORT, TIMED, Report, measure
from sage_core.distill.state import check_output, load_state
from sage_core.distill.student import ChainAcceptance, Student
from sage_core.distill.teacher import Teacher, usable
from sage_core.distill.trainer import Event, OnEvent, Trainer
from sage_core.files.atomic_write import write_atomically
from sage_core.models.catalog import weight_bytes
from sage_core.pair_loading import LoadedPair

_MAY_CHANGE = ("steps", "minutes", "checkpoint_every", "recompute", "decay")
"""Options that may change when a run is resumed."""


def distill(
    pair: LoadedPair,
    data: str | Path | Sequence[Sample],
    output: Path,
    options: DistillOptions,
    on_event: OnEvent,
    *,
    resume: bool = False,
    tensorboard: bool = False,
) -> Report | None:
    """Train a draft for ``pair.target`` and measure it; None in all processes but the main one.

    Args:
        pair: the target, and the previous draft that the new one is compared with.
        data: a folder of images and videos, or a ``.jsonl`` file, see `data.read_samples`; or
            samples that were read before.
        output: folder for the draft, ``log.csv``, ``report.json`` and the state of the run.
        on_event: called with progress and notes.
        resume: continue from the state in ``output``, if there is one.

    Raises:
        InputError: no sample can be used, or ``output`` holds another run.
        OptionError, ModelError: such a draft cannot be made for this target.
        MemoryExhaustedError: with advice.
        OSError: ``output`` cannot be written.
    """
    if not resume:
        check_output(output)
    group = ProcessGroup(pair.target.get_output_embeddings().weight.device)

    def notice(text: str) -> None:
        if group.is_main:
            on_event(Event(0, 0.0, note=text))

    samples = read_samples(data, notice) if isinstance(data, (str, Path)) else data
    train, held_out = split(len(samples), options.seed)
    teacher = Teacher(pair, samples, options)
    student = new_student(teacher, options)
    identity = _identity(pair, options, samples)
    state = load_state(output, identity) if resume else None
    trainer = Trainer(student, teacher, train, held_out, options, output, identity, group, on_event)
    if state is not None:
        trainer.resume(state)
    log = Log(output, trainer.step, tensorboard=tensorboard) if group.is_main else None
    try:
        trainer.run(log)
    finally:
        if log is not None:
            log.close()
    group.close()
    if not group.is_main:
        return None
    report = _report(trainer, student, teacher, held_out, len(samples), options, output)
    text = json.dumps(report.as_json(), indent=2) + "\n"
    write_atomically(output / REPORT, text)
    return report


def new_student(teacher: Teacher, options: DistillOptions) -> Student:
    """The untrained draft that ``options`` describe.

    Raises:
        OptionError, ModelError: it cannot be made.
    """
    if options.kind == "model":
        from sage_core.distill.model_student import ModelStudent

        return ModelStudent(teacher, options)
    from sage_core.distill.head_student import HeadStudent

    return HeadStudent(teacher, options)


def _identity(
    pair: LoadedPair, options: DistillOptions, samples: Sequence[Sample]
) -> dict[str, Any]:
    """Options, target and samples that must be the same in a resumed run."""
    from sage_core.drafts.head.fingerprint import fingerprint

    chosen = {name: value for name, value in asdict(options).items() if name not in _MAY_CHANGE}
    text = repr([(s.files, s.prompt, s.answer) for s in samples])
    data = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return {**chosen, "target": fingerprint(pair.target), "data": data}


def _report(
    trainer: Trainer,
    student: Student,
    teacher: Teacher,
    held_out: list[int],
    samples: int,
    options: DistillOptions,
    output: Path,
) -> Report:
    """The report of the draft that was kept, which need not be the last."""
    draft = student.load(output)
    # After a resume the saved head may have an acceptance predictor, which is not trained here.
    student.module.load_state_dict(draft.state_dict(), strict=False)
    examples = usable(teacher.example, held_out)  # errors were reported in training
    found = sum((student.evaluate(example) for _, example in examples), ChainAcceptance())
    prompts = (prompt for _, prompt in usable(teacher.prompt, held_out))
    timed = list(islice(prompts, TIMED))
    nodes = student.fit_acceptance(draft, prompts, output)
    drafts = [("new", draft)]
    if teacher.pair.draft is not None:
        drafts.insert(0, (teacher.pair.draft_id or "previous", teacher.pair.draft))
    return Report(
        kind=options.kind,
        target=teacher.pair.target_id,
        output=str(output),
        steps=trainer.step,
        seconds=round(trainer.seconds, 1),
        samples=samples,
        held_out=len(held_out),
        tau=round(found.tau, 4),
        by_depth=tuple(round(share, 4) for share in found.by_depth),
        by_rank=tuple(round(share, 4) for share in found.by_rank),
        parameters=trainer.parameters,
        bytes=weight_bytes(output),
        acceptance_nodes=nodes,
        speeds=measure(teacher, timed, drafts, options.max_new_tokens),
    )
