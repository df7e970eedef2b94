"""Scenes, images and texts: deterministic, and every stated fact can be parsed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from training.world.answers import right
from training.world.captions import caption
from training.world.facts import score
from training.world.heldout import CATEGORIES, item, items
from training.world.questions import ask
from training.world.render import (
    PATCHES,
    TARGETS,
    draw,
    draw_picture,
    patch_targets,
    pixel_values,
)
from training.world.scenes import (
    Clip,
    Scene,
    random_chart,
    random_clip,
    random_pair,
    random_shapes,
    random_words,
)

MAKERS: tuple[Callable[[np.random.Generator], Scene], ...] = (
    random_shapes,
    random_chart,
    random_words,
    random_clip,
    random_pair,
)


@pytest.mark.parametrize("make", MAKERS)
def test_same_seed_same_scene_and_pixels(make: Callable[[np.random.Generator], Scene]) -> None:
    one, two = make(np.random.default_rng(3)), make(np.random.default_rng(3))
    assert one == two
    for a, b in zip(draw(one), draw(two), strict=True):
        assert np.array_equal(pixel_values(a), pixel_values(b))


@pytest.mark.parametrize("make", MAKERS[:4])
def test_captions_state_every_fact_and_nothing_else(
    make: Callable[[np.random.Generator], Scene],
) -> None:
    rng = np.random.default_rng(4)
    for _ in range(300):
        scene = make(rng)
        text = caption(rng, scene)  # type: ignore[arg-type]
        good, total, wrong = score(text, scene)  # type: ignore[arg-type]
        assert good == total, (text, wrong)


@pytest.mark.parametrize("make", MAKERS)
def test_true_answers_are_right(make: Callable[[np.random.Generator], Scene]) -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        answered = ask(rng, make(rng))
        assert right(answered.answer, answered), answered


def test_a_wrong_caption_loses_its_slot() -> None:
    rng = np.random.default_rng(6)
    scene = random_chart(rng)
    text = caption(rng, scene)
    bar = scene.bars[0]
    good, total, wrong = score(text.replace(f" {bar.value}", " 99"), scene)
    assert good == total - 1
    assert wrong == [f"bar {bar.label} value: 99 for {bar.value}"]


def test_clip_events_leave_things_on_the_grid() -> None:
    rng = np.random.default_rng(7)
    for _ in range(500):
        clip = random_clip(rng)
        ends = [clip.end_cell(i) for i in range(len(clip.things))]
        assert all(cell is None or 0 <= cell < 9 for cell in ends)
        kept = [cell for cell in ends if cell is not None]
        assert len(kept) == len(set(kept))
        starts = [event.start for event in clip.events]
        assert starts == sorted(starts)
        assert all(event.end <= 1.0 for event in clip.events)


def test_patch_targets_name_every_class_within_range() -> None:
    rng = np.random.default_rng(8)
    for make in (random_shapes, random_chart, random_words):
        targets = patch_targets(make(rng))
        assert targets.shape == (PATCHES**2, len(TARGETS))
        assert (targets < np.array(list(TARGETS.values()))).all()


def test_pixel_values_of_any_image_size() -> None:
    image = draw_picture(random_shapes(np.random.default_rng(9)), 240)
    assert pixel_values(image).shape == (3, 96, 96)
    assert abs(pixel_values(image)).max() <= 1.0


def test_held_out_items_are_repeatable_and_complete() -> None:
    found = list(items(30, seed=2))
    assert {x.category for x in found} == set(CATEGORIES)
    again = item(0, 2, found[0].category)
    assert again.prompt == found[0].prompt
    assert again.reference == found[0].reference
    for x in found:
        assert (x.facts is None) != (x.answer is None)
        assert x.video == isinstance(x.scene, Clip)
        assert len(x.images) == (8 if x.video else len(x.images))
        assert bool(x.history) == (x.category == "turns")
