"""Models of other families: exact through their own processors, or refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sage_core
from sage_core.errors import ModelError
from tests.core.other_families import FOLLOWED, REFUSED, llava_next, save
from tests.core.saved_families import clip, picture

VARIED = {"no_repeat_ngram_size": 2}
"""Some random models would repeat one token for ever."""
MEDIA: dict[str, list[Any]] = {
    "nothing": [],
    "a picture": [picture()],
    "two pictures": [picture(), picture(16, 32, 1)],
    "a clip": [clip(2)],
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_a_model_with_the_common_interface(name: str, tmp_path: Path) -> None:
    folder = save(tmp_path / "target", FOLLOWED[name](), 2, 0)
    save(tmp_path / "draft", FOLLOWED[name](), 1, 1)
    pipeline = sage_core.load(folder, tmp_path / "draft")
    family, target = pipeline._pair.family, pipeline._pair.target
    assert type(family).__name__ == "Generic"
    for media in MEDIA.values():
        inputs = family.prepare(media, "What is this?")
        whole = target.generate(**inputs, do_sample=False, max_new_tokens=20, **VARIED)
        expected = whole[0, inputs["input_ids"].shape[1] :].tolist()
        assert len(set(expected)) > 1
        for policy in ("sage", "autoregressive"):
            result = pipeline.ask(
                media, "What is this?", policy=policy, max_new_tokens=20, generation=VARIED
            )
            assert list(result.tokens) == expected
    conversation = pipeline.chat([picture()], max_new_tokens=12)
    for _ in range(3):
        result = conversation.ask("What is this?")
        prompt = torch.tensor([conversation._pending.prompt])
        inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
        inputs = family.add_token_types(inputs | conversation._media_inputs)
        whole = target.generate(**inputs, do_sample=False, max_new_tokens=12)
        assert list(result.tokens) == whole[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_a_tree_pass_does_not_fit(name: str, tmp_path: Path) -> None:
    make, says = REFUSED[name]
    save(tmp_path, make(), 2, 0)
    with pytest.raises(ModelError, match=says) as caught:
        sage_core.load(tmp_path, None)
    assert "are not supported" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_processor_that_is_missing_or_cannot_be_made(tmp_path: Path) -> None:
    save(tmp_path, llava_next(), 1, 0)
    file = tmp_path / "processor_config.json"
    for content, says in (
        ({"processor_class": "MartianProcessor"}, "transformers has no processor for them"),
        ({"processor_class": "InstructBlipProcessor"}, "cannot be made"),
        ({"processor_class": "PixtralProcessor"}, "needs torchvision"),
        ({"processor_class": "WhisperProcessor"}, "takes more than images and text"),
    ):
        file.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(ModelError, match=says):
            sage_core.load(tmp_path, None)
