"""Draft vocabularies: counted from texts and answers, saved, checked against tokenizers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import sage_core
from sage_core.drafts.vocab.count_tokens import CountedText, count_vocab, read_texts
from sage_core.drafts.vocab.reduced_lm_head import ReducedHead
from sage_core.drafts.vocab.token_list import (
    FILE_NAME,
    DraftVocab,
    as_asked,
    fingerprint,
    read,
    resolve,
)
from sage_core.errors import InputError, ModelError, OptionError
from tests.core.saved_pair import make_tokenizer, save_pair


def record(text: str, tokens: list[int], target: str = "a/model") -> dict[str, Any]:
    return {"schema": 1, "text": text, "tokens": tokens, "models": {"target": target}}


RECORDS = [record("one", [5, 6]), {"schema": 1, "error": {"kind": "input"}}, record("two", [7])]
TEXTS = [CountedText("one", (5, 6), "a/model"), CountedText("two", (7,), "a/model")]
JSONL = "\n".join(map(json.dumps, RECORDS)) + "\n"

CONTENTS: dict[str, tuple[str, list[CountedText]]] = {
    "lines of records": (JSONL, TEXTS),
    "lines of records behind a mark and an empty line": ("\ufeff\n" + JSONL, TEXTS),
    "a list of records": (json.dumps(RECORDS, indent=1), TEXTS),
    "one record, indented": (json.dumps(RECORDS[0], indent=1), TEXTS[:1]),
    "text": ("a b\nc\n", [CountedText("a b\nc\n")]),
    "text that is JSON of another kind": ('{"a": 1}\n', [CountedText('{"a": 1}\n')]),
    "text in brackets": ("[sic] and so on", [CountedText("[sic] and so on")]),
    "nothing": ("", [CountedText("")]),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_read_texts(name: str) -> None:
    content, expected = CONTENTS[name]
    assert list(read_texts(content.encode(), "f")) == expected


def test_long_texts_come_in_blocks_of_whole_lines() -> None:
    text = "".join(f"{n} some words\n" for n in range(20_000))
    blocks = [said.text for said in read_texts(text.encode(), "f")]
    assert len(blocks) > 3 and "".join(blocks) == text
    assert all(block.endswith("\n") for block in blocks if block)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"PK\x03\x04\0\0", "not a text file"),
        ((JSONL + "{broken\n").encode(), "line 4 is not a record"),
    ],
)
def test_binary_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list(read_texts(content, "some file"))


def test_the_most_frequent_come_first_and_ties_in_order_of_ids() -> None:
    counts = Counter({9: 5, 4: 5, 7: 9, 2: 1})
    vocab = DraftVocab.counted_from(counts, [2, 1], 4)
    assert vocab == DraftVocab((7, 4), (2, 1), counted=20, covered=15 / 20)
    assert vocab.first(3).ids == (7,) and vocab.first(1).ids == ()
    with pytest.raises(OptionError, match="holds 4 tokens, not 5"):
        vocab.first(5)


@pytest.mark.parametrize("ids", [(), (1, 1), (-1,), (1.5,), (True,), ("a",)])
def test_invalid_lists(ids: Any) -> None:
    with pytest.raises(OptionError):
        DraftVocab(ids)


def test_forms_of_a_request() -> None:
    assert as_asked(None) is None and as_asked(12) == as_asked("12") == 12
    assert as_asked("a.json") == "a.json" and as_asked([4, 2]) == DraftVocab((4, 2))
    for wrong in (0, "0", -3, True, 1.5, [1, 1], ["a"]):
        with pytest.raises(OptionError):
            as_asked(wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="draft_vocab"):
        sage_core.Options(draft_vocab=0)


DAMAGED: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "not valid JSON"),
    "other JSON": ('{"ids": [1]}', "not a draft vocabulary"),
    "a list": ("[1]", "not a draft vocabulary"),
    "no ids": ('{"format": "sage draft vocabulary 1", "always": []}', "damaged"),
    "another field": (
        '{"format": "sage draft vocabulary 1", "ids": [1], "always": [], "x": 1}',
        "damaged",
    ),
    "ids twice": ('{"format": "sage draft vocabulary 1", "ids": [1, 1], "always": []}', "damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    content, message = DAMAGED[name]
    (tmp_path / "v.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "v.json")
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "w.json")


def test_the_list_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    own, other = make_tokenizer(), make_tokenizer(extra=("one", "more"))
    vocab = DraftVocab((9, 4), (2,), "a/model", fingerprint(own), 7, 0.5)
    file = tmp_path / FILE_NAME
    file.write_text(vocab.as_json(), encoding="utf-8")
    assert read(file) == vocab == resolve(file, "b/model", None, own)
    for asked in (file, str(file), vocab, 2):
        with pytest.raises(ModelError, match=r"tokenizer of a/model.* not that of b/model"):
            resolve(asked, "b/model", tmp_path, other)


# With a pair on disk


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("vocab"))


def test_counting_reads_no_weights_and_keeps_special_tokens(pair: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    for file in (pair / "target").iterdir():
        content = b"" if file.suffix == ".safetensors" else file.read_bytes()
        (target / file.name).write_bytes(content)
    own = record("ignored", [50, 50, 51, 2], str(target))
    other = record("aab", [50])
    lines = "\n".join(map(json.dumps, [own, other]))
    vocab = count_vocab([("f", lines.encode())], target, 6)
    ids = make_tokenizer().convert_tokens_to_ids(["a", "b"])
    assert vocab.always == (0, 1, 2), "ends and other special tokens, but no placeholders"
    assert vocab.ids == (min(50, ids[0]), max(50, ids[0]), min(51, ids[1]))
    assert vocab.counted == 7 and vocab.tokenizer == str(target)
    with pytest.raises(InputError, match="no text"):
        count_vocab([("f", b"")], target)


def test_a_pipeline_with_a_list_in_every_form(pair: Path, tmp_path: Path) -> None:
    pipeline = sage_core.load(pair, device="cpu")
    asking = {"max_new_tokens": 24, "policy": "static"}
    plain = pipeline.ask((), "one two one two", **asking)
    with pytest.raises(OptionError, match=f"no {FILE_NAME} beside .*sage draft-vocab"):
        pipeline.ask((), "one", draft_vocab=40)
    vocab = count_vocab([("f", plain.text.encode() + bytes(range(32, 127)))], pair, 60)
    file = tmp_path / "list.json"
    file.write_text(vocab.as_json(), encoding="utf-8")
    (pair / "target" / FILE_NAME).write_text(vocab.as_json(), encoding="utf-8")
    for asked in (40, str(file), file, vocab, vocab.ids, None):
        result = pipeline.ask((), "one two one two", **asking, draft_vocab=asked)
        assert result.tokens == plain.tokens
        used = {token for step in result.steps for token in step.tree.tokens}
        allowed = {*vocab.first(40 if asked == 40 else len(vocab)).ids, *vocab.always}
        assert used and (asked is None or used <= allowed)
    turns = pipeline.chat(**asking, draft_vocab=40)
    assert [turns.ask(q).tokens for q in ("one", "two")] == [
        chat.ask(q).tokens for chat in [pipeline.chat(**asking)] for q in ("one", "two")
    ]


def test_the_head_is_copied_once_for_requests_of_the_same_list(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    honest = ReducedHead.of.__func__  # type: ignore[attr-defined]

    def counting(kind: Any, *arguments: Any) -> Any:
        made.append(arguments)
        return honest(kind, *arguments)

    monkeypatch.setattr(ReducedHead, "of", classmethod(counting))
    pipeline = sage_core.load(pair, device="cpu")
    for asked in ([40, 41], [40, 41], None, [40, 41]):
        pipeline.ask((), "one", max_new_tokens=4, policy="static", draft_vocab=asked)
    assert len(made) == 2, "once, and again behind a request without"


def test_without_a_draft_model_it_is_refused(pair: Path) -> None:
    for draft in (None, "ngram"):
        pipeline = sage_core.load(pair, draft, device="cpu")
        with pytest.raises(OptionError, match="draft_vocab needs a draft model"):
            pipeline.ask((), "one", draft_vocab=[9])
