"""Evaluate a pair on unseen scenes: `python -m training.evaluate --pair DIR --scenes 500`."""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import DynamicCache, LlavaOnevisionForConditionalGeneration

from training.decode import END, Request, agreement, chain_lengths, greedy
from training.world.answers import Answered, right
from training.world.dialogue import IMAGE_PROMPT, VIDEO_PROMPT
from training.world.facts import kind_of, score
from training.world.questions import ask
from training.world.scenes import (
    Clip,
    Pair,
    Scene,
    random_chart,
    random_clip,
    random_pair,
    random_shapes,
    random_words,
)

_REALM = 80_021  # keeps these seeds separate from those of training
_MAKERS = (random_shapes, random_clip, random_chart, random_shapes, random_clip, random_words)


def load(folder: Path) -> LlavaOnevisionForConditionalGeneration:
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def in_batches(
    model: LlavaOnevisionForConditionalGeneration,
    requests: Sequence[Request],
    limit: int,
    size: int = 40,
) -> list[list[int]]:
    """Greedy tokens of all requests, in batches of similar length."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].ids))
    out: list[list[int]] = [[] for _ in requests]
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        for i, tokens in zip(
            chosen, greedy(model, [requests[i] for i in chosen], limit), strict=True
        ):
            out[i] = tokens
    return out


def cached(path: Path | None, compute: Callable[[], list[list[int]]]) -> list[list[int]]:
    """The tokens in a file; computed and written there if it does not exist."""
    if path and path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    tokens = compute()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tokens), encoding="utf-8")
    return tokens


def decode_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    return tokenizer.decode([t for t in tokens if t > END], skip_special_tokens=True)


def captions_report(
    tokenizer: Tokenizer,
    target: LlavaOnevisionForConditionalGeneration,
    draft: LlavaOnevisionForConditionalGeneration,
    scenes: Sequence[Scene],
    cache: Path | None = None,
) -> dict[str, object]:
    """Correct facts by kind of scene, accepted lengths, and some texts."""
    prompts = [VIDEO_PROMPT if isinstance(s, Clip) else IMAGE_PROMPT for s in scenes]
    requests = [Request.make(tokenizer, s, p) for s, p in zip(scenes, prompts, strict=True)]
    texts = cached(cache, lambda: in_batches(target, requests, 320))
    right_by: dict[str, int] = defaultdict(int)
    all_by: dict[str, int] = defaultdict(int)
    errors: list[str] = []
    samples: list[str] = []
    for scene, tokens in zip(scenes, texts, strict=True):
        assert not isinstance(scene, Pair)
        text, kind = decode_text(tokenizer, tokens), kind_of(scene)
        good, total, wrong = score(text, scene)
        right_by[kind] += good
        all_by[kind] += total
        errors += [f"{kind} {line}" for line in wrong]
        if len(samples) < 12:
            samples.append(text)
    lengths: list[int] = []
    by_kind: dict[str, list[int]] = defaultdict(list)
    for start in range(0, len(scenes), 40):
        part = slice(start, start + 40)
        for scene, match in zip(
            scenes[part], agreement(draft, requests[part], texts[part]), strict=True
        ):
            assert not isinstance(scene, Pair)
            steps = chain_lengths(match)
            lengths += steps
            by_kind[kind_of(scene)] += steps
    sizes = [len(t) for t in texts]
    return {
        "scenes": len(scenes),
        "slots": sum(all_by.values()),
        "slots_right": round(sum(right_by.values()) / sum(all_by.values()), 4),
        "slots_right_by_kind": {k: round(right_by[k] / all_by[k], 4) for k in sorted(all_by)},
        "caption_tokens": {
            "mean": round(float(np.mean(sizes)), 1),
            "p5": int(np.percentile(sizes, 5)),
            "p95": int(np.percentile(sizes, 95)),
        },
        "chain5_accepted": round(float(np.mean(lengths)), 3),
        "chain5_by_kind": {k: round(float(np.mean(v)), 3) for k, v in sorted(by_kind.items())},
        "chain5_histogram": np.bincount(lengths, minlength=6).tolist(),
        "errors": errors[:60],
        "samples": samples,
    }


def answers_report(
    tokenizer: Tokenizer,
    target: LlavaOnevisionForConditionalGeneration,
    asked: Sequence[tuple[Scene, Answered]],
    cache: Path | None = None,
) -> dict[str, object]:
    """Correct answers by kind of question."""
    requests = [Request.make(tokenizer, scene, item.question) for scene, item in asked]
    texts = cached(cache, lambda: in_batches(target, requests, 120))
    verdicts: dict[str, list[bool]] = defaultdict(list)
    errors = []
    for (_, item), tokens in zip(asked, texts, strict=True):
        text = decode_text(tokenizer, tokens)
        good = right(text, item)
        verdicts[item.kind].append(good)
        if not good:
            errors.append(f"{item.kind}: {item.question} -> {text} (for: {item.answer})")
    every = [v for values in verdicts.values() for v in values]
    return {
        "questions": len(every),
        "right": round(float(np.mean(every)), 4),
        "right_by_kind": {k: round(float(np.mean(v)), 4) for k, v in sorted(verdicts.items())},
        "count_by_kind": {k: len(v) for k, v in sorted(verdicts.items())},
        "errors": errors[:60],
    }


@torch.inference_mode()
def pass_milliseconds(model: LlavaOnevisionForConditionalGeneration, prefix: int = 200) -> float:
    """Median time in milliseconds of a pass over one token behind ``prefix`` tokens."""
    hidden = int(model.lm_head.in_features)
    cache, times = DynamicCache(), []
    language = model.model.language_model
    language(inputs_embeds=torch.randn(1, prefix, hidden), past_key_values=cache)
    for _ in range(30):
        begin = time.perf_counter()
        out = language(inputs_embeds=torch.randn(1, 1, hidden), past_key_values=cache)
        model.lm_head(out.last_hidden_state)
        times.append(time.perf_counter() - begin)
    return round(float(np.median(times)) * 1e3, 3)


def markdown(report: dict[str, object]) -> str:
    """The report's numbers as a short page."""
    captions, answers = report["captions"], report["answers"]
    assert isinstance(captions, dict) and isinstance(answers, dict)
    slots, times = captions["slots"], f"{report['target_ms']} / {report['draft_ms']}"
    lines = [
        "# Held-out evaluation of sage-tiny",
        "",
        f"{captions['scenes']} unseen scenes, seed {report['seed']}; float32, greedy.",
        "",
        "| what | wanted | got |",
        "|---|---|---|",
        f"| caption facts right ({slots} slots) | >= 95% | {captions['slots_right']:.1%} |",
        f"| answers right ({answers['questions']} questions) | >= 90% | {answers['right']:.1%} |",
        f"| tokens accepted by a chain of 5 | 2 to 4.2 | {captions['chain5_accepted']:.2f} |",
        f"| one target pass / one draft pass, ms | >= 10x | {times} |",
        "",
        "| caption facts | right | chain of 5 |",
        "|---|---|---|",
    ]
    for kind, value in captions["slots_right_by_kind"].items():
        lines.append(f"| {kind} | {value:.1%} | {captions['chain5_by_kind'][kind]:.2f} |")
    lines += ["", "| question | asked | right |", "|---|---|---|"]
    for kind, value in answers["right_by_kind"].items():
        lines.append(f"| {kind} | {answers['count_by_kind'][kind]} | {value:.1%} |")
    lines += ["", f"Accepted lengths 0 to 5: {captions['chain5_histogram']}.", "", "Samples:", ""]
    lines += [f"> {text}\n" for text in captions["samples"][:6]]
    return "\n".join(lines)


def evaluate(pair: Path, scenes: int, seed: int, cache: Path | None = None) -> dict[str, object]:
    rng = np.random.default_rng([_REALM, seed])
    tokenizer = Tokenizer.from_file(str(pair / "target" / "tokenizer.json"))
    target, draft = load(pair / "target"), load(pair / "draft")
    captioned: list[Scene] = [_MAKERS[i % len(_MAKERS)](rng) for i in range(scenes)]
    asked: list[tuple[Scene, Answered]] = []
    for i, scene in enumerate(captioned):
        asked += [(scene, ask(rng, scene)), (scene, ask(rng, scene))]
        if i % 6 == 0:
            both = random_pair(rng)
            asked.append((both, ask(rng, both)))
    return {
        "seed": seed,
        "target_parameters": sum(p.numel() for p in target.parameters()),
        "draft_parameters": sum(p.numel() for p in draft.parameters()),
        "target_ms": pass_milliseconds(target),
        "draft_ms": pass_milliseconds(draft),
        "captions": captions_report(
            tokenizer, target, draft, captioned, cache and cache / "captions.json"
        ),
        "answers": answers_report(tokenizer, target, asked, cache and cache / "answers.json"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, required=True, help="folder with target/ and draft/")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("training/results"))
    parser.add_argument("--cache", type=Path, help="folder for the target's tokens")
    arguments = parser.parse_args()
    report = evaluate(arguments.pair, arguments.scenes, arguments.seed, arguments.cache)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    (arguments.out / "evaluation.json").write_text(text, encoding="utf-8")
    page = markdown(report)
    (arguments.out / "evaluation.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
