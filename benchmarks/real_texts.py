"""Texts of published weights: the tokens of `generate`, by every policy that has a draft.

    python -m benchmarks.real_texts --output benchmarks/results/real-texts

The checkpoints are those of `benchmarks.real_weights`. Open questions, summaries, code and
arithmetic; one prompt is longer than Gemma 3's window of 512 tokens. Drafts are looked up in the
text (n-grams), or there is none. Nothing is timed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from benchmarks import environment, harness
from benchmarks.real_weights import MODELS, checkpoint
from sage_core.engine.costs.store import CostStore
from sage_core.engine.decoder import SpeculativeDecoder
from tests.tiny.oracle import first_mismatch, reference

WAYS = {
    "static": "ngram",
    "chain": "ngram",
    "sage": "ngram",
    "autoregressive": None,
}
"""Policy, and its draft."""
_PLACES = ("harbour", "mill", "bridge", "station", "orchard", "quarry", "library", "market")
_LOG = "\n".join(
    f"Day {day}: at the {_PLACES[day % 8]} {day * 7 % 23} boxes came in and {day * 5 % 11} left."
    for day in range(1, 41)
)
PROMPTS = {
    "long": f"{_LOG}\n\nWrite the log again, from day 1 on.\nDay 1:",
    "question": "What is a prime number, and why are there infinitely many of them?",
    "question, history": "Why did the Roman Empire fall? Name three causes.",
    "question, list": "List ten fruits and the colour of each, one a line.",
    "summary": "Summarize in two sentences: The tide is the rise and fall of the sea, caused by "
    "the pull of the moon and the sun together with the turning of the earth. Where the sea is "
    "shallow and the coast narrows, the tide may rise by more than ten metres; in the open ocean "
    "it is less than one. Sailors have written tables of tides for centuries.",
    "code": "def fibonacci(n):\n    \"\"\"The n-th Fibonacci number.\"\"\"\n",
    "code, edit": "Write this function again with type hints:\n\ndef area(width, height):\n    if "
    "width < 0 or height < 0:\n        raise ValueError('negative')\n    return width * height\n",
    "arithmetic": "12 + 7 = 19\n35 + 8 = 43\n41 + 16 = 57\n28 + 33 =",
    "arithmetic, words": "A box holds 12 eggs. Anna buys 3 boxes and breaks 5 eggs. How many eggs "
    "are left? Think step by step.",
}  # fmt: skip


def texts(name: str, new: int) -> Iterator[dict[str, Any]]:
    """Every prompt by every way, as plain data."""
    folder = checkpoint(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for label, prompt in PROMPTS.items():
        inputs = encoded(tokenizer, prompt)
        own = reference(model, inputs, max_new_tokens=new)
        written = own[0, inputs["input_ids"].shape[1] :]
        row: dict[str, Any] = {
            "model": name,
            "prompt": label,
            "prompt_tokens": inputs["input_ids"].shape[1],
            "new_tokens": len(written),
            "text": tokenizer.decode(written, skip_special_tokens=True),
            "ways": {},
        }
        for policy, draft in WAYS.items():
            decoder = SpeculativeDecoder(model, draft, policy, costs=CostStore())
            output = decoder.generate(**inputs, max_new_tokens=new)
            wrong = first_mismatch(model, inputs, own, output.sequences, max_new_tokens=new)
            row["ways"][policy] = {
                "difference": None if wrong is None else str(wrong),
                "mean_accepted": output.stats.mean_accepted,
                "steps": output.stats.steps,
            }
        print(name, label, row["ways"], file=sys.stderr, flush=True)
        yield row


def encoded(tokenizer: Any, prompt: str) -> dict[str, torch.Tensor]:
    """A prompt as a message where the tokenizer has a chat template, else as it is."""
    if tokenizer.chat_template is None:
        return {name: v for name, v in tokenizer(prompt, return_tensors="pt").items()
                if name in ("input_ids", "attention_mask")}  # fmt: skip
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
    )
    made = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


def report(data: dict[str, Any]) -> str:
    head = [
        "model",
        "prompt",
        "tokens",
        "new",
        *(f"{p}, {d or 'no draft'}" for p, d in WAYS.items()),
    ]
    rows = []
    for row in data["texts"]:
        cells = [
            "NO" if way["difference"] else f"= ({harness.number(way['mean_accepted'])})"
            for way in row["ways"].values()
        ]
        rows.append([row["model"], row["prompt"], row["prompt_tokens"], row["new_tokens"], *cells])
    made = [way for row in data["texts"] for way in row["ways"].values()]
    equal = sum(way["difference"] is None for way in made)
    notes = [
        "published weights, dequantized from GGUF to float32: SmolLM2-135M-Instruct (Q4_1), "
        "Gemma 3 270M, base (Q4_K_M; 15 of 18 layers have a window of 512 tokens)",
        f"**{equal} of {len(made)} texts equal `generate`'s, token for token**; not timed",
        f"=: equal; in brackets {harness.TAU_ALONE}; a looked-up draft has one tree for `static` "
        "and `sage`",
    ]
    return harness.report("Texts of published weights", data, notes, harness.table(head, rows))


def main(argv: list[str] | None = None) -> int:
    """Run, report; returns 1 if a text differs."""
    parser = harness.options(__doc__, pair=False, models=tuple(MODELS), new_tokens=64)
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    data = harness.described("benchmarks.real_texts", arguments)
    data["texts"] = []
    for name in arguments.models:
        for row in texts(name, arguments.new_tokens):
            data["texts"].append(row)
            if arguments.output:
                environment.save(arguments.output, data, report(data))
    environment.write(arguments.output, data, report(data))
    return int(any(w["difference"] for row in data["texts"] for w in row["ways"].values()))


if __name__ == "__main__":
    sys.exit(main())
