"""Tokens, packing and three steps of each stage with tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from training.batches import BatchConfig, block_mask, embed, make_batch, scene_kind
from training.common import to_device
from training.decode import Request, agreement, chain_lengths, greedy
from training.distil import copy_start, draft_loss, make_example
from training.drills import drill
from training.optim import Optimizer, Rates
from training.pair import (
    CHAT_TEMPLATE,
    SPECIAL,
    PairConfig,
    build_draft,
    build_target,
    save_model,
    tower_features,
    wrap_tokenizer,
)
from training.tokens import (
    drill_ids,
    fact_weights,
    name_tokens,
    prompt_ids,
    train_tokenizer,
    visual_count,
)
from training.train import Heads, TargetConfig, target_loss
from training.world.dialogue import IMAGE_PROMPT, VIDEO_PROMPT
from training.world.render import draw, pixel_values
from training.world.scenes import Clip, Scene, random_clip, random_pair, random_shapes

TINY = PairConfig(
    hidden=32,
    layers=2,
    inner=48,
    heads=2,
    draft_inner=48,
    vision_hidden=32,
    vision_inner=48,
    vision_layers=1,
    vision_heads=2,
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(0, scenes=60, size=700)


def test_special_tokens_come_first_and_text_returns(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == list(range(len(SPECIAL)))
    text = 'The word "zebra" has five letters; 17 is high.'
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("make", [random_shapes, random_clip, random_pair])
def test_prompts_are_those_of_the_chat_template(tokenizer: Tokenizer, make: object) -> None:
    scene: Scene = make(np.random.default_rng(0))  # type: ignore[operator]
    wrapped = wrap_tokenizer(tokenizer, TINY)
    mark = {"type": "video" if isinstance(scene, Clip) else "image"}
    kind = scene_kind(scene)
    count = 2 if kind == "images" else 1
    content = [*[mark] * count, {"type": "text", "text": "Hello there."}]
    text = wrapped.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=CHAT_TEMPLATE,
        tokenize=False,
        add_generation_prompt=True,
    )
    token = f"<{mark['type']}>"
    text = text.replace(token, token * (visual_count(scene) // count))
    assert wrapped(text)["input_ids"] == prompt_ids(tokenizer, scene, "Hello there.")


@pytest.mark.parametrize("make", [random_shapes, random_clip, random_pair])
def test_visual_tokens_are_the_models_own(tokenizer: Tokenizer, make: object) -> None:
    scene: Scene = make(np.random.default_rng(1))  # type: ignore[operator]
    model = build_target(TINY, tokenizer.get_vocab_size(), 0).eval()
    pixels = torch.from_numpy(np.stack([pixel_values(image) for image in draw(scene)]))
    ids = torch.tensor([prompt_ids(tokenizer, scene, "Hello.")])
    features = tower_features(model, pixels)
    kind = scene_kind(scene)
    with torch.inference_mode():
        ours = model.model.language_model(
            inputs_embeds=embed(model, ids, features, ((kind, len(pixels)),))
        ).last_hidden_state
        if kind == "video":
            inputs = {"pixel_values_videos": pixels[None]}
        else:
            tiles = pixels[:, None].repeat(1, 2 if kind == "image" else 1, 1, 1, 1)
            inputs = {
                "pixel_values": tiles,
                "image_sizes": torch.tensor([[200, 200]] * len(pixels)),
                "batch_num_images": torch.tensor([len(pixels)]),
            }
        theirs = model.model(input_ids=ids, **inputs).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_conversations_attend_to_the_image_and_themselves_only(tokenizer: Tokenizer) -> None:
    batch = make_batch(np.random.default_rng(2), tokenizer, BatchConfig(2, 320, extra=0))
    mask = block_mask(torch.from_numpy(batch.segments))[0, 0] == 0
    segments = torch.from_numpy(batch.segments[0])
    last = int((segments == 2).nonzero()[-1])
    assert bool(mask[last][segments == 0].all())
    assert not bool(mask[last][segments == 1].any())
    starts = [int((segments == s).nonzero()[0]) for s in (1, 2)]
    assert batch.positions[0, starts[0]] == batch.positions[0, starts[1]]


def test_only_the_conclusion_of_a_drill_is_trained(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(5)
    kinds = set()
    for _ in range(30):
        item = drill(rng)
        ids, trained = drill_ids(tokenizer, item)
        conclusion = tokenizer.decode([i for i, t in zip(ids, trained, strict=True) if t])
        assert conclusion == item.conclusion and item.question in tokenizer.decode(ids)
        whole = tokenizer.encode(f"{item.given}{item.conclusion}<|im_end|>").ids
        assert ids[-len(whole) :] == whole  # cut where the tokenizer cuts
        kinds.add(any(letter.isdigit() for letter in item.conclusion))
    assert kinds == {True, False}


def test_three_steps_of_target_and_draft(tokenizer: Tokenizer, tmp_path: Path) -> None:
    size, device = tokenizer.get_vocab_size(), torch.device("cpu")
    target, draft = build_target(TINY, size, 0), build_draft(TINY, size, 0)
    heads = Heads(TINY)
    weights = torch.from_numpy(fact_weights(tokenizer, 2.0))
    names = {name: torch.from_numpy(ids) for name, ids in name_tokens(tokenizer).items()}
    named = [*target.named_parameters(), *heads.named_parameters()]
    optimizer = Optimizer([(1.0, named)], Rates())
    rng, losses = np.random.default_rng(3), []
    data = to_device(make_batch(rng, tokenizer, BatchConfig(2, 320, extra=2)), device)
    for _ in range(3):
        loss, shown = target_loss(target, heads, data, weights, names, TargetConfig(1.0))
        loss.backward()
        optimizer.step(1.0)
        losses.append(shown["loss"])
    assert losses[-1] < losses[0]
    target.eval().requires_grad_(False)
    copy_start(target, draft)
    plain = to_device(make_batch(rng, tokenizer, BatchConfig(2, 320, extra=0)), device)
    example = make_example(target, plain)
    optimizer = Optimizer([(1.0, list(draft.named_parameters()))], Rates(2e-4, 2e-4))
    divergences = []
    for _ in range(3):
        loss, shown = draft_loss(draft, example, 0.0)
        loss.backward()
        optimizer.step(1.0)
        divergences.append(shown["divergence"])
    assert divergences[-1] < divergences[0]
    save_model(target, wrap_tokenizer(tokenizer, TINY), tmp_path / "target")
    from training.evaluate import load

    again = load(tmp_path / "target")
    assert again.generation_config.eos_token_id == [SPECIAL.index("<|im_end|>"), 0]


def test_batched_greedy_is_that_of_single_requests(tokenizer: Tokenizer) -> None:
    model = build_target(TINY, tokenizer.get_vocab_size(), 0).eval()
    rng = np.random.default_rng(4)
    requests = [
        Request.make(tokenizer, random_shapes(rng), IMAGE_PROMPT),
        Request.make(tokenizer, random_clip(rng), VIDEO_PROMPT),
    ]
    together = greedy(model, requests, 12)
    assert together == [greedy(model, [request], 12)[0] for request in requests]
    assert all(match.all() for match in agreement(model, requests, together))


def test_chain_lengths_count_accepted_tokens() -> None:
    agrees = np.array([True, True, True, False, True, True, True, True, True, True, False])
    assert chain_lengths(agrees) == [2, 5, 0]
    assert chain_lengths(np.array([True])) == []
