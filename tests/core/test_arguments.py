"""What `generate` takes, sage takes: criteria of any type, any limit, any seed, NumPy's numbers."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import sage_core
from sage_core.engine.batching.scheduler import check_width
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError, UnsupportedError
from sage_core.generation.prepare import prepare
from sage_core.generation.sequence import LIKELY_TOKENS, TokenSequence
from sage_core.media.types import Sampling
from sage_core.options import Options
from sage_core.runtime.kv_cache import TreeCache
from tests.tiny.pairs import build_pair

ENDLESS = {"eos_token_id": None, "pad_token_id": 0}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    built = build_pair("qwen2")
    return built.target, built.draft


def ids() -> dict[str, torch.Tensor]:
    whole = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
    return {"input_ids": whole, "attention_mask": torch.ones_like(whole)}


@pytest.mark.parametrize(
    "returned",
    [bool, int, torch.tensor, lambda done: torch.tensor([done])],
    ids=["bool", "int", "0-d tensor", "row"],
)
def test_a_stopping_criterion_may_return_any_type(pair: tuple[Any, Any], returned: Any) -> None:
    def criterion(input_ids: torch.Tensor, scores: Any, **_: Any) -> Any:
        return returned(input_ids.shape[1] >= 15)

    given = {**ids(), **ENDLESS, "max_new_tokens": 20, "stopping_criteria": [criterion]}
    wanted = pair[0].generate(**given, do_sample=False)
    output = SpeculativeDecoder(*pair, "static").generate(**given)
    assert output.sequences.tolist() == wanted.tolist()
    assert wanted.shape[1] == 15 and output.finish_reason == "stop"


@pytest.mark.parametrize("limit", [10**5, 10**9, 10**12])
def test_a_limit_reserves_no_memory(
    pair: tuple[Any, Any], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    capacities: list[int] = []
    make = TreeCache.__init__

    def noting(self: TreeCache, layers: int, capacity: int, *, shared: bool = True) -> None:
        capacities.append(capacity)
        make(self, layers, capacity, shared=shared)

    monkeypatch.setattr(TreeCache, "__init__", noting)

    def criterion(input_ids: torch.Tensor, scores: Any) -> bool:
        return input_ids.shape[1] >= 20

    output = SpeculativeDecoder(*pair, "static").generate(
        **ids(), **ENDLESS, max_new_tokens=limit, stopping_criteria=[criterion]
    )
    assert output.sequences.shape[1] == 20
    assert capacities and max(capacities) < 2 * LIKELY_TOKENS


def test_a_text_longer_than_what_was_reserved_is_kept_whole(pair: tuple[Any, Any]) -> None:
    limit = 3 * LIKELY_TOKENS
    prepared = prepare(pair[0], ids(), {**ENDLESS, "max_new_tokens": limit})
    sequence = TokenSequence(prepared)
    tokens = [7 + i % 50 for i in range(limit)]
    assert [sequence.append(token) for token in tokens] == [False] * (limit - 1) + [True]
    assert sequence.ids[0].tolist() == [*ids()["input_ids"][0].tolist(), *tokens]
    assert not sequence.ids.is_inference() and sequence.reason == "length"


@pytest.mark.parametrize(
    "seed", [-1, -(2**63), 2**63, 2**64 - 1, np.int64(3), np.uint64(2**64 - 1)]
)
@pytest.mark.parametrize("candidates", ["topk", "drawn"])
def test_seeds_are_those_of_torch(pair: tuple[Any, Any], seed: Any, candidates: str) -> None:
    decoder = SpeculativeDecoder(*pair, "static", candidates=candidates)
    given = {**ids(), **ENDLESS, "max_new_tokens": 6, "do_sample": True, "temperature": 5.0}
    texts = [decoder.generate(**given, seed=seed).sequences.tolist() for _ in range(2)]
    assert texts[0] == texts[1]
    if candidates == "topk":
        torch.manual_seed(int(seed))
        assert texts[0] == pair[0].generate(**given).tolist()
    assert Options(seed=seed, draft_pruning_method="random").seed == int(seed)
    pruning = Options(seed=seed, draft_pruning_method="random").pruning()
    assert len(pruning.choose(30, 10)) == 10


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, True, 1.5, "1"])
def test_other_seeds_are_refused(pair: tuple[Any, Any], seed: Any) -> None:
    with pytest.raises(OptionError, match=r"seed .* from -2\*\*63 to 2\*\*64 - 1"):
        Options(seed=seed)
    with pytest.raises(OptionError, match=r"2\*\*64 - 1"):
        SpeculativeDecoder(*pair, "static").stream(**ids(), seed=seed)


def test_numbers_of_numpy_are_numbers() -> None:
    given = Options(
        max_new_tokens=np.int64(5),
        temperature=np.float32(0.5),
        top_k=np.int16(4),
        frames=np.int32(3),
        max_pixels=np.uint8(200),
        viskip=np.float64(0.5),
        draft_vocab=np.int64(50),
    )
    assert type(given.max_new_tokens) is int
    fields = given.sampling_params().generation_fields()
    assert fields == {"do_sample": True, "temperature": 0.5, "top_k": 4}
    assert type(given.sampling().frames) is int
    assert Sampling(fps=np.float32(2)).fps == 2
    check_width(np.int64(4))


@pytest.mark.parametrize("value", [True, np.bool_(True), 1.5, np.float64(2), "4", None])
def test_what_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="max_new_tokens must be an integer"):
        Options(max_new_tokens=value)
    with pytest.raises(OptionError, match="batch must be an integer"):
        check_width(value)


def test_embeddings_in_place_of_ids_are_refused(pair: tuple[Any, Any]) -> None:
    embeds = pair[0].get_input_embeddings()(ids()["input_ids"])
    with pytest.raises(UnsupportedError, match="inputs_embeds is not supported: pass input_ids"):
        SpeculativeDecoder(*pair).generate(inputs_embeds=embeds, max_new_tokens=3)
    with pytest.raises(UnsupportedError, match="inputs_embeds is not supported: pass input_ids"):
        pair[0].generate(
            inputs_embeds=embeds,
            max_new_tokens=3,
            custom_generate=sage_core.custom_generate,
            draft_model=pair[1],
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("policy", ["sage", "static"])
@pytest.mark.parametrize("fixed", [True, False])
def test_settings_know_whether_an_equal_run_gives_an_equal_text(
    dtype: torch.dtype, policy: str, fixed: bool
) -> None:
    from sage_core.trees.pass_costs import TYPICAL

    built = copy.deepcopy(build_pair("qwen2"))
    decoder = SpeculativeDecoder(
        built.target.to(dtype), built.draft.to(dtype), policy, costs=TYPICAL if fixed else None
    )
    wanted = dtype == torch.float32 or policy == "static" or fixed
    assert decoder.settings.reproducible == wanted
    assert replace(decoder.settings, draft=None).reproducible


def test_trees_by_fixed_costs_are_the_same_in_every_run(pair: tuple[Any, Any]) -> None:
    from sage_core.trees.pass_costs import TYPICAL

    decoder = SpeculativeDecoder(*pair, "sage", costs=TYPICAL)
    runs = [
        [(step.tree.tokens, step.tree.parents, step.tokens) for step in output.steps]
        for output in (
            decoder.generate(**ids(), **ENDLESS, max_new_tokens=30),
            decoder.generate(**ids(), **ENDLESS, max_new_tokens=30),
            decoder.generate_batch([ids(), ids()], **ENDLESS, max_new_tokens=30)[1],
        )
    ]
    assert runs[0] == runs[1] == runs[2]
    assert any(tree for tree, _, _ in runs[0])


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"input_ids": None},
        {"inputs": torch.ones(1, 4, dtype=torch.int64)},
        {"input_ids": torch.ones(1, 0, dtype=torch.int64)},
        {"input_ids": torch.ones(4, dtype=torch.int64)},
        {"input_ids": [[1, 2, 3]]},
    ],
)
def test_a_prompt_that_is_no_row_of_ids_is_refused(inputs: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"input_ids must be a tensor of shape \(1, tokens\)"):
        SpeculativeDecoder(*build_pair("llama")).generate(**inputs, max_new_tokens=3)
