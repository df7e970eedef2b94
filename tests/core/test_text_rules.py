"""What is done to a text: where it begins, what is cut, and that the result says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

import sage_core
from sage_core.errors import OptionError
from sage_core.generation.sentences import sentence_ends
from sage_core.generation.text_criteria import TOKENS, Repetition, Sentences
from sage_core.generation.text_rules import TextRules, named_thoughts
from sage_core.models.detokenize import Detokenizer
from sage_core.models.thinking import opened_thought, without_thoughts
from sage_core.options import Options
from sage_core.pipeline import Pipeline
from tests.core.media_files import card, encoded
from tests.core.saved_pair import SPECIAL, TEMPLATE, make_tokenizer, save_pair

SENTENCES = [
    # the text, and its sentences
    ("A dog. A cat.", ["A dog.", "A cat."]),
    ("A dog sits. It is", ["A dog sits."]),
    ("a dog. a cat.", ["a dog.", "a cat."]),
    ("It is 3.5 m tall! Why?", ["It is 3.5 m tall!", "Why?"]),
    ("Dr. Smith and Mr. J. Doe met, e.g. here. Then", ["Dr. Smith and Mr. J. Doe met, e.g. here."]),
    ("Cats, dogs, etc. are here. Cats etc. Then dogs.",
     ["Cats, dogs, etc. are here.", "Cats etc.", "Then dogs."]),
    ("„Halt!“ rief er. Ende", ["„Halt!“ rief er."]),
    ('He says "Stop." Then he goes', ['He says "Stop."']),
    ("Well... perhaps. No… never… Yes", ["Well... perhaps.", "No… never…"]),
    ("Really?! Yes", ["Really?!"]),
    ("图片中有一只狗。它在草地上奔跑。天", ["图片中有一只狗。", "它在草地上奔跑。"]),
    ("犬がいる。「走れ！」と叫ぶ", ["犬がいる。", "「走れ！」"]),
    ("एक कुत्ता है। वह दौड़ता है। यह", ["एक कुत्ता है।", "वह दौड़ता है।"]),
    ("1. A dog\n2. A cat\n3. A b", ["1. A dog", "2. A cat"]),
    ("- red\n- blue\n- g", ["- red", "- blue"]),
    ("Title\n\nText goes on", ["Title"]),
    ("No end here", []),
    ("", []),
    ("It is at example.com now. See", ["It is at example.com now."]),
    ("Built in 1990. It stands", ["Built in 1990."]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), SENTENCES, ids=[text[:20] for text, _ in SENTENCES])
def test_sentences(text: str, wanted: list[str]) -> None:
    ends = sentence_ends(text)
    assert [text[a:b].strip() for a, b in zip([0, *ends], ends, strict=False)] == wanted


@pytest.mark.parametrize("text", ["." * 50_000, "\n" * 50_000, "a" * 50_000, "1." * 25_000])
def test_odd_texts_take_no_long_time(text: str) -> None:
    assert len(sentence_ends(text)) <= 1


THOUGHTS = [
    # decoded, the tag that the prompt ended with, what is left
    ("<think>It may be red.</think>\n\nA red circle.", "", "A red circle."),
    ("It may be red.</think>\nA red circle.", "<think>", "A red circle."),
    ("It may be red.\n</think>\nA red circle.", "", "A red circle."),
    ("It may be red and so on", "<think>", ""),
    ("<think>It may be red and so on", "", ""),
    ("<think></think>A. <think>b</think>C.", "", "A. C."),
    ("<think>a</think><answer>A red circle.</answer>", "", "A red circle."),
    ("[THINK]a[/THINK]B.", "", "B."),
    ("◁think▷a◁/think▷B.", "", "B."),
    (" A red circle. ", "", "A red circle."),
]


@pytest.mark.parametrize(("text", "opened", "left"), THOUGHTS)
def test_thoughts_are_left_out(text: str, opened: str, left: str) -> None:
    assert without_thoughts(text, opened) == left


def test_whether_a_prompt_opens_a_thought() -> None:
    assert opened_thought("<|im_start|>assistant\n<think>\n") == "<think>"
    assert opened_thought("<think>\n\n</think>\n\n") == ""
    assert opened_thought("What does <think> mean?<|im_end|>assistant\n") == ""


RULES: list[tuple[dict[str, Any], str, bool, str]] = [
    # rules, decoded, whether the model ended it, the text
    ({}, " A dog. It ", False, " A dog. It "),
    ({"prefix": "ohwx, ", "suffix": " [x]"}, "A dog.", True, "ohwx, A dog. [x]"),
    ({"start_with": "A photo of "}, " a dog", True, "A photo of a dog"),
    ({"max_sentences": 1}, "A dog. It runs. It", False, "A dog."),
    ({"max_sentences": 2}, "A dog. It", True, "A dog. It"),
    ({"end_at_sentence": True}, "A dog. It", False, "A dog."),
    ({"end_at_sentence": True}, "A dog. It", True, "A dog. It"),
    ({"end_at_sentence": True}, "A dog", False, "A dog"),
    ({"end_at_sentence": True, "max_sentences": 2}, "A dog. It", False, "A dog."),
    ({"end_at_sentence": True, "suffix": "!"}, "One. B", False, "One.!"),
    (
        {"strip_thinking": True, "max_sentences": 1},
        "<think>One. B.</think>Two. Three.",
        True,
        "Two.",
    ),
    ({"strip_thinking": True, "start_with": "</think>A"}, " dog", True, "A dog"),
]


@pytest.mark.parametrize(("rules", "decoded", "ended", "text"), RULES)
def test_what_is_left_of_a_text(
    rules: dict[str, Any], decoded: str, ended: bool, text: str
) -> None:
    assert TextRules(**rules).apply(decoded, ended=ended) == text


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"max_sentences": 0}, "max_sentences"),
        ({"max_sentences": 1.5}, "max_sentences"),
        ({"prefix": ""}, "prefix is empty"),
        ({"start_with": "  "}, "start_with is empty"),
        ({"system": "\n"}, "system is empty"),
        ({"suffix": 3}, "suffix must be text"),
        ({"prefix": "\udc80"}, "UTF-8"),
        ({"retry": True}, "stop_repetition"),
        ({"end_at_sentence": "yes"}, "True or False"),
        ({"json_schema": "{}", "prefix": "a", "max_sentences": 1}, "max_sentences, prefix"),
    ],
)
def test_nonsense_is_refused(rules: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Options(**rules)


def _stops(criterion: Any, tokens: list[int]) -> int | None:
    """After how many new tokens a criterion for a prompt of two ends the text."""
    for count in range(1, len(tokens) + 1):
        if criterion(torch.tensor([[7, 7, *tokens[:count]]]), None).all():
            return count
    return None


@pytest.mark.parametrize(
    ("tokens", "stops"),
    [
        ([7] * 100, TOKENS),
        ([1, 2, 3, *[4, 5, 6] * 40], 3 + TOKENS),
        ([9, *range(100, 130), *list(range(100, 130)) * 5], 1 + 4 * 30),
        ([9, *list(range(100, 228)) * 4], 1 + 4 * 128),
        (list(range(100, 229)) * 6, None),
        ([*[5] * 40, 6, *[5] * 40, 6], None),
        ([4, 5] * 20, None),
        (list(range(1000)), None),
    ],
)
def test_repetition(tokens: list[int], stops: int | None) -> None:
    assert _stops(Repetition(2), tokens) == stops


def test_sentences_end_a_text_when_the_next_one_begins() -> None:
    tokenizer = make_tokenizer()
    tokens = tokenizer("It is 3.5 m. A dog.")["input_ids"]
    criterion = Sentences(2, 1, Detokenizer(tokenizer), lambda text: text)
    assert _stops(criterion, tokens) == len("It is 3.5 m. A")


def test_tags_that_are_special_tokens_are_text() -> None:
    tokenizer = make_tokenizer(special=(*SPECIAL, "[THINK]", "[/THINK]"))
    tokens = tokenizer("[THINK]ä[/THINK]ö<|im_end|>")["input_ids"]
    detokenizer = Detokenizer(tokenizer, named=named_thoughts(tokenizer))
    for token in tokens:
        detokenizer.push([token])
    detokenizer.finish()
    assert detokenizer.text == "[THINK]ä[/THINK]ö"


def test_the_space_after_the_start_of_the_answer() -> None:
    """Tokenizers such as Llama's write a space at the beginning of a word, and not of a text."""
    pieces = ["a", "▁a", "▁photo", "▁of", "▁dog"]
    tokenizer = Tokenizer(models.WordLevel({p: i for i, p in enumerate(pieces)}, unk_token="a"))
    tokenizer.decoder = decoders.Metaspace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    plain, continued = Detokenizer(wrapped), Detokenizer(wrapped, before=[1, 2, 3])
    for one in (plain, continued):
        one.push([1, 4])
        one.finish()
    assert (plain.text, continued.text) == ("a dog", " a dog")


# In a pipeline.

THINKS = TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return sage_core.load(save_pair(tmp_path_factory.mktemp("pair")), device="cpu")


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "card.png"
    path.write_bytes(encoded(card(), "PNG"))
    return path


def spaces_and_letters(pipeline: Pipeline, *more: str) -> dict[str, Any]:
    """A random model writes bytes of every kind; these options leave it letters and ``more``."""
    vocabulary = pipeline._pair.family.tokenizer.get_vocab()
    kept = {*"abcdefghijklmnopqrstuvwxyz", *more}
    others = [i for token, i in vocabulary.items() if token not in kept]
    return {"suppress_tokens": [*others, 261, 262, 263], "no_repeat_ngram_size": 3}


def test_the_start_of_the_answer_is_part_of_the_prompt(pipeline: Pipeline, picture: Path) -> None:
    family = pipeline._pair.family
    plain = family.prepare([sage_core.open_media(picture)], "x")["input_ids"]
    result = pipeline.ask(picture, "x", start_with="A photo ", max_new_tokens=12)
    prompt = torch.cat([plain, torch.tensor([family.tokenizer("A photo")["input_ids"]])], dim=1)
    inputs = family.prepare([sage_core.open_media(picture)], "x", start_with="A photo")
    assert inputs["input_ids"].tolist() == prompt.tolist()
    expected = pipeline._pair.target.generate(**inputs, do_sample=False, max_new_tokens=12)
    assert result.tokens == tuple(expected[0, prompt.shape[1] :].tolist())
    assert len(result.tokens) == 12, "new tokens alone are limited"
    assert result.text == "A photo" + family.tokenizer.decode(
        result.tokens, skip_special_tokens=True
    )
    assert result.edits == {"start_with": "A photo "}
    assert pipeline.ask(picture, "x", max_new_tokens=2).edits is None


def test_a_text_alone_streamed_and_in_a_batch(pipeline: Pipeline, picture: Path) -> None:
    letters = spaces_and_letters(pipeline, ".", "Ġ") | {"no_repeat_ngram_size": 2}
    options: dict[str, Any] = {
        "max_new_tokens": 40,
        "generation": letters,
        "start_with": "See",
        "max_sentences": 2,
        "end_at_sentence": True,
        "prefix": "tok, ",
        "stop_repetition": True,
    }
    stream = pipeline.stream(picture, "x", **options)
    for _ in stream:
        pass
    streamed = stream.result()
    alone = pipeline.ask(picture, "x", **options)
    batch = pipeline.caption([picture] * 3, "x", batch=3, **options)
    assert {r.text for r in (streamed, alone, *batch)} == {alone.text}
    assert {r.tokens for r in (streamed, alone, *batch)} == {alone.tokens}
    plain = pipeline.ask(picture, "x", max_new_tokens=40, generation=letters, start_with="See")
    assert plain.tokens[: len(alone.tokens)] == alone.tokens
    assert alone.text.startswith("tok, See")
    assert plain.text.startswith(alone.text.removeprefix("tok, "))


def test_repetition_ends_a_text_and_is_tried_again(
    pipeline: Pipeline, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sage_core.stream.RETRY_PENALTY", 20.0)  # for a model that is very sure
    vocabulary = pipeline._pair.family.tokenizer.get_vocab()
    two = {"suppress_tokens": [i for t, i in vocabulary.items() if t not in "abcdefgh"]}
    two["suppress_tokens"] += [261, 262, 263]
    options: dict[str, Any] = {"max_new_tokens": 200, "generation": two}
    endless = pipeline.ask(picture, "x", **options)
    assert endless.finish_reason == "length"
    ended = pipeline.ask(picture, "x", stop_repetition=True, **options)
    assert ended.finish_reason == "repetition"
    assert TOKENS <= len(ended.tokens) < 200
    assert ended.tokens == endless.tokens[: len(ended.tokens)]
    assert ended.edits == {"stop_repetition": True}

    options |= {"stop_repetition": True, "retry": True, "max_new_tokens": len(ended.tokens) + 1}
    again = pipeline.ask(picture, "x", **options)
    retried = {"repetition_penalty": 20.0, "discarded_tokens": len(ended.tokens)}
    assert again.edits is not None and again.edits["retried"] == retried
    penalty = two | {"repetition_penalty": 20.0}
    wanted = pipeline.ask(picture, "x", **{**options, "generation": penalty, "retry": False})
    assert again.tokens == wanted.tokens != ended.tokens
    assert again.finish_reason == wanted.finish_reason
    assert again.stats.new_tokens == len(again.tokens)
    stream = pipeline.stream(picture, "x", **options)
    steps = list(stream)
    assert sum(step.is_prefill for step in steps) == 2
    batch = pipeline.caption([picture] * 2, "x", batch=2, **options)
    for result in (stream.result(), *batch):
        assert (result.tokens, result.text, result.edits) == (again.tokens, again.text, again.edits)


def test_a_thought_that_the_template_opens(pipeline: Pipeline, picture: Path) -> None:
    family = pipeline._pair.family
    template, family.chat_template = family.chat_template, THINKS
    try:
        options = {"max_new_tokens": 8, "generation": spaces_and_letters(pipeline)}
        cut = pipeline.ask(picture, "x", strip_thinking=True, **options)
        assert (cut.text, cut.finish_reason, len(cut.tokens)) == ("", "length", 8)
        begun = pipeline.ask(picture, "x", strip_thinking=True, start_with="</think>A", **options)
        assert begun.text.startswith("A") and len(begun.text) == 9
        with pytest.raises(OptionError, match="within a thought"):
            pipeline.ask(picture, "x", start_with="A", **options)
    finally:
        family.chat_template = template


STRING = (
    "{% for m in messages %}{{ m['role'] + ': ' }}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}<image>{% else %}"
    "{{ p['text'] }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}assistant:"
)
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + STRING
IGNORES = STRING.replace("{{ m['content'] }}", "")


@pytest.mark.parametrize("template", [TEMPLATE, STRING])
def test_a_system_message(pipeline: Pipeline, template: str) -> None:
    family = pipeline._pair.family
    before, family.chat_template = family.chat_template, template
    try:
        ids = family.prepare([], "x", system="Be brief.")["input_ids"][0]
        text = family.tokenizer.decode(ids)
        assert text.count("Be brief.") == 1 and text.index("Be brief.") < text.index("user")
        assert "'type'" not in text
    finally:
        family.chat_template = before


@pytest.mark.parametrize("template", [REFUSES, IGNORES, None])
def test_a_system_message_that_the_template_does_not_take(
    pipeline: Pipeline, template: str | None
) -> None:
    family = pipeline._pair.family
    before, family.chat_template = family.chat_template, template
    try:
        with pytest.raises(OptionError, match="leave the system message out"):
            pipeline.ask([], "x", system="Be brief.")
    finally:
        family.chat_template = before


def test_a_colon_is_followed_by_a_space(pipeline: Pipeline) -> None:
    family = pipeline._pair.family
    before, family.chat_template = family.chat_template, STRING
    try:
        ids = family.prepare([], "x", start_with="Here")["input_ids"][0]
        assert family.tokenizer.decode(ids).endswith("assistant: Here")
    finally:
        family.chat_template = before


def test_a_conversation_keeps_answers_as_they_are(pipeline: Pipeline, picture: Path) -> None:
    with pytest.raises(OptionError, match="prefix"):
        pipeline.chat(picture, prefix="tok, ")
    conversation = pipeline.chat(picture, system="Be brief.", stop_repetition=True)
    result = conversation.ask("x")
    assert result.edits == {"system": "Be brief.", "stop_repetition": True}
    plain = pipeline.ask(picture, "x", system="Be brief.").tokens
    assert result.tokens == plain[: len(result.tokens)]
