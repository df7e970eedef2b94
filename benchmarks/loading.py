"""Host memory while a checkpoint is loaded: ``python -m benchmarks.loading --output FILE``.

A checkpoint of random weights is written, and a process of its own loads it and reports its peak.
Weights are mapped from their file, so pages of the file count as resident until the system takes
them back; a second copy would show in the process's own (anonymous) memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import environment, harness

MIB = 2**20
CASES = (("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"))
"""Number format of the file, and of the loaded weights."""
CHILD = """
import json, sys, threading
from pathlib import Path
import torch, transformers
import transformers.models.llama.modeling_llama
from sage_core.models.weights import load_weights
from sage_core.models.checkpoint import load_config

def held():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon", "VmHWM")}

folder, dtype = Path(sys.argv[1]), sys.argv[2]
config = load_config(folder)
before, peak, done = held(), [0], threading.Event()

def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], held()["RssAnon"])

watcher = threading.Thread(target=watch)
watcher.start()
model = load_weights(folder, config, name="it", device="cpu", dtype=dtype)
total = sum(p.sum().item() for p in model.parameters())  # every page is read
done.set()
watcher.join()
weights = sum(p.numel() * p.element_size() for p in model.parameters())
after = held()
print(json.dumps({
    "weights": weights,
    "resident": after["VmHWM"] - before["VmRSS"],
    "own": max(peak[0], after["RssAnon"]) - before["RssAnon"],
}))
"""
"""Prints bytes: weights as loaded, and the peaks above what the process held before."""


def save_checkpoint(folder: Path, layers: int, dtype: str) -> int:
    """Write a Llama of about 34 million parameters a layer; returns the bytes of its file."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=1536,
        intermediate_size=6144,
        num_hidden_layers=layers,
        num_attention_heads=12,
        num_key_value_heads=2,
    )
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(config)
    model.to_empty(device="cpu").to(getattr(torch, dtype))
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    model.save_pretrained(folder, max_shard_size="200MB")
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def measure(stored: str, loaded: str, layers: int) -> dict[str, Any]:
    """Load a checkpoint in a process of its own: number formats, bytes of file, weights, peaks."""
    with TemporaryDirectory() as folder:
        size = save_checkpoint(Path(folder), layers, stored)
        command = [sys.executable, "-c", CHILD, folder, loaded]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"stored": stored, "loaded": loaded, "file": size, **found}


def report(data: dict[str, Any]) -> str:
    rows = [
        [p["stored"], p["loaded"], *(f"{p[n] / MIB:.0f}" for n in ("file", "weights"))]
        + [f"{p[n] / MIB:.0f}" for n in ("resident", "own")]
        for p in data["peaks"]
    ]
    head = ["file", "loaded as", "file, MiB", "weights, MiB", "peak resident, MiB", "own, MiB"]
    note = (
        "above what the process held before; mapped pages of the file count as resident; a second "
        "copy would show in the last column"
    )
    return harness.report(
        "Host memory while a checkpoint is loaded", data, [note], harness.table(head, rows)
    )


def main(argv: list[str] | None = None) -> int:
    arguments = harness.options(__doc__, pair=False, layers=7).parse_args(argv)
    data = harness.described("benchmarks.loading", arguments)
    data["peaks"] = [measure(*case, arguments.layers) for case in CASES]
    environment.write(arguments.output, data, report(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
