"""Which draft goes with which target: the table, what must be equal, and what may differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, Qwen3Config

import sage_core
from sage_core.errors import ModelError
from sage_core.files.reading import as_shape, read_toml
from sage_core.models import catalog, hub, known_pairs
from sage_core.models.checkpoint import CheckpointInfo, inspect
from sage_core.models.draft_search import card_bases, find_drafts, known_bases
from sage_core.models.known_pairs import (
    KNOWN,
    SERIES,
    Series,
    drafts_for,
    known_by_shape,
    parameters_in,
    smaller_drafts,
)
from sage_core.models.pair_check import check_pair, check_same_tokenizer
from sage_core.models.pair_names import find_pair
from tests.core.saved_pair import make_config, make_model, make_tokenizer, save
from tests.tiny.families import FAMILIES

PUBLISHED = {
    "llava-hf/llava-onevision-qwen2-72b-ov-hf": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "Qwen/Qwen2.5-VL-72B-Instruct": "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen/Qwen2.5-VL-32B-Instruct": "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen/Qwen2.5-VL-7B-Instruct": "Qwen/Qwen2.5-VL-3B-Instruct",
    "Qwen/Qwen2.5-VL-7B-Instruct-AWQ": "Qwen/Qwen2.5-VL-3B-Instruct",
    "Qwen/Qwen2-VL-72B-Instruct": "Qwen/Qwen2-VL-7B-Instruct",
    "Qwen/Qwen2-VL-7B-Instruct-GPTQ-Int4": "Qwen/Qwen2-VL-2B-Instruct",
    "Qwen/Qwen3-VL-235B-A22B-Instruct": "Qwen/Qwen3-VL-8B-Instruct",
    "Qwen/Qwen3-VL-30B-A3B-Thinking": "Qwen/Qwen3-VL-2B-Thinking",
    "Qwen/Qwen3-VL-8B-Instruct": "Qwen/Qwen3-VL-2B-Instruct",
    "llava-hf/llava-1.5-13b-hf": "mjbooo/lvlm160m-bf16",
    "llava-hf/llava-1.5-7b-hf": "mjbooo/lvlm68m",
    "meta-llama/Llama-3.1-70B-Instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Llama-3.2-1B-Instruct",
    "Qwen/Qwen2.5-7B-Instruct": "Qwen/Qwen2.5-0.5B-Instruct",
    "Qwen/Qwen3-32B": "Qwen/Qwen3-1.7B",
}


def test_the_table() -> None:
    assert {target: drafts_for(target)[0] for target in PUBLISHED} == PUBLISHED
    assert drafts_for("Qwen/Qwen2.5-VL-3B-Instruct") == ()
    for pair in KNOWN.values():
        assert pair.target not in pair.drafts
        assert len(set(pair.drafts)) == len(pair.drafts)
        assert all(draft.count("/") == 1 and "{" not in draft for draft in pair.drafts)
    assert len({series.name for series in SERIES}) == len(SERIES)


def test_every_kind_of_target_is_a_class_of_transformers() -> None:
    known = {kind for series in SERIES for kind in series.model_types}
    assert known <= set(CONFIG_MAPPING.keys())


def test_the_catalogue_is_checked_against_its_schema(tmp_path: Path) -> None:
    file = Path(known_pairs.__file__).with_name("known_pairs.toml")
    table = read_toml(file)
    assert set(table) == {"series"}
    assert len(table["series"]) == len(SERIES)
    first = table["series"][0]
    for changed in (
        {"colour": "red"},
        {"vocab_size": "many"},
        {"drafts": {"72B": ["7B"]}},
        {"pattern": "no gap"},
        {"shapes": {"72b-ov": [80]}},
        {"shapes": {"another": [80, 8192]}},
    ):
        with pytest.raises((ModelError, ValueError)):
            as_shape(first | changed, "file", Series, error=ModelError)
    as_shape(first, "file", Series, error=ModelError)


def test_a_shape_means_one_architecture_of_known_targets() -> None:
    for series in SERIES:
        for size, (layers, width) in series.shapes.items():
            found = known_by_shape(series.model_types[0], series.vocab_size, layers, width)
            assert found is not None
            assert drafts_for(found)
            assert parameters_in(found) == parameters_in(series.pattern.format(size))
    assert known_by_shape("qwen2_5_vl", 151_936, 36, 2048) is None  # no target: the smallest


@pytest.mark.parametrize(
    ("front", "bases"),
    [
        ("base_model: Qwen/Qwen3-8B", ["Qwen/Qwen3-8B"]),
        ("license: mit\nbase_model:\n- a/b\n  - c/d\ntags:\n- e/f", ["a/b", "c/d"]),
        ("base_model_relation: quantized\nbase_model: 'a/b'", ["a/b"]),
        ("license: mit", []),
        ("base_model:", []),
    ],
)
def test_the_base_of_a_card(front: str, bases: list[str], tmp_path: Path) -> None:
    assert card_bases(tmp_path) == []
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\nbase_model: x/y\n", encoding="utf-8")
    assert card_bases(tmp_path) == bases
    (tmp_path / "README.md").write_bytes(b"\xff")
    assert card_bases(tmp_path) == []


QWEN = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 151_936}


@pytest.mark.parametrize(
    ("name", "changes", "card", "base"),
    [
        ("Qwen/Qwen3-8B", {}, "", "Qwen/Qwen3-8B"),
        ("own/tune", {"_name_or_path": "Qwen/Qwen3-8B"}, "", "Qwen/Qwen3-8B"),
        ("own/tune", {"_name_or_path": "/data/qwen3-8b/"}, "", "Qwen/Qwen3-8B"),
        ("own/tune", {}, "Qwen/Qwen3-14B", "Qwen/Qwen3-14B"),
        ("own/tune", {"hidden_size": 4096, "num_hidden_layers": 36}, "", "Qwen/Qwen3-8B"),
        ("own/tune", {"_name_or_path": "Qwen/Qwen3-8B", "vocab_size": 99}, "", None),
        ("own/tune", {"_name_or_path": "Qwen/Qwen2.5-7B-Instruct"}, "", None),
        ("own/tune", {"_name_or_path": 3}, "own/other", None),
    ],
    ids=str,
)
def test_the_known_target_that_a_model_is(
    name: str, changes: dict[str, Any], card: str, base: str | None, tmp_path: Path
) -> None:
    stated = QWEN | changes
    (tmp_path / "config.json").write_text(json.dumps(stated), encoding="utf-8")
    if card:
        front = f"---\nbase_model: {card}\n---\n"
        (tmp_path / "README.md").write_text(front, encoding="utf-8")
    config = Qwen3Config(**{k: v for k, v in stated.items() if not k.startswith("_")})
    target = CheckpointInfo(hub.Checkpoint(name, tmp_path), config, None, None)  # type: ignore[arg-type]
    assert next(known_bases(target, name), (None, ""))[0] == base


@pytest.mark.parametrize(
    ("target", "drafts"),
    [
        (("qwen2_5_vl", 152_064, 7e9), ("Qwen/Qwen2.5-VL-3B-Instruct",)),
        (("qwen2_5_vl", 151_936, 3e9), ()),  # no smaller one is published
        (
            ("llama", 128_256, 8e9),
            ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B"),
        ),
        (("llama", 49_152, 135e6), ()),  # SmolLM2: no smaller one is published
        (("llama", 49_152, 8e9), ("HuggingFaceTB/SmolLM2-135M-Instruct",)),
        (("llama", 60_000, 8e9), ()),
        (("martian", 151_936, 7e9), ()),
    ],
    ids=str,
)
def test_published_drafts_for_other_targets(
    target: tuple[str, int, int], drafts: tuple[str, ...]
) -> None:
    assert smaller_drafts(*target) == drafts


def test_parameters_stated_in_names() -> None:
    assert all(parameters_in(name) < 1e12 for pair in KNOWN.values() for name in pair.drafts)
    assert parameters_in("Qwen/Qwen3-VL-235B-A22B-Instruct") == 235e9
    assert parameters_in("mjbooo/lvlm160m-bf16") == 160e6
    assert parameters_in("own/model-v2.5") == float("inf")


def test_only_a_cached_draft_that_fits_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {
        "target": (3, ()),
        "own/other-tokenizer": (1, ("more",)),
        "own/as-large": (3, ()),
        "own/fits": (2, ()),
    }
    for name, (layers, extra) in made.items():
        save(tmp_path / name, make_model(make_config(layers), 3), make_tokenizer(extra))
    target = inspect(tmp_path / "target", "target", None, False)
    architecture = "LlavaOnevisionForConditionalGeneration"
    smaller = target.checkpoint.bytes - 1

    def suggested(*cached: str, kind: str = architecture, size: int = smaller) -> str | None:
        entries = [
            catalog.ModelEntry(name, "cached", tmp_path / name, kind, size, None) for name in cached
        ]
        monkeypatch.setattr(catalog, "list_models", lambda: entries)
        found = next(find_drafts(target, "target"), None)
        return None if found is None else found.id

    assert suggested(*list(made)[1:]) == "own/fits"
    assert suggested("own/other-tokenizer", "own/as-large", "own/missing") is None
    assert suggested("own/fits", kind="LlamaForCausalLM") is None
    assert suggested("own/fits", size=target.checkpoint.bytes) is None
    (tmp_path / "own/fits/tokenizer.json").write_text("{", encoding="utf-8")
    assert suggested("own/fits") is None


def test_a_cached_draft_goes_before_a_better_one(monkeypatch: pytest.MonkeyPatch) -> None:
    target = "Qwen/Qwen2.5-VL-72B-Instruct"
    cached: list[str] = []
    monkeypatch.setattr(hub, "is_cached", lambda repo: repo in cached)
    assert find_pair(target, "auto").draft == "Qwen/Qwen2.5-VL-7B-Instruct"
    cached.append("Qwen/Qwen2.5-VL-3B-Instruct")
    assert find_pair(target, "auto").draft == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert find_pair(target + "@main", "auto").draft == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert find_pair(target, "own/choice").draft == "own/choice"
    assert find_pair(target, None).draft is None


def test_the_list_says_what_is_missing() -> None:
    target, draft = "Qwen/Qwen2-VL-72B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"

    def entry(name: str) -> catalog.ModelEntry:
        return catalog.ModelEntry(name, "cached", Path("x"), "A", 1, None)

    def listed(*names: str) -> dict[str, catalog.PairEntry]:
        return {pair.target: pair for pair in catalog.list_pairs([entry(name) for name in names])}

    assert set(listed()) == set(KNOWN)
    pair = listed(draft)[target]
    assert (pair.draft, pair.drafts_cached, pair.target_cached) == (draft, (draft,), False)
    assert listed(target)[target].target_cached
    assert target not in listed(target, draft)


class Vocabulary:
    def __init__(self, *tokens: str) -> None:
        self._tokens = tokens

    def get_vocab(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self._tokens)}


def test_the_first_difference_of_two_tokenizers_is_named() -> None:
    check_same_tokenizer(Vocabulary("a", "b"), Vocabulary("a", "b"))
    with pytest.raises(ModelError, match="token 1 is 'b' for the target and 'x' for the draft"):
        check_same_tokenizer(Vocabulary("a", "b", "c"), Vocabulary("a", "x", "y"))
    with pytest.raises(ModelError, match="token 2 is nothing for the target and 'c' for the draft"):
        check_same_tokenizer(Vocabulary("a", "b"), Vocabulary("a", "b", "c"))


def family_config(name: str, **changes: Any) -> Any:
    config = FAMILIES[name].config(1)
    for key, value in changes.items():
        part, _, field = key.rpartition("__")
        setattr(getattr(config, part) if part else config, field, value)
    return config


FITTING = [
    ("llava", "llava", {}, 160),
    ("qwen3_vl_moe", "qwen3_vl", {}, 160),
    ("qwen2_5_vl", "qwen2_5_vl", {"text_config__vocab_size": 200}, 160),
    ("qwen2_5_vl", "qwen2_5_vl", {"text_config__vocab_size": 140}, 140),
    ("llama", "qwen2", {}, 160),
]


@pytest.mark.parametrize(("target", "draft", "changes", "tokens"), FITTING, ids=str)
def test_drafts_that_fit(target: str, draft: str, changes: dict[str, Any], tokens: int) -> None:
    vocabulary = Vocabulary(*map(str, range(tokens)))
    check_pair(family_config(target), family_config(draft, **changes), vocabulary, vocabulary)


NOT_FITTING = [
    ("qwen2_5_vl", "llama", {}, "a llama draft does not fit a qwen2_5_vl target"),
    ("llava_onevision", "llava", {}, "choose a draft of the target's own family"),
    ("qwen2_vl", "qwen2_vl", {"video_token_id": 9}, "video_token_id is 4 for the target and 9"),
    ("qwen2_vl", "qwen2_vl", {"vision_config__patch_size": 8}, "patch_size is 4 for the target"),
    ("llava", "llava", {"vision_config__image_size": 32}, "image_size is 16 for the target"),
    (
        "qwen2_vl",
        "qwen2_vl",
        {"text_config__vocab_size": 100},
        "the draft has 100 tokens and cannot embed token 100",
    ),
    ("llava", "llava", {"text_config__vocab_size": 3}, "cannot embed token 3"),
]


@pytest.mark.parametrize(
    ("target", "draft", "changes", "says"), NOT_FITTING, ids=[case[3] for case in NOT_FITTING]
)
def test_drafts_that_do_not_fit(
    target: str, draft: str, changes: dict[str, Any], says: str
) -> None:
    vocabulary = Vocabulary(*map(str, range(140)))
    with pytest.raises(ModelError, match=says):
        check_pair(family_config(target), family_config(draft, **changes), vocabulary, vocabulary)


@pytest.mark.parametrize(
    ("target_tokens", "draft_tokens"),
    [(264, 320), (320, 264), (152_064, 151_936)],
    ids=["the draft padded", "the target padded", "Qwen's own"],
)
def test_padded_vocabularies_of_different_sizes(
    target_tokens: int, draft_tokens: int, tmp_path: Path
) -> None:
    """The random target also writes tokens that exist by padding alone: the draft lacks them."""
    for part, layers, tokens in (("target", 2, target_tokens), ("draft", 1, draft_tokens)):
        model = make_model(make_config(layers, tokens), 3)
        if part == "target" and tokens > draft_tokens:  # no fair chance for a few in so many
            with torch.no_grad():
                louder = 1.5 if tokens < 1000 else 4.0
                model.get_input_embeddings().weight[draft_tokens:].mul_(louder)
        save(tmp_path / part, model, make_tokenizer())
    pipeline = sage_core.load(tmp_path)
    target, draft = pipeline._pair.target, pipeline._pair.draft
    ids = torch.tensor([[1, 40, 41, 42, 43]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = target.generate(**inputs, max_new_tokens=40, do_sample=False)
    decoder = sage_core.SpeculativeDecoder(target, draft, policy="static")
    output = decoder.generate(**inputs, max_new_tokens=40)
    assert output.sequences.tolist() == expected.tolist()
    drafted = {token for step in output.steps for token in step.tree.tokens}
    assert drafted
    assert max(drafted) < min(target_tokens, draft_tokens)
    if target_tokens > draft_tokens:
        assert int(expected.max()) >= draft_tokens, "the case does not test what it should"


def test_the_bundled_pair_drafts_with_its_head_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(catalog.BUNDLED_VARIABLE, raising=False)
    folder = catalog.bundled_folder()
    for name in (None, "sage-tiny"):
        names = find_pair(name, "auto")
        assert (names.target, names.draft) == (folder / "target", folder / "head")
        assert (names.draft_id, names.small) == ("sage-tiny-head", folder / "draft")
    names = find_pair(None, "sage-tiny-draft")
    assert (names.draft, names.draft_id, names.small) == (folder / "draft", "sage-tiny-draft", None)
    assert find_pair(None, "none").draft is None
