"""What a run of distilling is said to need, against counts of the code that trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.distill_counts import count_lesson
from benchmarks.distill_plan import TARGETS, counted
from sage_core.distill.data import read_samples
from sage_core.distill.dry import dry_run
from sage_core.distill.options import DistillOptions
from sage_core.distill.plan import Machine, Shape, Target, draft_cost, make_plan
from sage_core.distill.run import new_student
from sage_core.distill.teacher import Example, Teacher
from sage_core.errors import InputError, OptionError
from tests.core import distill_runs, saved_families

FAMILIES = ("llava_onevision", "llava", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
PICTURES = 2
DRAFTS: dict[str, dict[str, Any]] = {
    "head": {},
    "one step": {"depths": 1},
    "recomputed": {"recompute": True},
    "acceptance": {"loss": "acceptance"},
    "weighted": {"kind": "specvlm"},
    "concat": {"kind": "specvlm", "mode": "concat"},
    "prune": {"kind": "specvlm", "mode": "prune"},
    "resampler": {"kind": "specvlm", "mode": "resampler"},
    "text": {"kind": "specvlm", "mode": "text"},
    "vispec": {"kind": "vispec"},
    "model": {"kind": "model"},
    "small model": {"kind": "model", "hidden": 32},
    "recomputed model": {"kind": "model", "recompute": True},
}
# Every draft for one family, and some for all.
CASES = [("llava_onevision", name) for name in DRAFTS]
CASES += [(one, name) for one in FAMILIES[1:] for name in ("head", "vispec", "small model")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Targets of all families, and pictures."""
    folder = tmp_path_factory.mktemp("plan")
    for family in FAMILIES:
        saved_families.save(folder / family, family, 2, 0)
    (folder / "pictures").mkdir()
    for seed in range(PICTURES):
        picture = saved_families.picture(40, 28, seed).image
        picture.save(folder / "pictures" / f"{seed}.png")
    return folder


@lru_cache(maxsize=len(FAMILIES))
def _example(saved: Path, family: str) -> tuple[Teacher, Example, Target, Shape]:
    """A family's target with a lesson of it, and both as they are described without weights."""
    samples = read_samples(saved / "pictures", print)
    options = distill_runs.options()
    teacher = Teacher(distill_runs.load_target(saved / family), samples, options)
    example, config = teacher.example(0), teacher.target.config
    target = Target.of(family, config, "float32")
    own = sum(p.numel() for p in teacher.target.parameters())
    assert target.size.linear + target.size.others == own
    found = dry_run(saved / family, saved / "pictures", options, Machine(), print).shape
    return teacher, example, target, replace(found, answer=example.answer_tokens + 1)


@pytest.mark.parametrize(("family", "draft"), CASES)
def test_small_lessons_take_what_was_planned(saved: Path, family: str, draft: str) -> None:
    options = distill_runs.options(**DRAFTS[draft])
    teacher, example, target, shape = _example(saved, family)
    # Both pictures have one size.
    assert (shape.prompt, shape.visual) == (example.prompt_tokens, int(example.visual.sum()))
    student = new_student(teacher, options)
    cost = draft_cost(target, shape, options, mixed=False)
    weights = list(student.module.parameters())
    assert cost.parameters == sum(p.numel() for p in weights if p.requires_grad)
    assert cost.parameters + cost.frozen == sum(p.numel() for p in weights)
    counts = count_lesson(teacher.target, student, example)
    # Exact but for gates, a tower's class token and the fit of its output, which are small.
    assert cost.forward == pytest.approx(counts.forward, rel=0.025)
    assert cost.backward == pytest.approx(counts.backward, rel=0.025)
    # With few and short rows masks, rotations and lengths count, which the formulas leave out.
    assert cost.kept == pytest.approx(counts.kept, rel=0.13)
    assert cost.peak == pytest.approx(counts.peak, rel=0.25)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Qwen2.5-VL-7B", {"kind": "vispec"}),
        ("LLaVA-1.5-7B", {"kind": "model", "recompute": True}),
    ],
)
def test_lessons_of_7b_take_what_was_planned(name: str, more: dict[str, Any]) -> None:
    config, shape = TARGETS[name]
    target = Target.of(name, config, "bfloat16")
    found = counted(target, shape, DistillOptions(steps=1, **more))
    assert found["flops"] == pytest.approx(1, abs=1e-3)
    assert found["kept"] == pytest.approx(1, abs=0.03)
    assert found["peak"] == pytest.approx(1, abs=0.05)


PUBLISHED = {  # billions of weights, as the model cards and the files' sizes have them
    "LLaVA-1.5-7B": 7.06,
    "LLaVA-1.5-13B": 13.35,
    "LLaVA-OneVision-7B": 8.03,
    "Qwen2.5-VL-7B": 8.29,
    "Qwen2.5-VL-32B": 33.45,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_number_of_weights(name: str) -> None:
    size = Target.of(name, TARGETS[name][0], "bfloat16").size
    assert (size.linear + size.others) / 1e9 == pytest.approx(PUBLISHED[name], abs=0.006)


def test_a_plan_adds_up_and_follows_the_machine() -> None:
    config, shape = TARGETS["LLaVA-1.5-7B"]
    target = Target.of("it", config, "bfloat16")
    options = DistillOptions(steps=1, batch=4)
    plan = make_plan(target, shape, options, Machine())
    trained = plan.cost.parameters
    assert plan.memory["moments"] == 2 * plan.memory["gradients"] == 8 * trained
    assert plan.memory["target"] == 2 * plan.target_parameters
    assert plan.peak == sum(plan.memory.values()) + max(plan.passes.values())
    seconds = plan.seconds
    examples = 4 * (seconds["read"] + seconds["learn"])
    assert examples < seconds["step"] < 1.1 * examples
    assert seconds["first"] == pytest.approx(seconds["step"] + 4 * seconds["write"])
    # A token takes at least the time to read all weights.
    assert seconds["write"] > shape.answer * plan.memory["target"] / Machine().bandwidth
    half = make_plan(target, shape, options, Machine(use=0.2)).seconds
    assert half["read"] == pytest.approx(2 * seconds["read"])
    on_cpu = make_plan(target, shape, options, Machine(gpu=False))
    assert on_cpu.cost == draft_cost(target, shape, options, mixed=False) != plan.cost
    assert on_cpu.memory["margin"] < plan.memory["margin"]


def test_recomputing_keeps_less_and_computes_more() -> None:
    config, shape = TARGETS["LLaVA-1.5-7B"]
    target = Target.of("it", config, "bfloat16")
    for kind in ("head", "model"):
        plain = draft_cost(target, shape, DistillOptions(steps=1, kind=kind))
        again = draft_cost(target, shape, DistillOptions(steps=1, kind=kind, recompute=True))
        assert again.kept < plain.kept and again.peak <= plain.peak
        assert again.backward > plain.backward and again.forward == plain.forward


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Shape(prompt=5, visual=5), "shape"),
        (lambda: Shape(prompt=5, answer=1), "shape"),
        (lambda: Machine(use=1.5), "machine"),
        (lambda: Machine(flops=0), "machine"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        make()


def test_a_dry_run_counts_steps_and_answers(saved: Path) -> None:
    options, notes = distill_runs.options(kind="vispec"), list[str]()
    pictures = saved / "pictures"
    found = dry_run(saved / "qwen2_5_vl", pictures, options, Machine(), notes.append)
    assert found.samples == PICTURES and found.plan.dtype == "float32" and not notes
    assert found.shape.patches == 4 * found.shape.visual > 0  # four make a token
    step, answer = found.plan.seconds["step"], found.plan.seconds["write"]
    assert found.seconds(100, 2) == pytest.approx(100 * step + PICTURES * answer)
    assert found.seconds(1, 1) == pytest.approx(step + answer)


def test_a_dry_run_tells_what_cannot_be_used(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(next((saved / "pictures").iterdir()).read_bytes()[:60])
    notes: list[str] = []
    options = distill_runs.options()
    with pytest.raises(InputError, match="none of the first samples"):
        dry_run(saved / "llava", tmp_path, options, Machine(), notes.append)
    assert len(notes) == 1 and "bad.png" in notes[0]
