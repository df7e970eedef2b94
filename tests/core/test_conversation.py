"""Conversations: each answer is `generate`'s for the whole text, and only new tokens are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import sage_core
from sage_core.conversation import NEW_FILES, REWRITTEN, Conversation
from sage_core.errors import InputError, OptionError
from sage_core.models.families.base import Turn
from sage_core.pipeline import Pipeline
from sage_core.runtime.kv_cache import TreeCacheLayer
from tests.core.saved_families import SAVED, VISION, clip, picture, save, save_pair

QUESTIONS = ("What is this?", "And then?\nSay more.", "é")
NEW = 12
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pipeline]:
    return {}


@pytest.fixture
def pipeline(request: Any, pipelines: Any, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    name = request.param
    if name not in pipelines:
        pipelines[name] = sage_core.load(save_pair(tmp_path_factory.mktemp(name), name))
    return pipelines[name]


every_family = pytest.mark.parametrize("pipeline", SAVED, indirect=True)
one_family = pytest.mark.parametrize("pipeline", ["qwen2_5_vl"], indirect=True)


def letters_only(pipeline: Pipeline) -> dict[str, Any]:
    """Random models write bytes of every kind; this leaves letters, and the end at the end."""
    vocabulary = pipeline._pair.family.tokenizer.get_vocab()
    letters = {i for t, i in vocabulary.items() if len(t) == 1 and (t.isascii() and t.isalpha())}
    space = vocabulary.get("▁")
    allowed = letters | {2} | ({space} if space is not None else set())
    settings: dict[str, Any] = {"suppress_tokens": sorted(set(range(280)) - allowed)}
    if space is not None:  # SentencePiece models begin an answer with a word, space included
        settings["begin_suppress_tokens"] = sorted(set(range(280)) - {space})
        settings["suppress_tokens"] = sorted(set(range(280)) - letters - {2, space})
    return settings | {"repetition_penalty": 1.1}


def assert_exact(conversation: Conversation, result: Any, **options: Any) -> list[int]:
    """The answer is the target's own for the prompt, whose ids are returned."""
    family, target = conversation._pair.family, conversation._pair.target
    assert conversation._pending is not None
    prompt = conversation._pending.prompt
    ids = torch.tensor([prompt])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs = family.add_token_types(inputs | (conversation._media_inputs or {}))
    whole = target.generate(**inputs, do_sample=False, **options)
    assert list(result.tokens) == whole[0, len(prompt) :].tolist()
    return prompt


def templated(conversation: Conversation, *said: tuple[str, str | None]) -> list[int]:
    """What the chat template gives for the whole conversation, all files in the first turn."""
    family, media = conversation._pair.family, conversation._media()
    turns = [Turn(tuple(media) if i == 0 else (), q, a) for i, (q, a) in enumerate(said)]
    return family.build_inputs(family.render(turns), media, conversation._media_inputs or {})[
        "input_ids"
    ][0].tolist()


@every_family
def test_every_answer_is_the_targets_own(pipeline: Pipeline) -> None:
    """Ends of their own and at the limit; the ids are the template's for the whole."""
    sees = pipeline._pair.family.placeholders
    files = [picture(), clip()] if sees else []
    settings = letters_only(pipeline)
    rewrites = pipeline._pair.family.config.model_type == "llava_onevision"
    for ends, policy in ((True, "sage"), (False, "static")):
        generation = settings | ({"forced_eos_token_id": 2} if ends else {})
        conversation = pipeline.chat(
            files, policy=policy, max_new_tokens=NEW, generation=generation
        )
        said: list[tuple[str, str | None]] = []
        held = 0
        for number, question in enumerate(QUESTIONS):
            result = conversation.ask(question)
            prompt = assert_exact(conversation, result, max_new_tokens=NEW, **generation)
            assert prompt == templated(conversation, *said, (question, None))
            assert conversation.note == (REWRITTEN if rewrites and number else "")
            if number and not rewrites:
                assert conversation.reused == held, "what was read is not read again"
            if number and rewrites:
                assert conversation.reused > 4, "the pictures are not read again"
            said.append((question, result.text))
            held = len(prompt) + len(result.tokens) - 1
            assert result.files == tuple(item.name for item in files)
        assert conversation.turns == tuple(said)


@one_family
def test_an_answer_with_an_image_placeholder(pipeline: Pipeline) -> None:
    """It shows nothing, and must not be taken for a picture in the next turn."""
    others = sorted(set(range(280)) - {3, 40, 41})
    generation = {"suppress_tokens": others, "no_repeat_ngram_size": 2}
    conversation = pipeline.chat([picture()], max_new_tokens=NEW, generation=generation)
    assert 3 in conversation.ask("What is this?").tokens
    result = conversation.ask("And then?")
    prompt = assert_exact(conversation, result, max_new_tokens=NEW, **generation)
    assert conversation.note == REWRITTEN
    assert prompt.count(3) == len(conversation._media_inputs["pixel_values"]) // 4


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["sage", "static"])
def test_the_bundled_pair_about_a_chart(policy: str) -> None:
    """Answers with ends of their own; nothing is read twice."""
    pipeline = sage_core.load(device="cpu")
    conversation = pipeline.chat([EXAMPLES / "chart.png"], policy=policy, max_new_tokens=60)
    said: list[tuple[str, str | None]] = []
    for question in ("Which bar is the tallest?", "What is its value?", "Describe this image."):
        result = conversation.ask(question)
        prompt = assert_exact(conversation, result, max_new_tokens=60)
        assert prompt == templated(conversation, *said, (question, None))
        assert conversation.note == ""
        assert not said or conversation.reused > len(prompt) - 40
        said.append((question, result.text))
    conversation.add(EXAMPLES / "moving.mp4")
    result = conversation.ask("What moves?")
    assert_exact(conversation, result, max_new_tokens=60)


@every_family
def test_answers_of_any_bytes_stay_as_they_were_written(pipeline: Pipeline) -> None:
    """Random bytes make no text; what is not the template's text is tokenized anew, exactly so."""
    conversation = pipeline.chat([], policy="sage", max_new_tokens=NEW)
    for question in QUESTIONS:
        result = conversation.ask(question)
        assert_exact(conversation, result, max_new_tokens=NEW)


@pytest.mark.parametrize("pipeline", VISION, indirect=True)
def test_new_files_are_part_of_the_next_question(pipeline: Pipeline) -> None:
    conversation = pipeline.chat([picture()], max_new_tokens=NEW)
    conversation.ask("What is this?")
    conversation.add([picture(16, 64, 1), clip()])
    conversation.add(picture(24, 24, 2))
    result = conversation.ask("And these?")
    assert conversation.note == NEW_FILES
    assert conversation.reused == 0
    assert result.files == ("picture 0", "picture 1", "clip 0", "picture 2")
    prompt = assert_exact(conversation, result, max_new_tokens=NEW)
    assert len(prompt) == result.stats.prompt_tokens
    again = conversation.ask("Well?")
    assert_exact(conversation, again, max_new_tokens=NEW)
    assert conversation.note != NEW_FILES
    assert conversation.reused > 0


@one_family
def test_acceptance_is_about_that_of_a_single_turn(pipeline: Pipeline) -> None:
    """Caches of both models go on: the twin of the target is right in every turn."""
    folder = Path(pipeline._pair.target_id) / "target"
    twin = sage_core.load(folder, draft=folder)
    conversation = twin.chat([clip()], policy="chain:length=3", max_new_tokens=13)
    for question in QUESTIONS:
        assert [len(s.accepted) for s in conversation.stream(question)] == [0, 3, 3, 3]


@one_family
def test_a_stopped_answer_is_kept(pipeline: Pipeline) -> None:
    conversation = pipeline.chat([picture()], max_new_tokens=40)
    stream = conversation.stream("What is this?")
    for _ in range(3):
        next(stream)
    stream.close()
    part = stream.text
    result = conversation.ask("Go on.")
    assert conversation.turns[0] == ("What is this?", part)
    result = conversation.ask("Go on.")
    assert_exact(conversation, result, max_new_tokens=40)
    assert conversation.reused > 0
    # One that is left alone ends when the next question comes.
    next(conversation.stream("This?"))
    result = conversation.ask("Or that?")
    assert_exact(conversation, result, max_new_tokens=40)
    assert conversation.reused > 0


@one_family
def test_an_error_inside_a_step_drops_the_caches(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = pipeline.chat([picture()], max_new_tokens=NEW)
    conversation.ask("What is this?")
    stream = conversation.stream("And then?")
    next(stream)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TreeCacheLayer, "update", fail)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        # In the prefill: nothing was said, so the question is forgotten.
        with pytest.raises(KeyboardInterrupt):
            conversation.ask("Nobody hears this")
    result = conversation.ask("Now?")
    assert_exact(conversation, result, max_new_tokens=NEW)
    assert [question for question, _ in conversation.turns] == [
        "What is this?",
        "And then?",
        "Now?",
    ]
    assert conversation.reused == 0


@one_family
def test_reset_removes_answers_and_keeps_files(pipeline: Pipeline) -> None:
    conversation = pipeline.chat([picture()], max_new_tokens=NEW)
    first = conversation.ask("What is this?")
    conversation.ask("And then?")
    conversation.reset()
    assert conversation.turns == ()
    assert conversation.files == ("picture 0",)
    again = conversation.ask("What is this?")
    assert again.tokens == first.tokens
    assert conversation.note == ""


@one_family
def test_refusals_leave_the_conversation_as_it_was(pipeline: Pipeline) -> None:
    conversation = pipeline.chat([picture()], max_new_tokens=NEW)
    first = conversation.ask("What is this?")
    for question, says in ((" ", "empty"), ("a <|image_pad|>?", "may not contain")):
        with pytest.raises(OptionError, match=says):
            conversation.stream(question)
    with pytest.raises(InputError, match=r"none\.png"):
        conversation.add("none.png")
    assert conversation.files == ("picture 0",)
    assert conversation.turns == (("What is this?", first.text),)
    result = conversation.ask("And then?")
    assert_exact(conversation, result, max_new_tokens=NEW)
    assert conversation.reused > 0
    with pytest.raises(OptionError, match="unknown option"):
        pipeline.chat([], nonsense=1)


@pytest.mark.parametrize("pipeline", ["llama"], indirect=True)
def test_a_text_model_refuses_files(pipeline: Pipeline) -> None:
    with pytest.raises(InputError, match="do not support images"):
        pipeline.chat([picture()])


def test_a_base_model_continues_the_text(tmp_path: Path) -> None:
    """Without a chat template there is only text to go on from."""
    folder = save(tmp_path, "qwen2", 2, 0)
    (folder / "chat_template.jinja").unlink()
    pipeline = sage_core.load(folder, draft=None)
    assert pipeline._pair.family.chat_template is None
    conversation = pipeline.chat(max_new_tokens=NEW, generation=letters_only(pipeline))
    conversation.ask("Once")
    result = conversation.ask("upon")
    prompt = assert_exact(conversation, result, max_new_tokens=NEW, **letters_only(pipeline))
    answer = conversation.turns[0][1]
    assert pipeline._pair.family.tokenizer.decode(prompt) == f"Once{answer}\nupon"
    assert conversation.note == ""


FORGETFUL = (  # earlier answers lose their first two letters
    "{% for m in messages %}"
    "{{ m.content[2:] if m.role == 'assistant' else m.content }};{% endfor %}"
)


def test_a_template_that_rewrites_answers_is_followed_with_a_note(tmp_path: Path) -> None:
    pipeline = sage_core.load(save(tmp_path, "qwen3", 2, 0), draft=None)
    family: Any = pipeline._pair.family
    family.chat_template = FORGETFUL
    generation = letters_only(pipeline) | {"min_new_tokens": NEW}
    conversation = pipeline.chat(max_new_tokens=NEW, generation=generation)
    first = conversation.ask("Think.")
    result = conversation.ask("Again.")
    prompt = assert_exact(conversation, result, max_new_tokens=NEW, **generation)
    assert family.tokenizer.decode(prompt) == f"Think.;{first.text[2:]};Again.;"
    assert conversation.note == REWRITTEN
    assert conversation.reused == len("Think.;")
