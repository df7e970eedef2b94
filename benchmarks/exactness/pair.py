"""Held-out images and videos on a trained pair."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from benchmarks import harness
from benchmarks.exactness.tally import Case
from benchmarks.exactness.ways import Models, Prompt, Way
from sage_core.drafts.head.checkpoint import placed
from sage_core.drafts.head.init import new_head
from sage_core.drafts.pruning.options import Pruning
from sage_core.runtime.backend import EagerBackend
from sage_core.runtime.cpu.executor import CpuBackend
from training.world.inputs import items

TITLE = "Held-out items on a trained pair"
AT_ONCE = 12
"""Items after which results are written."""
POLICIES = (
    *("autoregressive", "chain", "static", "optimal-static"),
    *("eagle2", "spec-llava", "sage-paper", "sage"),
)
LIMITS = (256, 1, 144, 2, 89, 3, 55, 7, 34, 13, 21)
"""Limits of the items in turn; their number shares no factor with that of the categories."""
PRUNING = (0.0, 0.5, 0.9)
"""Shares of the visual tokens that are pruned from the draft's prompt, in turn."""
OTHERS = (
    Way("sage", "ngram", "n-gram drafts"),
    Way("sage", what="lookup beside a model", lookup="ngram"),
    Way("sage", what="part of the vocabulary", part_of_vocabulary=True),
    Way("sage", what="viskip 0.35", viskip=0.35),
    Way("static", what="static passes", graphs=True),
    Way("static", "head", "head, untrained"),
    Way("static", "vispec", "vispec, untrained"),
)
"""Tried on items in turn."""
TOGETHER = (Way("sage", what="a batch", manner="batch"),)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalty 1.1": {"repetition_penalty": 1.1},
    "sampled": {"do_sample": True, "temperature": 0.7, "top_k": 0},
}


def pair_models(arguments: Namespace) -> tuple[Models, Any]:
    """The trained pair of a folder, or the bundled one, with its family."""
    pair = harness.load(arguments)

    def further(target: Any, name: str) -> Any:
        return placed(new_head(target, name=pair.target_id, kind=name), target)

    assert pair.draft is not None  # it was asked for
    vocabulary = range(pair.draft.get_output_embeddings().weight.shape[0] // 2)
    backend = EagerBackend() if arguments.plain else CpuBackend()
    return Models(pair.target, pair.draft, vocabulary, backend, further), pair.family


def pair_cases(models: Models, family: Any, seed: int, start: int, end: int) -> Iterator[Case]:
    """Items ``start`` to ``end``: each under every policy, in two more ways, and as one batch."""
    together: list[Prompt] = []
    for number, item in list(enumerate(items(end, seed)))[start:]:
        limit = LIMITS[number % len(LIMITS)]
        setting = {4: "penalty 1.1", 2: "sampled"}.get(number % 5, "plain")
        options = {"max_new_tokens": limit, **SETTINGS[setting]}
        inputs = harness.on(family.prepare(item.media, item.prompt), models.target)
        prompt = Prompt.of(models.target, inputs, options, number)
        ratio = PRUNING[number // 3 % len(PRUNING)]  # the kinds of items come in threes
        what = f"{setting}, pruning {ratio}" if ratio else setting
        ways = tuple(Way(policy, what=what, pruning=Pruning(ratio)) for policy in POLICIES)
        more = OTHERS[number % len(OTHERS)], OTHERS[(number + 3) % len(OTHERS)]
        name = f"{item.name} {item.prompt} new={limit}"
        yield Case(name, item.kind, setting, models, [prompt], ways + more)
        together.append(prompt)
    yield Case(f"items {start} to {end}", "several items", "", models, together, TOGETHER)
