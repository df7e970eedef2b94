"""The methods on a real, tiny pair: equal tokens, consistent counts, no traces on the models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from sage_core.bench import methods
from sage_core.bench.calibration import GRID
from sage_core.bench.data import bundled_items
from sage_core.bench.decoders import ByEngine, MethodCosts
from sage_core.bench.engine import PairEngine
from sage_core.bench.items import Files, Item
from sage_core.bench.measure import WARM_UP, Input, Measurement, Plan, Stopwatch
from sage_core.bench.summary import summary
from sage_core.drafts.head.module import Head
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.engine import extensions
from sage_core.engine.extensions import DecodingContext, DecodingExtension, DecodingParts
from sage_core.errors import OptionError
from sage_core.media import Sampling, open_media
from sage_core.models.families.base import Turn
from sage_core.options import Options
from sage_core.pair_loading import load_pair
from sage_core.trees.policies.sage.policy import SagePlanner
from tests.core.media_files import card, encoded
from tests.core.saved_pair import make_config, make_model, make_tokenizer, save, save_pair

LIMIT = 24
TREE = {"tree": [[0], [1], [0, 0]]}
SETTING = {"setting": "transformers-assisted:tokens=3,threshold=0.0"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> PairEngine:
    """Over a pair whose vocabularies have one size, as assisted generation requires."""
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


def test_files_are_opened_by_the_engine_s_opener(engine: PairEngine, picture: Files) -> None:
    opened: list[str] = []

    def opener(path: str, sampling: Sampling) -> Any:
        opened.append(path)
        return open_media(path, sampling)

    other = PairEngine(engine._pair, Options(max_new_tokens=LIMIT), opener)
    other.prepare(Item("card", picture, ("What is it?",)).request(0, ()))
    assert tuple(opened) == picture.paths


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
    video = next(one for one in bundled_items(6) if one.category == "motion")
    asked = (
        Item("card", picture, (None, "And what else?")),
        replace(video, prompts=("What moves?",)),
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
    assert report["static+viskip:share=0.001"]["nodes_per_step"] == 0, "attention is on the image"
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
    """All methods get the same seed; texts are compared only if they should be equal."""
    options = Options(max_new_tokens=LIMIT, temperature=1.3, top_k=40, seed=4)
    sampling = PairEngine(engine._pair, options)
    made = tuple(sampling.method(name) for name in SAMPLED)
    asked = (Item("card", picture, (None, "And what else?")),)
    measurement = Measurement(Plan(asked, made, "autoregressive"), sampling)
    state = torch.get_rng_state()
    for _ in measurement.lines():
        pass
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is unchanged"
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


def test_a_sampled_difference_has_the_margin_of_the_noisy_scores(
    engine: PairEngine, picture: Files
) -> None:
    options = Options(max_new_tokens=LIMIT, temperature=1.3, seed=4)
    sampling = PairEngine(engine._pair, options)
    item = sampling.prepare(Item("card", picture).request(0, ()))
    tokens = sampling.method("transformers").decode(item, sampling.stopwatch()).tokens
    for place in (0, 3, len(tokens) - 2):
        wrong = (*tokens[:place], (tokens[place] + 1) % 200, *tokens[place + 1 :])
        found = sampling.explain(item, tokens, wrong)
        assert found.position == place and not found.near_tie
        assert found.margin is not None and found.margin > 0
    # There is no margin for a token that was not drawn with this seed.
    assert sampling.explain(item, wrong, tokens).margin is None


def test_methods_with_a_reduced_vocabulary(tmp_path: Path, picture: Files) -> None:
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
    found = {name: by_engine(engine, name) for name in names}
    vocabularies = [m.decoder.settings.extension("draft_vocab") for m in found.values()]
    sizes = [None if one is None else len(one.head) for one in vocabularies]
    assert sizes == [None, 57, 10, 57], "with an end token that the list did not have"
    assert len({m.decode(item, engine.stopwatch()).tokens for m in found.values()}) == 1


def by_engine(engine: PairEngine, name: str) -> ByEngine:
    method = engine.method(name)
    assert isinstance(method, ByEngine)
    return method


def test_modifiers_have_precedence_over_the_options_of_the_run(engine: PairEngine) -> None:
    run = PairEngine(engine._pair, Options(viskip=0.9, draft_lookup=True))

    def options(name: str) -> dict[str, str]:
        extensions = by_engine(run, name).decoder.settings.extensions
        return {one.name: str(one) for one in extensions}

    assert options("sage") == {"lookup": "ngram", "viskip": "0.9"}
    own = options("sage+viskip:share=0.2+ngram:nodes=3")
    assert own == {"lookup": "ngram:nodes=3", "viskip": "0.2"}
    assert options("autoregressive") == {}
    assert options("ngram:nodes=5") == {"lookup": "ngram:nodes=5"}, "no model that could skip"
    with pytest.raises(OptionError, match="lookup"):
        run.method("static+drawn")


def test_any_other_option_is_a_modifier_by_its_own_name(
    engine: PairEngine, item: Input, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Toy(DecodingExtension):
        value: Any
        name: ClassVar[str] = "toy"

        @classmethod
        def parse(cls, value: Any) -> Toy:
            if value not in (True, "fast"):
                raise OptionError(f"toy: no such value: {value}")
            return cls(value)

        def wrap(self, parts: DecodingParts, context: DecodingContext) -> DecodingParts:
            wrapped.append(self.value)
            return parts

    wrapped: list[Any] = []
    known = {**extensions.available(), "toy": Toy}
    monkeypatch.setattr(extensions, "available", lambda: known)
    for name in ("static+toy", "static+toy:fast"):
        assert methods.spec(methods.parse(name)) == name
        engine.method(name).decode(item, engine.stopwatch())
    assert wrapped == [True, "fast"]
    with pytest.raises(OptionError, match="toy: no such value"):
        methods.parse("static+toy:slow")


@pytest.mark.real_costs
def test_what_a_method_learns_stays_in_its_run_and_repeat(
    engine: PairEngine, item: Input, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "costs.json"
    monkeypatch.setenv("SAGE_COSTS", str(file))
    recalled: list[bool] = []
    recall = SagePlanner.recall

    def spy(planner: SagePlanner, learned: Mapping[str, float]) -> None:
        recalled.append(bool(learned))
        recall(planner, learned)

    monkeypatch.setattr(SagePlanner, "recall", spy)
    method = by_engine(engine, "sage")
    for repeat in (WARM_UP, 0, 0, 1, 1):
        method.decode(replace(item, repeat=repeat), engine.stopwatch())
    by_engine(engine, "sage").decode(item, engine.stopwatch())  # another run
    assert recalled == [False, False, True, False, True, False]
    costs = method.decoder.settings.costs
    assert isinstance(costs, MethodCosts) and len(costs._new_costs) == 1, "for all repeats"
    assert not file.exists(), "the user's own store is neither read nor written"


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


def test_prefill_and_decoding_are_timed_by_every_method(engine: PairEngine, item: Input) -> None:
    for name in ("sage", "transformers", "transformers-assisted", "transformers-lookup"):
        timed = engine.stopwatch()
        decoded = engine.method(name).decode(item, timed)
        assert timed.prefill > 0 and timed.decode > 0, name
        assert 1 <= timed.first_tokens < len(decoded.tokens), name
    assert Stopwatch().first_tokens == 0


def test_settings_are_chosen_on_other_items(engine: PairEngine, item: Input) -> None:
    short = item.limited(10)
    tree = engine.calibrate(methods.parse("best-static:nodes=5"), [short])
    assert len(tree["tree"]) == 5 and tree["depth"] <= 5
    made = engine.method("best-static:nodes=5", tree).decode(item, engine.stopwatch())
    assert all(len(step.tree) <= 5 for step in made.steps)
    assisted = engine.calibrate(methods.parse("transformers-assisted-best"), [short])
    assert set(assisted["tokens_per_second"]) == {methods.spec(setting) for setting in GRID}
    assert methods.parse(assisted["setting"]) in GRID


def test_a_difference_has_its_margin_in_the_target_s_scores(
    engine: PairEngine, item: Input
) -> None:
    tokens = engine.method("transformers").decode(item, engine.stopwatch()).tokens
    wrong = (*tokens[:3], (tokens[3] + 1) % 200, *tokens[4:])
    found = engine.explain(item, tokens, wrong)
    assert (found.position, found.expected, found.got) == (3, tokens[3], wrong[3])
    assert found.margin is not None and found.margin > 0 and not found.near_tie
    assert engine.explain(item, tokens, tokens[:-1]).margin is None
    # There is no margin if `generate` itself writes another text before.
    assert engine.explain(item, wrong, (*wrong[:6], 5, *wrong[7:])).margin is None


def test_vocabularies_of_different_padded_size(tmp_path: Path, picture: Files) -> None:
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


def test_a_small_model_assists_if_the_draft_is_a_head(picture: Files) -> None:
    """As on the bundled pair: `generate` cannot use a head."""
    pair = load_pair(device="cpu")
    assert isinstance(pair.draft, Head) and pair.small is not None
    engine = PairEngine(pair, Options(max_new_tokens=8))
    given = engine.prepare(Item("card", picture).request(0, ()))
    names = ("sage", "transformers-assisted", "transformers-assisted:tokens=2")
    texts = {engine.method(name).decode(given, engine.stopwatch()).tokens for name in names}
    assert len(texts) == 1
    assert not isinstance(engine._assistant, Head) and engine._assistant is engine._assistant
    with pytest.raises(OptionError, match="the draft is a head"):
        PairEngine(replace(pair, small=None), Options()).check("transformers-assisted")


def test_without_a_draft(tmp_path: Path) -> None:
    pair = load_pair(save_pair(tmp_path) / "target", None, device="cpu")
    alone = PairEngine(pair, Options())
    for name in ("sage", "transformers-assisted", "best-static"):
        with pytest.raises(OptionError, match="needs a draft"):
            alone.method(name)
    assert alone.method("transformers-lookup").name == "transformers-lookup"
