"""The methods over a real, tiny pair: same ids, counts that add up, nothing left on the models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sage_core.bench import methods
from sage_core.bench.calibration import GRID
from sage_core.bench.engine import PairEngine
from sage_core.bench.items import Files, Item, Rendered
from sage_core.bench.measure import Input, Measurement, Plan, Stopwatch
from sage_core.bench.summary import summary
from sage_core.drafts.head.module import Head
from sage_core.drafts.ngram import Ngram
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.errors import OptionError
from sage_core.models.families.base import Turn
from sage_core.pair_loading import load_pair
from sage_core.pipeline import Options
from tests.core.media_files import card, encoded
from tests.core.saved_pair import make_config, make_model, make_tokenizer, save, save_pair

LIMIT = 24
TREE = {"tree": [[0], [1], [0, 0]]}
SETTING = {"setting": "transformers-assisted:tokens=3,threshold=0.0"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> PairEngine:
    """Over a pair whose vocabularies have one size, as assisted generation wants it."""
    folder = tmp_path_factory.mktemp("pair")
    for name, layers, seed in (("target", 2, 0), ("draft", 1, 1)):
        save(folder / name, make_model(make_config(layers), seed), make_tokenizer())
    pair = load_pair(folder / "target", folder / "draft", device="cpu")
    return PairEngine(pair, Options(max_new_tokens=LIMIT))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Files:
    path = tmp_path_factory.mktemp("files") / "card.png"
    path.write_bytes(encoded(card(), "PNG"))
    return Files((str(path),))


@pytest.fixture(scope="module")
def item(engine: PairEngine, picture: Files) -> Input:
    return engine.prepare(Item("card", picture, ("What is it?",)).request(0, ()))


def test_all_methods_on_the_same_inputs(engine: PairEngine, picture: Files) -> None:
    given = {"best-static:nodes=3": TREE, "transformers-assisted-best": SETTING}
    names = [
        "autoregressive", "sage", "static", "chain", "best-static:nodes=3", "transformers",
        "transformers-assisted", "transformers-assisted-best", "transformers-lookup:tokens=3",
        "transformers-assisted:tokens=2,schedule=heuristic", "ngram:shortest=1,nodes=5",
        "eagle2:nodes=6", "optimal-static:nodes=6", "spec-llava:nodes=6",
        "sage+ngram:shortest=1,least=0.001", "static+viskip:share=0.001",
    ]  # fmt: skip
    made = tuple(engine.method(name, given.get(name)) for name in names)
    asked = (
        Item("card", picture, (None, "And what else?")),
        Item("clip", Rendered("motion", 0, 0), ("What moves?",)),
    )
    measurement = Measurement(Plan(asked, made, "autoregressive"), engine)
    for _ in measurement.lines():
        pass
    assert not measurement.results.failures
    report = {m["name"]: m for m in summary(measurement.results, names, names[0])["methods"]}
    assert {name: (m["items"], m["exact"]) for name, m in report.items()} == dict.fromkeys(
        names, (3, 3)
    )
    assert report["autoregressive"]["mean_accepted"] == 0
    assert report["best-static:nodes=3"]["nodes_per_step"] <= 3
    assert report["ngram:shortest=1,nodes=5"]["draft_passes_per_step"] == 0
    assert 0 < report["ngram:shortest=1,nodes=5"]["nodes_per_step"] <= 5
    assert report["static+viskip:share=0.001"]["nodes_per_step"] == 0, "it looks at the picture"
    assert report["transformers"]["mean_accepted"] is None
    assert report["transformers-assisted"]["steps"] > 0, "its rounds are counted"
    assert report["transformers-assisted"]["nodes_per_step"] is None
    seconds = report["sage"]["seconds"]
    phases = sum(seconds[name] for name in ("draft", "plan", "verify", "accept", "commit"))
    assert 0 < phases <= seconds["decode"]
    assert report["sage"]["peak_memory"] > 0


SAMPLED = {
    "autoregressive": True,
    "sage": True,
    "static": True,
    "sage+ngram:shortest=1,least=0.001": True,
    "ngram:shortest=1,nodes=5": True,
    "transformers": True,
    "static+drawn": False,
    "chain+ears:tolerance=1.0": False,
    "transformers-assisted": False,
    "transformers-lookup:tokens=3": False,
}
"""Whether a method's sampled text is the reference's under one seed."""


def test_sampled_texts(engine: PairEngine, picture: Files) -> None:
    """Each method gets the same seed for an item; what draws otherwise is not held against it."""
    options = Options(max_new_tokens=LIMIT, temperature=1.3, top_k=40, seed=4)
    sampling = PairEngine(engine._pair, options)
    made = tuple(sampling.method(name) for name in SAMPLED)
    asked = (Item("card", picture, (None, "And what else?")),)
    measurement = Measurement(Plan(asked, made, "autoregressive"), sampling)
    state = torch.get_rng_state()
    for _ in measurement.lines():
        pass
    assert torch.equal(torch.get_rng_state(), state), "the caller's own stream goes on"
    assert not measurement.results.failures
    found = summary(measurement.results, list(SAMPLED), "autoregressive")["methods"]
    compared = {m["name"]: (m["comparable"], m["exact"], m["compared"]) for m in found}
    assert compared == {n: (same, 2 * same, 2 * same) for n, same in SAMPLED.items()}
    assert {m["lossy"] for m in found} == {None, "ears:tolerance=1.0"}
    item = sampling.prepare(asked[0].request(0, ()))
    texts = {n: measurement.results.of("card#1", n)[0].tokens for n in SAMPLED}
    torch.manual_seed(4)
    ids = engine._pair.target.generate(
        **item.inputs, do_sample=True, temperature=1.3, top_k=40, max_new_tokens=LIMIT
    )
    assert tuple(ids[0, item.prompt_tokens :].tolist()) == texts["autoregressive"]
    assert texts["static+drawn"] != texts["autoregressive"]
    greedy = engine.method("autoregressive").decode(
        engine.prepare(asked[0].request(0, ())), Stopwatch()
    )
    assert greedy.tokens != texts["autoregressive"] and greedy.comparable


def test_a_sampled_difference_comes_with_the_margin_of_the_draw(
    engine: PairEngine, picture: Files
) -> None:
    options = Options(max_new_tokens=LIMIT, temperature=1.3, seed=4)
    sampling = PairEngine(engine._pair, options)
    item = sampling.prepare(Item("card", picture).request(0, ()))
    tokens = sampling.method("transformers").decode(item, sampling.stopwatch()).tokens
    for place in (0, 3, len(tokens) - 2):
        wrong = (*tokens[:place], (tokens[place] + 1) % 200, *tokens[place + 1 :])
        position, *_, margin, tie = sampling.explain(item, tokens, wrong)
        assert position == place and margin > 0 and not tie
    # Of a token that was not drawn there is no margin: the text is not what this seed gives.
    assert sampling.explain(item, wrong, tokens)[3] is None


def test_rows_with_a_reduced_draft(tmp_path: Path, picture: Files) -> None:
    folder = save_pair(tmp_path)
    pair = load_pair(folder / "target", folder / "draft", device="cpu")
    engine = PairEngine(pair, Options(max_new_tokens=LIMIT))
    with pytest.raises(OptionError, match=r"no draft_vocab.json .* sage\+vocab:list=FILE"):
        engine.method("sage+vocab")
    written = DraftVocab(tuple(range(5, 60)), (2,)).as_json()
    (tmp_path / "some.json").write_text(written)
    (pair.folder / "draft_vocab.json").write_text(written)
    item = engine.prepare(Item("card", picture).request(0, ()))
    names = [
        "static",
        "static+vocab",
        "static+vocab:list=9",
        f"static+vocab:list={tmp_path}/some.json",
    ]
    rows = {name: engine.method(name) for name in names}
    sizes = [m._decoder.reduced and len(m._decoder.reduced) for m in rows.values()]
    assert sizes == [None, 57, 10, 57], "with an end of texts that the list did not have"
    assert len({m.decode(item, engine.stopwatch()).tokens for m in rows.values()}) == 1


def test_a_row_s_addition_is_in_the_place_of_the_flag(engine: PairEngine) -> None:
    flags = PairEngine(engine._pair, Options(viskip=0.9, draft_lookup=True))
    plain, own = (flags.method(n)._decoder for n in ("sage", "sage+viskip:share=0.2+ngram:nodes=3"))
    assert (plain.viskip, plain.lookup) == (0.9, Ngram())
    assert (own.viskip, own.lookup) == (0.2, Ngram(nodes=3))
    with pytest.raises(OptionError, match="looked up"):
        flags.method("static+drawn")


def test_a_benchmark_whose_drafts_are_looked_up(tmp_path: Path, picture: Files) -> None:
    folder = save_pair(tmp_path)
    engine = PairEngine(
        load_pair(folder, "ngram:shortest=1,least=0.001", device="cpu"),
        Options(max_new_tokens=LIMIT),
    )
    item = engine.prepare(Item("card", picture, ("What is it?",)).request(0, ()))
    alone = engine.method("autoregressive").decode(item, engine.stopwatch())
    looked_up = engine.method("static").decode(item, engine.stopwatch())
    assert looked_up.tokens == alone.tokens
    assert looked_up.counts is not None and looked_up.counts.draft_passes == 0
    looked_up = engine.method("static+ngram:nodes=2").decode(item, engine.stopwatch())
    assert looked_up.tokens == alone.tokens
    for name in ("transformers-assisted", "sage+viskip", "sage+ngram+vocab", "static+drawn"):
        with pytest.raises(OptionError, match="needs a draft model"):
            engine.method(name)


def test_later_turns_have_the_whole_conversation(engine: PairEngine, picture: Files) -> None:
    request = Item("talk", picture, ("First?", "Second?")).request(1, ["One."])
    found = engine.prepare(request)
    family = engine._pair.family
    media = picture.open(Options().sampling(family.sampling))
    turns = [Turn(media, "First?", "One."), Turn((), "Second?")]
    wanted = family.build_inputs(family.render(turns), media, family.process_media(media))
    assert found.inputs["input_ids"].tolist() == wanted["input_ids"].tolist()
    assert found.inputs["pixel_values"].shape == wanted["pixel_values"].shape
    assert found.prompt_tokens == wanted["input_ids"].shape[1] and found.media_seconds > 0


def test_nothing_is_left_on_the_draft(engine: PairEngine, item: Input) -> None:
    draft = engine._pair.draft
    config, before = draft.generation_config, draft.generation_config.to_dict()
    engine.method("transformers-assisted:tokens=1,schedule=heuristic").decode(
        item, engine.stopwatch()
    )
    with pytest.raises(AttributeError):  # also where it breaks off
        engine.method("transformers-assisted:tokens=1").decode(item, None)  # type: ignore[arg-type]
    assert draft.generation_config is config
    assert draft.generation_config.to_dict() == before


def test_assisted_settings_reach_transformers(engine: PairEngine, item: Input) -> None:
    def longest(name: str) -> int:
        decoded = engine.method(name).decode(item, engine.stopwatch())
        assert decoded.counts is not None
        return max(decoded.counts.accepted)

    assert longest("transformers-assisted:tokens=1,threshold=0") <= 1
    same = engine.method("transformers-assisted:tokens=9,threshold=0").decode(
        item, engine.stopwatch()
    )
    assert same.tokens == engine.method("transformers").decode(item, engine.stopwatch()).tokens


def test_the_watch_is_pressed_at_the_first_commit_and_at_the_end(
    engine: PairEngine, item: Input
) -> None:
    for name in ("sage", "transformers", "transformers-assisted", "transformers-lookup"):
        watch = engine.stopwatch()
        decoded = engine.method(name).decode(item, watch)
        assert watch.prefill > 0 and watch.decode > 0, name
        assert 1 <= watch.first_tokens < len(decoded.tokens), name
    assert Stopwatch().first_tokens == 0


def test_what_is_chosen_on_other_items(engine: PairEngine, item: Input) -> None:
    short = item.limited(10)
    tree = engine.calibrate(methods.parse("best-static:nodes=5"), [short])
    assert len(tree["tree"]) == 5 and tree["depth"] <= 5
    made = engine.method("best-static:nodes=5", tree).decode(item, engine.stopwatch())
    assert all(len(step.tree) <= 5 for step in made.steps)
    assisted = engine.calibrate(methods.parse("transformers-assisted-best"), [short])
    assert set(assisted["tokens_per_second"]) == {methods.spec(setting) for setting in GRID}
    assert methods.parse(assisted["setting"]) in GRID


def test_a_difference_comes_with_the_target_s_margin(engine: PairEngine, item: Input) -> None:
    tokens = engine.method("transformers").decode(item, engine.stopwatch()).tokens
    wrong = (*tokens[:3], (tokens[3] + 1) % 200, *tokens[4:])
    position, expected, got, margin, tie = engine.explain(item, tokens, wrong)
    assert (position, expected, got) == (3, tokens[3], wrong[3])
    assert margin > 0 and not tie
    assert engine.explain(item, tokens, tokens[:-1])[3] is None
    # Where the reference itself is another text, there is no score to hold against it.
    assert engine.explain(item, wrong, (*wrong[:6], 5, *wrong[7:]))[3] is None


def test_sizes_that_pad_the_vocabulary_differently(tmp_path: Path, picture: Files) -> None:
    folder = save_pair(tmp_path)
    engine = PairEngine(
        load_pair(folder / "target", folder / "draft", device="cpu"), Options(max_new_tokens=8)
    )
    given = engine.prepare(Item("card", picture).request(0, ()))
    texts = {
        name: engine.method(name).decode(given, engine.stopwatch()).tokens
        for name in ("autoregressive", "transformers-assisted")
    }
    assert len(set(texts.values())) == 1, texts


def test_where_the_draft_is_a_head_a_small_model_assists(picture: Files) -> None:
    """On the bundled pair, whose draft is a head: `generate` cannot use it."""
    pair = load_pair(device="cpu")
    assert isinstance(pair.draft, Head) and pair.small is not None
    engine = PairEngine(pair, Options(max_new_tokens=8))
    given = engine.prepare(Item("card", picture).request(0, ()))
    names = ("sage", "transformers-assisted", "transformers-assisted:tokens=2")
    texts = {engine.method(name).decode(given, engine.stopwatch()).tokens for name in names}
    assert len(texts) == 1
    assert not isinstance(engine._assistant, Head) and engine._assistant is engine._assistant
    with pytest.raises(OptionError, match="a head is none"):
        PairEngine(replace(pair, small=None), Options()).check("transformers-assisted")


def test_without_a_draft(tmp_path: Path) -> None:
    pair = load_pair(save_pair(tmp_path) / "target", None, device="cpu")
    alone = PairEngine(pair, Options())
    for name in ("sage", "transformers-assisted", "best-static"):
        with pytest.raises(OptionError, match="needs a draft"):
            alone.method(name)
    assert alone.method("transformers-lookup").name == "transformers-lookup"
