"""Videos of many frames, and a training step on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sage_core.pair_loading import load_pair
from training import long_clips
from training.long_clips import BUNDLED, LABELS, before, deepen, frames_at, load, main, make_batch
from training.tokens import visual_count
from training.world.parade import LEAST, MOST, STAY, parade, parade_caption
from training.world.phrases import plain
from training.world.render import placed_at


@pytest.mark.parametrize("frames", [8, 16, 33, 48])
def test_things_are_visible_one_at_a_time_in_order(frames: int) -> None:
    for seed in range(20):
        clip = parade(np.random.default_rng(seed), frames)
        assert LEAST <= len(clip.things) <= MOST
        assert len({thing.color for thing in clip.things}) == len(clip.things)
        shown = [placed_at(clip, i / (frames - 1)) for i in range(frames)]
        assert max(map(len, shown)) == 1 and len(shown[0]) == 1
        order = [clip.things.index(things[0][0]) for things in shown if things]
        assert order == sorted(order)
        assert all(order.count(who) >= STAY for who in range(len(clip.things)))
        for things in shown:
            for thing, x, y in things:
                assert int(x) + 3 * int(y) == thing.cell


def test_the_text_names_every_thing_in_order() -> None:
    rng = np.random.default_rng(1)
    clip = parade(rng, 32)
    text = parade_caption(rng, clip)
    places = [text.index(plain(thing)) for thing in clip.things]
    assert places == sorted(places)
    assert text.count(".") == len(places)


def test_labels_name_the_thing_before() -> None:
    clip = parade(np.random.default_rng(2), 16)
    rows = before(clip, 16)
    assert rows.shape == (visual_count(clip, 16), len(LABELS))
    known = rows[rows[:, 0] >= 0]
    assert known[0].tolist() == [0, -1, -1]
    assert known[-1, 0] == len(clip.things) - 1
    assert (rows < np.array(list(LABELS.values()))).all()


def test_frames_increase_and_equal_steps_give_equal_batches() -> None:
    rng = np.random.default_rng(3)
    assert max(frames_at(rng, 0.0) for _ in range(200)) <= 24
    assert max(frames_at(rng, 1.0) for _ in range(500)) == long_clips.LONGEST
    one, two = (make_batch(0, 7, 10, long_clips.words()) for _ in range(2))
    assert np.array_equal(one.ids, two.ids) and np.array_equal(one.pixels, two.pixels)
    assert one.trained.any() and one.extra == 0


def test_new_layers_change_nothing_before_training() -> None:
    draft = load(BUNDLED / "draft")
    ids = torch.arange(5, 30)[None]
    with torch.no_grad():
        wanted, got = (m.eval()(input_ids=ids).logits for m in (draft, deepen(draft, 2)))
    torch.testing.assert_close(got, wanted)


def test_a_step_of_both_stages_makes_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ROWS": 1, "FIRST": 16, "LONGEST": 16, "CAPTIONS": 1}.items():
        monkeypatch.setattr(long_clips, name, value)
    for stage in ("target", "draft"):
        main([stage, "--out", str(tmp_path), "--steps", "1"])
    main(["draft", "--out", str(tmp_path), "--steps", "2"])  # resumes
    assert "draft,2," in (tmp_path / "train.csv").read_text(encoding="utf-8")
    pair = load_pair(tmp_path / "target", tmp_path / "draft")
    assert pair.draft is not None
    assert pair.draft.config.text_config.num_hidden_layers == 2
