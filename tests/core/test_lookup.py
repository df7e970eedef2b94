"""N-gram lookup: against a reference search, exact, within limits, only while it pays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sage_core
from sage_core.drafts.ngram import NO_TOKEN, Ngram, NgramIndex, as_ngram
from sage_core.drafts.ngram_hybrid import LookupGains, graft
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.errors import OptionError
from sage_core.trees.policies import parse
from sage_core.trees.tree import ROOT, TokenTree
from tests.core.saved_pair import save_pair
from tests.core.test_tree import trees
from tests.tiny import FAMILIES, build_pair, make_inputs, perfect_draft, wrong_draft
from tests.tiny.oracle import check_steps, first_mismatch, reference

Path = tuple[int, ...]


def paths(tree: TokenTree) -> list[Path]:
    """Every node as the tokens down to it, in node order."""
    return [tuple(tree.tokens[n] for n in tree.path(node)) for node in range(len(tree))]


# The index


def literal_matches(text: list[int], o: Ngram) -> list[tuple[int, int]]:
    """Every earlier place, its longest match with the end of the text, by looking everywhere."""
    found = []
    for place in range(1, len(text)):
        n = 0
        while n < min(place, o.longest) and text[place - n - 1] == text[-n - 1] != NO_TOKEN:
            n += 1
        if n >= o.shortest:
            found.append((n, place))
    return sorted(found, key=lambda match: (-match[0], -match[1]))


def literal_tree(text: list[int], o: Ngram, depth: int) -> list[Path]:
    """The tree from its definition: weights of whole continuations, shares, the best of all."""
    followed = []
    for order, (n, place) in enumerate(literal_matches(text, o)):
        tokens = text[place : place + depth]
        if NO_TOKEN in tokens:
            tokens = tokens[: tokens.index(NO_TOKEN)]
        followed.append((tuple(tokens), 4.0**n * (1 + 1 / (1 + order))))

    def weight(path: Path) -> float:
        return sum(w for tokens, w in followed if tokens[: len(path)] == path)

    def children(path: Path) -> list[Path]:
        ends = dict.fromkeys(t[: len(path) + 1] for t, _ in followed if t[: len(path)] == path)
        return [child for child in ends if len(child) == len(path) + 1]

    chosen: list[tuple[float, Path]] = []

    def visit(path: Path, above: float) -> None:
        below = children(path)
        total = sum(map(weight, below)) + 16
        for child in sorted(below, key=lambda c: -weight(c))[: o.branches]:
            prob = above * weight(child) / total
            if prob >= o.least:
                chosen.append((prob, child))
                visit(child, prob)

    visit((), 1.0)
    return [path for _, path in sorted(chosen, key=lambda one: -one[0])[: o.nodes]]


texts = st.lists(st.sampled_from([1, 2, 3, 3, NO_TOKEN]), min_size=1, max_size=14)


@given(texts, st.integers(1, 3), st.integers(0, 2), st.integers(1, 4), st.integers(1, 12))
def test_lookups_equal_a_reference_search(
    text: list[int], shortest: int, more: int, branches: int, depth: int
) -> None:
    o = Ngram(shortest + more, shortest, branches, nodes=1000, least=0.001)
    index = NgramIndex(o)
    for token in text:  # one by one, as a text grows
        index.extend([token])
    assert index.matches() == literal_matches(text, o)
    found = index.find(depth, o.nodes)
    assert sorted(paths(found.tree)) == sorted(literal_tree(text, o, depth))
    assert found.length == max((n for n, _ in index.matches()), default=0)
    few = index.find(depth, 3).tree
    assert paths(few) == paths(found.tree)[: len(few)], "a smaller tree has the best of it"
    assert len(few) == min(3, len(found.tree))
    assert all(0 < p < 1 for p in found.tree.probs)


@pytest.mark.parametrize(
    ("text", "best"),
    [
        ([7, 1, 2, 3, 8, 5, 2, 3, 9, 1, 2, 3], 8),  # the longer match, though older
        ([1, 2, 8, 1, 2, 9, 1, 2], 9),  # of equals the later one
        ([1, 2, 8, 1, 2, 8, 1, 2, 9, 1, 2], 8),  # twice counts for more than late
    ],
)
def test_what_ranks_first(text: list[int], best: int) -> None:
    index = NgramIndex(Ngram(shortest=2))
    index.extend(text)
    assert index.find(4, 9).tree.tokens[0] == best


def test_time_per_step_is_bounded() -> None:
    """A text of one word has a match at every place: only the latest are looked at."""
    index = NgramIndex(Ngram(longest=5, shortest=2))
    index.extend([1] * 5000)
    assert len(index.matches()) <= 4 * 16
    assert paths(index.find(6, 99).tree) == [(1,) * n for n in range(1, 7)]


OPTIONS = {
    "ngram": Ngram(),
    "ngram:longest=4,nodes=16": Ngram(longest=4, nodes=16),
    "ngram:least=0.2": Ngram(least=0.2),
}


@pytest.mark.parametrize(("text", "options"), OPTIONS.items())
def test_options_as_text(text: str, options: Ngram) -> None:
    assert as_ngram(text) == options and str(options) == text


BAD = {
    "unknown": ("ngram:width=3", "its options are longest"),
    "kind": ("ngram:nodes=many", "nodes needs int"),
    "upside down": ("ngram:longest=1,shortest=2", "shortest <= longest"),
    "too long": ("ngram:longest=99", "<= 32"),
    "none": ("ngram:nodes=0", "nodes must be at least 1"),
    "no chance": ("ngram:least=0", "least must be above 0"),
    "no price": ("ngram:price=nan", "price must be"),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD)
def test_bad_options_are_refused(text: str, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        as_ngram(text)


# Decoding without a draft model


def assert_exact(target: Any, inputs: dict[str, Any], decoder: SpeculativeDecoder, **o: Any) -> Any:
    expected = reference(target, inputs, **o)
    output = decoder.generate(**inputs, **o)
    assert first_mismatch(target, inputs, expected, output.sequences, **o) is None
    check_steps(output.steps, output.sequences[0, inputs["input_ids"].shape[1] :].tolist())
    return output


SETTINGS = {
    "plain": {},
    "penalty": {"repetition_penalty": 1.2},
    "no triple twice": {"no_repeat_ngram_size": 3},
}
EAGER = "ngram:least=0.001"
"""Uses every match: the tiny models' texts seldom repeat two tokens."""


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_lookups_are_exact_on_every_family(family: str, settings: dict[str, Any]) -> None:
    target, _ = build_pair(family)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1], length=40)
    output = assert_exact(
        target, inputs, SpeculativeDecoder(target, EAGER), max_new_tokens=48, **settings
    )
    assert output.stats.draft_passes == 0
    assert output.stats.nodes_verified > 0


def test_lookups_pay_where_the_text_repeats() -> None:
    """A text that goes in circles: after one of them sixteen tokens a step are accepted."""
    target, _ = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=20)

    def circle(batch: int, ids: torch.Tensor) -> list[int]:
        return [8 + len(ids) % 30]

    output = assert_exact(
        target,
        inputs,
        SpeculativeDecoder(target, "ngram:least=0.001"),
        max_new_tokens=120,
        prefix_allowed_tokens_fn=circle,
    )
    accepted = [len(step.accepted) for step in output.steps[1:]]
    assert accepted[:30] == [0] * 30, "there is nothing to be found in the first circle"
    assert accepted[-5:-1] == [16] * 4


@pytest.mark.parametrize(
    ("policy", "limit"), [("chain:length=3", 3), ("eagle2:nodes=5", 5), ("static", 25)]
)
def test_a_policy_s_node_limit_holds(policy: str, limit: int) -> None:
    target, _ = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=60)
    output = assert_exact(
        target, inputs, SpeculativeDecoder(target, EAGER, policy), max_new_tokens=60
    )
    sizes = [len(step.tree) for step in output.steps]
    assert 0 < max(sizes) <= limit


def test_autoregressive_decoding_refuses_lookups() -> None:
    target, draft = build_pair("llama")
    for drafts in ({"draft": "ngram"}, {"draft": draft, "lookup": "ngram"}):
        with pytest.raises(OptionError, match="verifies no drafts"):
            SpeculativeDecoder(target, policy="autoregressive", **drafts)


def test_images_are_not_matched() -> None:
    """Nothing of a picture's placeholders is ever drafted, though they stand in the prompt."""
    target, _ = build_pair("llava_onevision")
    inputs = make_inputs(target, "llava_onevision", "mixed", length=30)
    output = assert_exact(target, inputs, SpeculativeDecoder(target, EAGER), max_new_tokens=40)
    drafted = {token for step in output.steps for token in step.tree.tokens}
    assert drafted
    assert not drafted & {target.config.image_token_id, target.config.video_token_id}


# Beside a draft model


@given(trees(max_nodes=12), trees(max_nodes=12))
def test_a_graft_contains_both_trees_and_keeps_the_first_s_indices(
    a: TokenTree, b: TokenTree
) -> None:
    both = graft(a, b)
    assert paths(both)[: len(a)] == paths(a)
    assert set(paths(both)) == set(paths(a)) | set(paths(b))
    assert both.probs[: len(a)] == a.probs
    for parent in (ROOT, *range(len(both))):
        ranks = [both.ranks[node] for node in both.children(parent)]
        if parent == ROOT or parent >= len(a):
            continue
        old = [node for node in both.children(parent) if node < len(a)]
        assert all(rank >= len(old) for rank in ranks[len(old) :])


@pytest.mark.parametrize("policy", ["static", "sage"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_hybrid_is_exact(family: str, policy: str) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, FAMILIES[family].kinds[-1], length=40)
    decoder = SpeculativeDecoder(target, draft, policy, lookup=f"{EAGER},price=0")
    output = assert_exact(target, inputs, decoder, max_new_tokens=40)
    notes = [step.shape.note for step in output.steps]
    assert any("looked up" in note for note in notes)
    assert output.stats.draft_passes > 0


@pytest.mark.parametrize("make", [perfect_draft, wrong_draft])
def test_a_hybrid_with_a_right_and_a_wrong_draft(make: Any) -> None:
    """Accepted paths that end in one part, the other, or go from the draft's to a looked up one."""
    target, _ = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=40)
    decoder = SpeculativeDecoder(target, make(target), "chain:length=2", lookup=f"{EAGER},price=0")
    assert_exact(target, inputs, decoder, max_new_tokens=60, repetition_penalty=1.1)
    output = assert_exact(target, inputs, decoder, max_new_tokens=120)
    lengths = {len(step.accepted) for step in output.steps[1:]}
    assert max(lengths) > 2, "the draft's own chain ends after two"


def test_branches_are_left_out_while_they_do_not_pay() -> None:
    gains = LookupGains(price=0.1)
    gains.update(3, 8, 0, by_draft=2)
    assert gains.pays(3), "no gains are known yet"
    for _ in range(5):
        gains.update(3, 8, 2, by_draft=2)
    assert not gains.pays(3), "no token more than the draft"
    assert gains.pays(4), "gains are kept by length of match"
    for _ in range(10):
        gains.update(3, 8, 3, by_draft=2)
    assert gains.pays(3)
    expensive = LookupGains(price=0.5)
    for _ in range(10):
        expensive.update(3, 8, 3, by_draft=2)
    assert not expensive.pays(3), "one token for eight nodes is less than half a token per node"


def test_no_draft_passes_where_lookups_suffice() -> None:
    gains = LookupGains(price=0.1)
    assert not gains.suffices(5)
    for _ in range(20):
        gains.update(5, 0, 4, by_draft=3)
    assert gains.suffices(5) and not gains.suffices(2)
    for _ in range(3):
        gains.update(5, 0, 0, by_draft=None)
    assert not gains.suffices(5), "after lookups that failed"


def test_a_draft_continues_after_skipped_steps() -> None:
    """In a text of circles the draft rests; when the text leaves them it drafts as before."""
    target, _ = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=20)
    prompt = inputs["input_ids"].shape[1]

    def circles(batch: int, ids: torch.Tensor) -> list[int]:
        new = len(ids) - prompt
        return [8 + new % 12] if new < 150 else list(range(8, 150))

    decoder = SpeculativeDecoder(target, wrong_draft(target), "chain", lookup="ngram")
    output = assert_exact(
        target, inputs, decoder, max_new_tokens=190, prefix_allowed_tokens_fn=circles
    )
    passes = [step.draft_passes for step in output.steps[1:]]
    assert 0 in passes, "the draft rests"
    assert passes[-2] > 0 and passes[0] > 0
    assert any("stood before" in step.shape.note for step in output.steps)


def test_a_policy_observes_its_own_nodes_only() -> None:
    """The history of accepted lengths is the draft's: looked up tokens do not deepen its trees."""
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=40)
    seen: list[tuple[int, int]] = []

    class Recorder(type(parse("chain:length=2").planner())):  # type: ignore[misc]
        def observe(self, tree: TokenTree, nodes: Any, tokens: Any) -> None:
            assert tuple(tree.tokens[node] for node in nodes) == tokens[: len(nodes)]
            assert len(tokens) <= len(nodes) + 1
            seen.append((len(tree), len(nodes)))

    class Recording(type(parse("chain"))):  # type: ignore[misc]
        def planner(self) -> Any:
            return Recorder(((0,), (0, 0)))

    decoder = SpeculativeDecoder(target, draft, Recording(2), lookup=f"{EAGER},price=0")
    output = assert_exact(target, inputs, decoder, max_new_tokens=120)
    assert max(len(step.tree) for step in output.steps) > 2
    assert all(nodes <= 2 and accepted <= 2 for nodes, accepted in seen)
    drafted = [step for step in output.steps if step.draft_passes]
    assert len(seen) == len(drafted) < output.stats.steps, "not without a draft pass"


def test_a_conversation_with_lookups() -> None:
    """The draft's cache is kept from text to text; what is looked up has both texts."""
    target, draft = build_pair("llava_onevision")
    inputs = make_inputs(target, "llava_onevision", "image", length=12)
    decoder = SpeculativeDecoder(target, draft, "chain", lookup=f"{EAGER},price=0")
    reuse = PrefixReuse()
    for more in range(3):
        stream = decoder.stream(reuse=reuse, **inputs, max_new_tokens=20)
        for _ in stream:
            pass
        got = stream.output().sequences
        expected = reference(target, inputs, max_new_tokens=20)
        assert torch.equal(got, expected)
        assert bool(reuse.reused) == (more > 0)
        asked = torch.tensor([[9 + more, 11, 12]])
        longer = torch.cat([got, asked], dim=1)
        inputs = inputs | {"input_ids": longer, "attention_mask": torch.ones_like(longer)}


# In the pipeline


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return save_pair(tmp_path_factory.mktemp("lookup"))


def test_a_pipeline_without_a_draft_model(pair: Any) -> None:
    pipeline = sage_core.load(pair, "ngram:longest=3", device="cpu")
    assert pipeline.draft_id == "ngram:longest=3"
    result = pipeline.ask((), "aaaa bbbb aaaa bbbb", max_new_tokens=24)
    alone = sage_core.load(pair, None, device="cpu").ask(
        (), "aaaa bbbb aaaa bbbb", max_new_tokens=24
    )
    assert result.tokens == alone.tokens and result.policy == "sage"
    assert alone.policy == "autoregressive"
    with pytest.raises(OptionError, match="verifies no drafts"):
        pipeline.ask((), "a", policy="autoregressive")


def test_a_pipeline_with_both(pair: Any) -> None:
    pipeline = sage_core.load(pair, device="cpu")
    plain, both = (
        pipeline.ask((), "one two one two", max_new_tokens=24, draft_lookup=on)
        for on in (False, True)
    )
    assert plain.tokens == both.tokens
