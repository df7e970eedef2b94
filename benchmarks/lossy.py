"""What lossy acceptance rules bring and what they cost, on the bundled pair.

    python -m benchmarks.lossy --output benchmarks/results/lossy

EARS: sampled captions and answers at temperature 1 with drawn candidates, by growing tolerance.
Spec-VLA: greedy texts about bar charts, by growing radius over the digit tokens. The bundled pair
has no action tokens; digits are ordered as action bins are, and a wrong one is a wrong fact.
Reported: speed, accepted length, the share of texts that differ from the exact rule's, and the
share of facts and answers that are right, checked against the rendered scenes. A sampled text also
differs under another seed, which is a method of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks import environment, harness
from benchmarks.harness import LEAST, Decoded, Tally, percent
from sage_core.media import Sampling
from sage_core.pipeline import Pipeline
from training.bench_items import Rendered
from training.world.answers import right
from training.world.facts import score
from training.world.heldout import HeldOutItem

Text = tuple[int, HeldOutItem, Any]
"""Its number, the item and its media."""
EXACT = "exact"
EARS = "EARS, sampled at temperature 1"
SPEC_VLA = "Spec-VLA on digit tokens, greedy, bar charts"
CATEGORIES = {EARS: ("captions", "charts", "text", "motion"), SPEC_VLA: ("charts",)}
OPTIONS: dict[str, dict[str, Any]] = {
    EARS: {"temperature": 1.0, "top_k": 0, "candidates": "drawn"},
    SPEC_VLA: {"sample": False},
}


def rules(digits: tuple[int, int]) -> dict[str, dict[str, dict[str, Any]]]:
    """Options of each method by part; ``digits``: first and last id of the digit tokens."""
    where = f"first={digits[0]},last={digits[1]}"
    return {
        EARS: {
            EXACT: {},
            "exact, another seed": {"shift": 1},
            **{f"tolerance {t}": {"lossy": f"ears:tolerance={t}"} for t in (0.1, 0.3, 1.0)},
        },
        SPEC_VLA: {
            EXACT: {},
            **{f"radius {r}": {"lossy": f"spec-vla:radius={r},{where}"} for r in (1, 3, 9)},
        },
    }


def texts(categories: Sequence[str], count: int, seed: int) -> Iterator[Text]:
    """``count`` held-out items with their media, the categories in turn."""
    for number in range(count):
        source = Rendered(categories[number % len(categories)], number // len(categories), seed)
        yield number, source.item(), source.open(Sampling())


def decode(pipeline: Pipeline, options: dict[str, Any], text: Text) -> Decoded:
    """One text; ``shift`` is added to its seed."""
    number, item, media = text
    seed = 2 * number + options.get("shift", 0)
    asked = {name: value for name, value in options.items() if name != "shift"}
    result = pipeline.ask(
        media, item.prompt, policy="static", seed=seed, max_new_tokens=256, **asked
    )
    return Decoded.of(result)


def graded(text: str, item: HeldOutItem) -> dict[str, int]:
    """How many facts or answers a text has, and how many are right."""
    if item.facts is not None:
        good, total, _ = score(text, item.scene)  # type: ignore[arg-type]
        return {"facts": total, "facts_right": good}
    if item.answer is not None:
        return {"answers": 1, "answers_right": int(right(text, item.answer))}
    return {}


def measure(pipeline: Pipeline, part: str, methods: Any, count: int, seed: int) -> Any:
    """A tally a method of a part."""
    decoders = {
        name: partial(decode, pipeline, OPTIONS[part] | more) for name, more in methods.items()
    }
    tallies = {name: Tally() for name in methods}
    for (_, item, _), found in harness.interleaved(texts(CATEGORIES[part], count, seed), decoders):
        for name, (decoded,) in found.items():
            more = graded(decoded.result.text, item)
            tallies[name].add([decoded], found[EXACT][0].tokens, **more)
    return tallies


def _share(name: str, row: dict[str, Any]) -> str:
    total = row.get(name, 0)
    return f"{percent(row.get(f'{name}_right', 0) / total)} of {total}" if total else ""


def report(data: dict[str, Any]) -> str:
    columns = [
        *(harness.SPEED, harness.SPEEDUP, harness.ACCEPTED),
        ("differ", lambda row: percent(1 - row["exact"] / row["texts"], 0)),
        ("facts", partial(_share, "facts")),
        ("answers", partial(_share, "answers")),
    ]
    notes = [
        f"policy static; seed {data['seed']}; tokens/s: median over texts of at least {LEAST} "
        f"tokens; speed-up: median of the texts' own ratios to the exact rule; {harness.TAU}",
        "differ: texts that are not the exact rule's; facts, answers: share that is right",
    ]
    blocks = [
        [f"## {part}", "", *harness.methods_table(rows, columns, "rule")]
        for part, rows in data["results"].items()
    ]
    return harness.report("Lossy acceptance rules", data, notes, *blocks)


def main(argv: list[str] | None = None) -> int:
    """Measure and report."""
    parser = harness.options(__doc__, items=80, seed=4)
    parser.set_defaults(dtype="float32")
    arguments = parser.parse_args(argv)
    pair = harness.load(arguments)
    ids = pair.family.tokenizer.convert_tokens_to_ids(list("0123456789"))
    if ids != list(range(ids[0], ids[0] + 10)):
        raise SystemExit("the digits of this tokenizer are not in order")
    pipeline = Pipeline(pair)
    results = {
        part: harness.figures(measure(pipeline, part, methods, arguments.items, arguments.seed))
        for part, methods in rules((ids[0], ids[-1])).items()
    }
    data = {**harness.described("benchmarks.lossy", arguments, pair), "results": results}
    environment.write(arguments.output, data, report(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
