"""The parts of distillation against plain references: losses, masks, samples, counts."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sage_core.distill.data import read_samples, sample_at, split
from sage_core.distill.logs import Log
from sage_core.distill.losses import acceptance_loss, cross_entropy
from sage_core.distill.options import DistillOptions, default_learning_rate
from sage_core.distill.student import EVALUATED_DEPTH, ChainAcceptance, chain_acceptance
from sage_core.distill.unroll import step_mask
from sage_core.errors import InputError, OptionError
from tests.core import saved_families

_STEPS = [(b, n, k) for b, n in ((0, 1), (3, 1), (2, 4), (5, 6)) for k in range(1, min(4, n) + 1)]


@pytest.mark.parametrize(("before", "answer", "step"), _STEPS)
def test_step_mask_is_that_of_a_drafted_branch(before: int, answer: int, step: int) -> None:
    # Keys as (step, position); positions of the prompt are negative.
    columns = [(1, row) for row in range(-before, answer)]
    columns += [(m, row) for m in range(2, step + 1) for row in range(m - 1, answer)]
    seen = step_mask(step, before, answer)
    assert seen.shape == (answer - step + 1, len(columns))
    for query, row in enumerate(range(step - 1, answer)):
        # The branch is rooted step - 1 positions before; then one position of each later step.
        for column, (m, at) in enumerate(columns):
            wanted = at <= row - (step - 1) if m == 1 else at == row - (step - m)
            assert bool(seen[query, column]) == wanted, (row, m, at)


def test_losses_against_plain_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    draft, target = torch.randn(2, 5, 9, generator=generator).unbind()
    p, q = target.softmax(-1), draft.softmax(-1)
    entropy = sum(-float(a) * math.log(float(b)) for a, b in zip(p.ravel(), q.ravel(), strict=True))
    assert float(cross_entropy(draft, target)) == pytest.approx(entropy / 5, rel=1e-5)
    accepted = [
        sum(min(float(a), float(b)) for a, b in zip(x, y, strict=True))
        for x, y in zip(p, q, strict=True)
    ]
    wanted = -sum(math.log(one) for one in accepted) / 5
    assert float(acceptance_loss(draft, target)) == pytest.approx(wanted, rel=1e-5)
    assert float(acceptance_loss(target, target)) == pytest.approx(0, abs=1e-5)


def test_acceptance_loss_sums_over_the_targets_candidates_only() -> None:
    target = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    top = target.softmax(-1)[0, :2].sum()
    assert float(acceptance_loss(target, target, candidates=2)) == pytest.approx(-math.log(top))


def test_acceptance_loss_weighs_positions_by_inverse_acceptance() -> None:
    target = torch.tensor([[3.0, 0.0], [3.0, 0.0]])
    draft = torch.tensor([[1.0, 0.0], [-3.0, 0.0]], requires_grad=True)
    acceptance_loss(draft, target).backward()
    q = draft.detach().softmax(-1)
    accepted = torch.minimum(q, target.softmax(-1)).sum(-1)
    assert draft.grad is not None
    # dα/dz = q0 (1 - q0), and −log α has it divided by α; a mean over two positions.
    wanted = -q[:, 0] * q[:, 1] / accepted / 2
    torch.testing.assert_close(draft.grad[:, 0], wanted)


def test_chain_acceptance_counts_chains_from_every_root() -> None:
    target = torch.eye(5)[[0, 1, 2, 3]]
    first = torch.eye(5)[[0, 1, 4, 3]]  # wrong at the third token
    second = torch.eye(5)[[1, 2, 3]]  # right everywhere
    third = torch.eye(5)[[0, 3]]
    found = chain_acceptance([first, second, third], target)
    assert found.reached == (4, 3, 2, 0, 0, 0)
    assert found.accepted == (3, 2, 1, 0, 0, 0)  # root 2 fails at once, root 0 at depth 3
    assert found.ranks[0] == 3 and sum(found.ranks) == 4
    assert found.by_depth[:3] == (3 / 4, 2 / 3, 1 / 2)
    assert found.tau == pytest.approx(3 / 4 + 2 / 3 + 1 / 2)
    assert (found + found).accepted == (6, 4, 2, 0, 0, 0)
    assert ChainAcceptance().tau == 0 and len(found.reached) == EVALUATED_DEPTH


def test_every_epoch_is_another_permutation_of_all_samples() -> None:
    samples = [3, 5, 8, 13]
    epochs = [
        [sample_at(samples, 1, 4 * epoch + place) for place in range(4)] for epoch in range(5)
    ]
    assert all(sorted(epoch) == samples for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert epochs[0] == [sample_at(samples, 1, place) for place in range(4)]


@pytest.mark.parametrize(("count", "held"), [(1, 1), (3, 3), (4, 2), (50, 5), (900, 16)])
def test_held_out_samples_are_not_trained_on(count: int, held: int) -> None:
    train, out = split(count, 0)
    assert len(out) == held
    assert sorted({*train, *out}) == list(range(count))
    assert count < 4 or not {*train} & {*out}


_LINES: list[tuple[str, str]] = [
    ('{"image": "a.png", "prompt": "What is it?"}', ""),
    ('{"images": ["a.png", "a.png"], "question": "Which?", "answer": "both"}', ""),
    ('{"prompt": "Hello"}', ""),
    ('{"image": "a.png"}', ""),
    ("{image}", "not valid JSON"),
    ('["a.png"]', "not a JSON object"),
    ('{"image": "gone.png"}', "no such file"),
    ('{"image": 3}', "image must be a path"),
    ('{"image": "a.png", "video": "a.png"}', "exclude each other"),
    ('{"prompt": ""}', "prompt must be non-empty text"),
    ('{"answer": "yes"}', "neither a prompt nor a file"),
    ('{"image": "a.png", "picture": "a.png"}', "unknown field 'picture'"),
]


def test_invalid_lines_are_reported_and_left_out(tmp_path: Path) -> None:
    saved_families.picture().image.save(tmp_path / "a.png")
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join(line for line, _ in _LINES), encoding="utf-8")
    notes: list[str] = []
    samples = read_samples(data, notes.append)
    wrong = [(number, why) for number, (_, why) in enumerate(_LINES, 1) if why]
    assert len(samples) == len(_LINES) - len(wrong)
    assert len(notes) == len(wrong)
    for note, (number, why) in zip(notes, wrong, strict=True):
        assert note.startswith(f"{data}:{number}: ") and why in note
    assert samples[1].answer == "both" and len(samples[1].files) == 2


@pytest.mark.parametrize("content", [None, "", "{}\n", "\udcff"])
def test_no_usable_sample_is_an_input_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "data.jsonl"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"data\.jsonl"):
        read_samples(path, lambda note: None)


def test_a_folder_gives_its_images_whatever_their_names(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    saved_families.picture().image.save(tmp_path / "in" / "b.dat", format="PNG")
    (tmp_path / "notes.png").write_text(json.dumps({}), encoding="utf-8")
    samples = read_samples(tmp_path, lambda note: None)
    assert [Path(sample.files[0]).name for sample in samples] == ["b.dat"]
    with pytest.raises(InputError, match="no image or video"):
        (tmp_path / "in" / "b.dat").unlink()
        read_samples(tmp_path, lambda note: None)


def test_a_resumed_log_drops_later_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path)
    for step in (1, 2, 3):
        log.write(step, 0.5 * step, {"loss": 1 / step})
    log = Log(tmp_path, 2)
    log.write(3, 9.0, {"loss": 7.0})
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == ["step,seconds,name,value", "1,0.5,loss,1", "2,1.0,loss,0.5", "3,9.0,loss,7"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(OptionError, match="tensorboard is not installed"):
        Log(tmp_path, tensorboard=True)


def test_tensorboard_gets_the_values_of_the_csv_file(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = Log(tmp_path, tensorboard=True)
    log.write(1, 0.5, {"loss": 0.25})
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"steps": 0},
        {"minutes": 0.0},
        {"minutes": float("nan")},
        {"steps": 1, "kind": "tail"},
        {"steps": 1, "loss": "l2"},
        {"steps": 1, "lr": -1.0},
        {"steps": 1, "batch": 0},
        {"steps": 1, "temperature": float("inf")},
        {"steps": 1, "max_new_tokens": 1},
        {"steps": 1, "decay": 1.5},
        {"steps": True},
        {"steps": 1, "ce_weight": 0.0, "feature_weight": 0.0},
    ],
)
def test_invalid_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        DistillOptions(**wrong)


def test_default_learning_rate_grows_as_targets_shrink() -> None:
    assert default_learning_rate(3584) == pytest.approx(8e-5)
    assert default_learning_rate(256) == pytest.approx(1.12e-3)
    assert default_learning_rate(32) == 3e-3
