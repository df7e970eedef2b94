"""Every causal and image-text class of transformers: exact, refused with a reason, or wrong.

    python -m benchmarks.census --output benchmarks/results/census

Each class is made with its default configuration, cut to a few layers (`models.small_config`), and
random weights in float32. What the trial before loading says is compared with what happens: a class
that it admits writes texts that cross every window and border, by several policies, and the tokens
must be those of `generate`. Classes that a processor is at hand for also answer about a picture,
two pictures and a clip, loaded from a folder as any checkpoint. With ``--only`` the other rows of
FILE are kept.
"""

from __future__ import annotations

import copy
import json
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.utils import logging

import sage_core
from benchmarks import environment, harness
from sage_core.engine.model_check import verdict_of
from sage_core.engine.trial import BEYOND, PROMPT, plain_tokens, small_model, try_class
from sage_core.errors import SageError
from sage_core.models.small_config import context_length, text_config
from tests.core import other_families, saved_families

WAYS = ("static", "chain", "sage", "autoregressive")
RULES: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "no_repeat_ngram_size": 2,
                         "pad_token_id": 0}  # fmt: skip
NOISE = 0.02
"""Of the draft's weights, beside the target's: it is often right and sometimes wrong."""
SECONDS = 150
"""A class that takes longer is not tried."""
KINDS = {"vlm": MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, "text": MODEL_FOR_CAUSAL_LM_MAPPING}
_GLM = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
        "mrope_section": [8, 12, 12]}  # fmt: skip
FIELDS: dict[str, dict[str, Any]] = {
    "glm4v": {"rope_parameters": _GLM},
    "glm46v": {"rope_parameters": _GLM},
    "glmga": {"rope_parameters": _GLM},
}
"""Of the text configuration, where a default configuration is one that its own class cannot run."""
OUTCOMES = {
    "exact": "every text is the one of `generate`",
    "refused": "by name before a text, with the reason",
    "untried": "no small copy can be made here, so nothing was compared",
    "wrong": "admitted, and a text differs",
}


@dataclass(frozen=True)
class Row:
    """What became of a class."""

    model_type: str
    kind: str
    """"vlm" or "text"."""
    outcome: str = "exact"
    """One of `OUTCOMES`."""
    detail: str = ""
    """Why it is refused or not tried, or how it differs."""
    texts: int = 0
    """Compared."""
    accepted: int = 0
    """Draft tokens in them: with none a tree would not have been tried."""
    media: str = "text"
    """What was asked about."""


def find_class(name: str) -> tuple[str, Any, Any] | None:
    """Kind, class and default configuration of a model type; None if it has none of them."""
    try:
        config = CONFIG_MAPPING[name]()
    except Exception:  # a default that is no model: of a composite, or a missing package
        return None
    for field, value in FIELDS.get(name, {}).items():
        setattr(text_config(config), field, copy.deepcopy(value))
    for kind, mapping in KINDS.items():
        if type(config) in mapping:
            return kind, mapping[type(config)], config
    return None


def census(name: str, kind: str, model_class: Any, config: Any) -> Row:
    """One class."""
    row = Row(name, kind)

    def build(small: Any) -> Any:
        return model_class._from_config(small, dtype=torch.float32, attn_implementation="sdpa")

    try:
        with limited(SECONDS):
            verdict = try_class((model_class, "sdpa"), config, build)
            if verdict.reason:
                return replace(row, outcome="refused", detail=verdict.reason)
            try:
                small, model = small_model(config, build)
            except TimeoutError:
                raise
            except Exception as error:
                return replace(row, outcome="untried", detail=_line(error))
            row = compared(row, model, small.longest)
            if row.outcome == "refused" and verdict.limit is not None:
                says = f"texts of more than {verdict.limit} tokens ({verdict.limited_by})"
                row = replace(row, detail=f"{says}; shorter ones were not tried")
            return row
    except TimeoutError:
        return replace(row, outcome="untried", detail=f"takes more than {SECONDS} s")


def compared(row: Row, model: Any, longest: int) -> Row:
    """Texts that cross all borders, and a prompt that lies beyond them, by each policy."""
    draft = near(model)
    limit, context = verdict_of(model).limit, context_length(model.config)
    far = longest + BEYOND if context is None else min(longest + BEYOND, context - 2)
    for prompt in (PROMPT, far):
        new = longest + 2 * BEYOND
        if limit is not None:
            new = min(new, limit - prompt)
        if new < 2:
            continue
        ids = torch.tensor([plain_tokens(model, prompt)])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        own = model.generate(**inputs, **RULES, max_new_tokens=new)
        for way in WAYS:
            one = None if way == "autoregressive" else draft
            try:
                decoder = sage_core.SpeculativeDecoder(model, one, way)
                output = decoder.generate(**inputs, **RULES, max_new_tokens=new)
            except SageError as error:
                return replace(row, outcome="refused", detail=_line(error))
            except TimeoutError:
                raise
            except Exception as error:
                return replace(row, outcome="wrong", detail=f"{way}: {_line(error)}")
            if not torch.equal(output.sequences, own):
                return replace(row, outcome="wrong", detail=f"{way}, prompt of {prompt} tokens")
            used = output.stats.new_tokens - output.stats.steps - 1
            row = replace(row, texts=row.texts + 1, accepted=row.accepted + max(0, used))
    return row


def near(model: Any) -> Any:
    """A draft: the model with noise."""
    draft, draw = copy.deepcopy(model), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in draft.parameters():
            if weight.dim() > 1:
                noise = torch.empty_like(weight).normal_(generator=draw)
                weight.add_(noise * NOISE * weight.std())
    return draft


MEDIA: dict[str, tuple[Any, ...]] = {
    "text": (),
    "picture": (saved_families.picture(),),
    "pictures": (saved_families.picture(), saved_families.picture(16, 32, 1)),
    "clip": (saved_families.clip(2),),
}


def with_media(row: Row) -> Row:
    """Ask an exact class about pictures and a clip, if a processor is at hand."""
    name = row.model_type
    if name not in other_families.FOLLOWED and name not in saved_families.VISION:
        return row
    with TemporaryDirectory() as folder:
        target, draft = Path(folder) / "target", Path(folder) / "draft"
        if name in saved_families.VISION:
            saved_families.save(target, name, 2, 0)
            saved_families.save(draft, name, 1, 1)
        else:
            other_families.save(target, other_families.FOLLOWED[name](), 2, 0)
            other_families.save(draft, other_families.FOLLOWED[name](), 1, 1)
        pipeline = sage_core.load(target, draft)
    family, model = pipeline._pair.family, pipeline._pair.target
    rules = {"no_repeat_ngram_size": 2}
    asked = []
    for label, media in MEDIA.items():
        try:
            inputs = family.prepare(list(media), "What is this?")
        except SageError:  # llava takes no clip
            continue
        own = model.generate(**inputs, do_sample=False, max_new_tokens=24, **rules)
        expected = own[0, inputs["input_ids"].shape[1] :].tolist()
        for way in WAYS:
            result = pipeline.ask(
                list(media), "What is this?", policy=way, max_new_tokens=24, generation=rules
            )
            if list(result.tokens) != expected:
                return replace(row, outcome="wrong", detail=f"{way}, {label}")
            row = replace(row, texts=row.texts + 1)
        asked.append(label)
    return replace(row, media=", ".join(asked))


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` in what takes longer."""

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def report(data: dict[str, Any]) -> str:
    rows = [Row(**row) for row in data["classes"]]
    counts = [
        [outcome, says, *(sum(r.outcome == outcome and r.kind == k for r in rows) for k in KINDS)]
        for outcome, says in OUTCOMES.items()
    ]
    exact = [
        [r.model_type, r.kind, r.texts, r.accepted, r.media] for r in rows if r.outcome == "exact"
    ]
    rest = [
        [r.model_type, r.kind, r.outcome, r.detail.replace("|", "/")]
        for outcome in ("wrong", "refused", "untried")
        for r in rows
        if r.outcome == outcome
    ]
    notes = [
        f"small copies with random weights, float32; policies: {', '.join(WAYS)}; the draft is the "
        "model with noise; texts cross every window, chunk and rotary border of the configuration",
        "vlm: classes for images and text; where the last column says text alone, no processor was "
        "made for the class and its vision was not tried",
    ]
    lines = [
        *harness.table(["outcome", "", *KINDS], counts),
        *["", "## Exact", ""],
        *harness.table(["model type", "kind", "texts", "accepted draft tokens", "asked"], exact),
        *["", "## The others", ""],
        *harness.table(["model type", "kind", "outcome", "why"], rest),
    ]
    return harness.report("Census of model classes", data, notes, lines)


def _earlier(output: str | None) -> dict[str, Row]:
    """The rows of an earlier report, which a run of some classes replaces."""
    file = Path(output or "").with_suffix(".json") if output else None
    if file is None or not file.is_file():
        return {}
    rows = json.loads(file.read_text(encoding="utf-8"))["classes"]
    return {row["model_type"]: Row(**row) for row in rows}


def main(argv: list[str] | None = None) -> int:
    """Run, report; returns 1 if a class is wrong."""
    parser = harness.options(__doc__, pair=False, only=())
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    data = harness.described("benchmarks.census", arguments)
    data["classes"] = []
    rows = _earlier(arguments.output) if arguments.only else {}
    for name in arguments.only or sorted(CONFIG_MAPPING.keys()):
        if (found := find_class(name)) is None:
            continue
        row = census(name, *found)
        row = with_media(row) if row.outcome == "exact" else row
        print(row.model_type, row.outcome, row.detail, file=sys.stderr, flush=True)
        rows[name] = row
        data["classes"] = [asdict(rows[name]) for name in sorted(rows)]
        if arguments.output:
            environment.save(arguments.output, data, report(data))
    environment.write(arguments.output, data, report(data))
    return int(any(row.outcome == "wrong" for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
