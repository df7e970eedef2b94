"""The examples of `docs/architecture.md`: a policy, a draft and an option, one file each."""

from __future__ import annotations

from typing import Any

import pytest

from examples.extending.toy_draft import Repeat
from examples.extending.toy_option import Pause
from examples.extending.toy_policy import ConfidentChain
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError
from tests.tiny import build_pair, make_inputs

NEW = 40
WAYS: dict[str, dict[str, Any]] = {
    "policy": {"policy": ConfidentChain(length=4, least=0.001)},
    "draft": {"draft": None, "policy": "chain", "extensions": [Repeat(6)]},
    "option": {"policy": "static", "extensions": [Pause(2)]},
    "all": {"policy": ConfidentChain(), "extensions": [Repeat(3), Pause(1)]},
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("family", ["llama", "qwen2_5_vl"])
def test_the_text_is_the_targets_own(family: str, name: str) -> None:
    target, draft = build_pair(family)
    inputs = make_inputs(target, family, "text", length=12)
    wanted = target.generate(**inputs, do_sample=False, max_new_tokens=NEW)
    decoder = SpeculativeDecoder(target, **({"draft": draft} | WAYS[name]))
    output = decoder.generate(**inputs, max_new_tokens=NEW)
    assert output.sequences.tolist() == wanted.tolist()
    assert any(len(step.tree) for step in output.steps), "something was drafted"


def test_what_they_do() -> None:
    target, draft = build_pair("llama")
    inputs = make_inputs(target, "llama", "text", length=12)
    chain = SpeculativeDecoder(target, draft, ConfidentChain(length=3, least=0.0001))
    trees = [step.tree for step in chain.generate(**inputs, max_new_tokens=NEW).steps]
    assert max(tree.depth for tree in trees) == 3 and all(len(t) == t.depth for t in trees)
    repeat = SpeculativeDecoder(target, extensions=[Repeat(6)])
    first = repeat.generate(**inputs, max_new_tokens=NEW).steps[1]
    prompt = inputs["input_ids"][0].tolist()
    assert list(first.tree.tokens) == [*prompt, first.root][-6:]
    pausing = SpeculativeDecoder(target, draft, "static", extensions=[Pause(2)])
    steps = pausing.generate(**inputs, max_new_tokens=NEW).steps[1:]
    rejected = [i for i, s in enumerate(steps) if len(s.tree) and not s.accepted]
    assert rejected and all(not len(s.tree) for i in rejected for s in steps[i + 1 : i + 3])


def test_options_check_themselves() -> None:
    with pytest.raises(OptionError, match="pause"):
        Pause(0)
    with pytest.raises(OptionError, match="length"):
        ConfidentChain(length=0)
