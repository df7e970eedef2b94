"""Whole runs on a tiny target: training, resuming, and what remains after a failure."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sage_core.distill import run as running
from sage_core.distill import state as states
from sage_core.distill.data import read_samples
from sage_core.distill.head_student import HeadStudent
from sage_core.distill.run import distill
from sage_core.distill.student import Student
from sage_core.distill.teacher import Teacher
from sage_core.distill.trainer import Event, Trainer
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import InputError, MemoryExhaustedError
from sage_core.pair_loading import load_pair
from tests.core import distill_runs, saved_families

KINDS: list[dict[str, Any]] = [
    {"kind": "head"},
    {"kind": "specvlm"},
    {"kind": "specvlm", "mode": "select", "loss": "acceptance"},
    {"kind": "specvlm", "mode": "concat", "recompute": True},
    {"kind": "vispec"},
    {"kind": "model", "hidden": 32, "layers": 1, "recompute": True},
]
_NAMES = ["-".join(str(value) for value in kind.values()) for kind in KINDS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return distill_runs.save_data(tmp_path_factory.mktemp("distill"))


def _student(data: tuple[Path, Path], **more: Any) -> tuple[Student, Teacher]:
    target, pictures = data
    options = distill_runs.options(**more)
    samples = read_samples(pictures, lambda note: None)
    teacher = Teacher(distill_runs.load_target(target), samples, options)
    return running.new_student(teacher, options), teacher


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / states.STATE, weights_only=True)
    return dict(state["weights"])


@pytest.mark.parametrize("kind", KINDS, ids=_NAMES)
def test_only_the_draft_gets_gradients(data: tuple[Path, Path], kind: dict[str, Any]) -> None:
    student, teacher = _student(data, **kind)
    before = {name: value.clone() for name, value in teacher.target.state_dict().items()}
    trained = dict(student.module.named_parameters())
    for index in range(4):  # a gate that selects does not select every branch at once
        torch.manual_seed(index)
        student.compute_loss(teacher.example(index)).loss.backward()
    asked = {name: p for name, p in trained.items() if p.requires_grad}
    assert asked
    # The resampler's queries need keys that differ, a gate needs branches that differ.
    silent = [name for name, p in asked.items() if p.grad is None or not p.grad.abs().sum() > 0]
    allowed = ("bias", "branches", "looker.query", "looker.key", "looker.norm", "looker.queries")
    assert not [name for name in silent if not any(part in name for part in allowed)]
    optimizer = torch.optim.AdamW(asked.values(), 1e-2)
    optimizer.step()
    assert all(p.grad is None for p in teacher.target.parameters())
    for name, value in teacher.target.state_dict().items():
        assert torch.equal(value, before[name]), name
    own = {p.data_ptr() for p in teacher.target.parameters()}
    assert not own & {p.data_ptr() for p in asked.values()}


@pytest.mark.parametrize("kind", KINDS, ids=_NAMES)
def test_every_kind_is_saved_and_decodes_exactly(
    data: tuple[Path, Path], kind: dict[str, Any], tmp_path: Path
) -> None:
    target, pictures = data
    report, events = distill_runs.train(target, pictures, tmp_path, steps=2, **kind)
    assert report is not None and report.steps == 2 and report.bytes > 0
    assert [speed.draft for speed in report.speeds] == ["none", "new"]
    assert json.loads((tmp_path / "report.json").read_text())["kind"] == kind["kind"]
    assert (tmp_path / "log.csv").read_text().startswith("step,seconds,name,value")
    assert any("tau" in event.values for event in events)
    pair = load_pair(target, tmp_path, device="cpu", dtype="float32")
    inputs = pair.family.prepare([saved_families.picture(32, 32, 9)], "What is it?")
    plain = SpeculativeDecoder(pair.target, None, "autoregressive")
    for policy in ("sage", "static"):
        wanted = plain.generate(**inputs, max_new_tokens=24).sequences
        got = SpeculativeDecoder(pair.target, pair.draft, policy)
        assert torch.equal(got.generate(**inputs, max_new_tokens=24).sequences, wanted)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "llama"])
def test_other_families(family: str, tmp_path: Path) -> None:
    target = saved_families.save(tmp_path / "target", family, 2, 0)
    lines = [{"prompt": word, "answer": "It is what it is."} for word in "abcde"]
    if family != "llama":
        saved_families.picture(24, 24).image.save(tmp_path / "a.png")
        lines = [{**line, "image": "a.png"} for line in lines]
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for kind in ({"kind": "vispec"}, {"kind": "model", "layers": 1}):
        output = tmp_path / str(kind["kind"])
        _, events = distill_runs.train(target, data, output, steps=2, max_new_tokens=8, **kind)
        assert all(event.values["loss"] < 1e4 for event in events if event.values)
        pair = load_pair(target, output, device="cpu", dtype="float32")
        media = [] if family == "llama" else [saved_families.picture(24, 24)]
        inputs = pair.family.prepare(media, "a")
        plain = SpeculativeDecoder(pair.target, None, "autoregressive")
        wanted = plain.generate(**inputs, max_new_tokens=12).sequences
        got = SpeculativeDecoder(pair.target, pair.draft, "static")
        assert torch.equal(got.generate(**inputs, max_new_tokens=12).sequences, wanted)


@pytest.mark.parametrize("loss", ["sage", "acceptance"])
def test_the_loss_falls(data: tuple[Path, Path], tmp_path: Path, loss: str) -> None:
    _, events = distill_runs.train(
        *data, tmp_path, steps=24, checkpoint_every=24, loss=loss, ce_weight=1.0
    )
    losses = [event.values["loss"] for event in events if event.values]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


@pytest.mark.parametrize("kind", [KINDS[2], KINDS[-1]], ids=[_NAMES[2], _NAMES[-1]])
def test_a_resumed_run_equals_an_uninterrupted_one(
    data: tuple[Path, Path], tmp_path: Path, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    distill_runs.train(*data, whole, steps=5, **kind)

    step = Trainer._take_step

    def killed(self: Trainer) -> dict[str, float]:
        if self.step == 3:  # a step after the checkpoint
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_take_step", killed)
        with pytest.raises(KeyboardInterrupt):
            distill_runs.train(*data, broken, steps=5, **kind)
    torch.rand(7)  # nothing may depend on torch's global generator
    distill_runs.train(*data, broken, steps=5, resume=True, **kind)
    one, other = _weights(whole), _weights(broken)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)

    def rows(folder: Path) -> list[list[str]]:
        lines = (folder / "log.csv").read_text().splitlines()[1:]
        split = [line.split(",") for line in lines]
        return [[s[0], *s[2:]] for s in split if s[2] != "tokens_per_second"]

    assert rows(whole) == rows(broken)


@pytest.mark.parametrize(
    ("decay", "shares"), [(0.0, [1, 1, 1, 1]), (0.5, [1, 1, 1, 0.5]), (1.0, [1, 0.75, 0.5, 0.25])]
)
def test_the_learning_rate_falls_at_the_end(
    data: tuple[Path, Path], tmp_path: Path, decay: float, shares: list[float]
) -> None:
    _, events = distill_runs.train(*data, tmp_path, steps=4, lr=1e-3, decay=decay)
    rates = [event.values["lr"] for event in events if "lr" in event.values]
    assert rates == pytest.approx([1e-3 * share for share in shares])


def test_examples_are_kept_while_they_fit_into_memory(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    example = Teacher._example

    def counted(self: Teacher, index: int) -> Any:
        read.append(index)
        return example(self, index)

    monkeypatch.setattr(Teacher, "_example", counted)
    distill_runs.train(*data, tmp_path / "kept", steps=6)
    assert sorted(read) == list(range(distill_runs.PICTURES))
    monkeypatch.setattr(running, "Teacher", partial(Teacher, cache_bytes=0))
    distill_runs.train(*data, tmp_path / "not", steps=6)
    assert len(read) > 3 * distill_runs.PICTURES
    one, other = _weights(tmp_path / "kept"), _weights(tmp_path / "not")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_run_in_the_folder_is_refused(data: tuple[Path, Path], tmp_path: Path) -> None:
    distill_runs.train(*data, tmp_path, steps=1)
    with pytest.raises(InputError, match="--resume"):
        distill_runs.train(*data, tmp_path, steps=1)
    with pytest.raises(InputError, match="another seed"):
        distill_runs.train(*data, tmp_path, steps=1, seed=5, resume=True)
    (tmp_path / states.STATE).write_bytes(b"half a state")
    with pytest.raises(InputError, match="damaged"):
        distill_runs.train(*data, tmp_path, steps=1, resume=True)


def test_a_full_disk_leaves_the_last_checkpoint_complete(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of four checkpoints fails with a note; the last one fails, and so does the run."""
    written: list[bytes] = []
    real = torch.save

    def save(state: Any, file: Any) -> None:
        if len(written) in (1, 3):
            written.append(b"")
            file.write(b"some of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, file)
        written.append(b"whole")

    monkeypatch.setattr(states.torch, "save", save)
    events: list[Event] = []
    pair = distill_runs.load_target(data[0])
    options = distill_runs.options(steps=8)
    with pytest.raises(OSError, match="No space left"):
        distill(pair, data[1], tmp_path, options, events.append)
    notes = [event.note for event in events if event.note]
    assert len(notes) == 1 and "step 4" in notes[0] and "No space left" in notes[0]
    assert torch.load(tmp_path / states.STATE, weights_only=True)["step"] == 6
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_running_out_of_memory_gives_advice(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute_loss(self: HeadStudent, example: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(HeadStudent, "compute_loss", compute_loss)
    with pytest.raises(MemoryExhaustedError, match="--recompute"):
        distill_runs.train(*data, tmp_path, steps=1)


def test_damaged_images_are_reported_and_left_out(data: tuple[Path, Path], tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for path in sorted(data[1].iterdir()):
        content = path.read_bytes()
        damaged = path.name in ("0.png", "1.png")
        (pictures / path.name).write_bytes(content[:60] if damaged else content)
    _, events = distill_runs.train(data[0], pictures, tmp_path / "out", steps=4)
    notes = [event.note for event in events if "left out" in event.note]
    assert len(notes) == len(set(notes)) == 2
    for path in pictures.iterdir():
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match="none of the training samples"):
        distill_runs.train(data[0], pictures, tmp_path / "none", steps=40)


@pytest.mark.parametrize("kind", [KINDS[4], KINDS[-1]], ids=[_NAMES[4], _NAMES[-1]])
def test_a_target_in_bfloat16(
    data: tuple[Path, Path], tmp_path: Path, kind: dict[str, Any]
) -> None:
    distill_runs.train(*data, tmp_path, steps=1, dtype="bfloat16", **kind)
    assert {weight.dtype for weight in _weights(tmp_path).values()} == {torch.float32}


def test_two_processes_train_as_one_does(data: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    distill_runs.train(*data, one, steps=3)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.core.distill_worker", str(data[0]), str(data[1]), str(two)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    mine, theirs = _weights(one), _weights(two)
    for name, weight in mine.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-4)
    assert (two / "report.json").is_file()
