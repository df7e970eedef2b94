"""Long texts on tiny models of every family: exact, and nothing drifts.

    python -m benchmarks.long_run --output benchmarks/results/long-run

Each family writes 1,024 tokens about an image and a video (or what it takes) with the default
policy. The text is compared with `generate`'s. At the end the caches must hold as many tokens as
the text has, in the buffer that was reserved at the start, and the logits of one more pass over
them are compared with those of transformers' own forward over the whole text at once: positions
or slots that had drifted would show there.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from benchmarks import environment, harness
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.generation.prepare import prepare
from sage_core.runtime.runner import Runner
from tests.tiny import FAMILIES, build_pair, make_inputs
from tests.tiny.oracle import first_mismatch, reference


def run(family: str, new: int, policy: str) -> dict[str, Any]:
    """One family's text of ``new`` tokens, as plain data."""
    target, draft = build_pair(family)
    kind = FAMILIES[family].kinds[-1]
    inputs = make_inputs(target, family, kind, length=20)
    reuse = PrefixReuse()
    decoder = SpeculativeDecoder(target, draft, policy)
    stream = decoder.stream(reuse=reuse, **inputs, max_new_tokens=new)
    buffer = None
    for step in stream:
        if step.is_prefill:
            buffer = _buffer(reuse.runner(decoder.settings))
    ids, stats = stream.output().sequences, stream.stats()
    runner = reuse.runner(decoder.settings)
    expected = reference(target, inputs, max_new_tokens=new)
    mismatch = first_mismatch(target, inputs, expected, ids, max_new_tokens=new)
    assert reuse.drafter is not None
    if runner.committed == ids.shape[1]:  # the text ended on an accepted path
        runner.truncate(1)
    return {
        "family": family,
        "media": kind,
        "prompt_tokens": stats.prompt_tokens,
        "new_tokens": stats.new_tokens,
        "distinct_tokens": len(set(ids[0].tolist())),
        "mean_accepted": stats.mean_accepted,
        "difference": None if mismatch is None else str(mismatch),
        "cache_is_the_text": runner.committed + 1 == ids.shape[1] == reuse.drafter.length,
        "buffer_stayed": _buffer(runner) == buffer,
        "logit_drift": drift(target, runner, inputs, ids),
    }


def _buffer(runner: Runner) -> tuple[int, ...]:
    """Where the cache's first layer lies, and its capacity."""
    keys = runner.cache.layers[0].keys
    return keys.untyped_storage().data_ptr(), keys.untyped_storage().nbytes()


def drift(target: Any, runner: Runner, inputs: dict[str, Any], ids: torch.Tensor) -> float:
    """Greatest difference of the next token's logits from those of one forward over it all."""
    mine, _ = runner.forward([int(ids[0, -1])], [0], np.ones((1, 1), dtype=bool))
    whole = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "mm_token_type_ids" in inputs:
        types = torch.zeros_like(ids, dtype=torch.int32)
        types[:, : inputs["input_ids"].shape[1]] = inputs["mm_token_type_ids"]
        whole["mm_token_type_ids"] = types
    theirs = Runner(target).prefill(prepare(target, whole, {"max_new_tokens": 1}), 0).logits
    return float((mine - theirs).abs().max())


def right(row: dict[str, Any]) -> bool:
    """Whether text and caches are as they should be."""
    return row["difference"] is None and row["cache_is_the_text"] and row["buffer_stayed"]


def report(data: dict[str, Any]) -> str:
    head = ["family", "media", "prompt", "new tokens", "distinct", "τ", "exact", "cache", "drift"]
    rows = [
        [
            *(row[n] for n in ("family", "media", "prompt_tokens", "new_tokens")),
            *(row["distinct_tokens"], harness.number(row["mean_accepted"])),
            row["difference"] or "yes",
            "yes" if row["cache_is_the_text"] and row["buffer_stayed"] else "NO",
            f"{row['logit_drift']:.1e}",
        ]
        for row in data["runs"]
    ]
    notes = [
        "tiny random models, float32; exact: the ids of `generate`; cache: those of both models "
        "hold the text, in the buffer reserved at the start; drift: greatest difference of the "
        f"logits after the text from those of one forward over all of it; {harness.TAU_ALONE}"
    ]
    return harness.report("Long texts", data, notes, harness.table(head, rows))


def main(argv: list[str] | None = None) -> int:
    """Run, report; returns 1 if a text differs or a cache is not as it should be."""
    parser = harness.options(
        __doc__, pair=False, new_tokens=1024, policy="sage", families=tuple(FAMILIES)
    )
    arguments = parser.parse_args(argv)
    data = harness.described("benchmarks.long_run", arguments)
    data["runs"] = [run(one, arguments.new_tokens, arguments.policy) for one in arguments.families]
    environment.write(arguments.output, data, report(data))
    return int(not all(right(row) for row in data["runs"]))


if __name__ == "__main__":
    sys.exit(main())
