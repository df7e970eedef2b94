"""Host memory while a checkpoint is loaded: ``python -m benchmarks.loading --output FILE``.

A checkpoint of random weights is written, and a process of its own loads it and reports its peak.
Weights are mapped from their file, so pages of the file count as resident until the system takes
them back; memory of the process's own (anonymous) is what a second copy would show in.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environment import as_markdown, describe, write

MIB = 2**20

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


@dataclass(frozen=True)
class Peak:
    """Bytes above what the process held before it began to load."""

    file: int
    weights: int
    """In the number format that was loaded."""
    resident: int
    """Own memory and mapped pages of the file."""
    own: int


def save_checkpoint(folder: Path, layers: int, dtype: str) -> int:
    """Write a random Llama of about 34 million parameters a layer; gives the bytes of its file."""
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


def measure(folder: Path, file: int, dtype: str) -> Peak:
    """Load a checkpoint in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), dtype],
        capture_output=True,
        text=True,
        check=True,
    )
    return Peak(file=file, **json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=7, help="34 million parameters each")
    parser.add_argument("--output", help="write FILE.json and FILE.md")
    options = parser.parse_args()
    environment = describe("benchmarks.loading")
    peaks: list[dict[str, Any]] = []
    rows = [
        "# Host memory while a checkpoint is loaded",
        "",
        *as_markdown(environment),
        "",
        "Above what the process held before. Weights are mapped from their file: its pages count",
        "as resident until the system takes them back. A second copy shows in the last column.",
        "",
        "| file | loaded as | file, MiB | weights, MiB | peak resident, MiB | of it own, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for stored, loaded in (
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("bfloat16", "float32"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            file = save_checkpoint(Path(folder), options.layers, stored)
            peak = measure(Path(folder), file, loaded)
        counts = (peak.file, peak.weights, peak.resident, peak.own)
        rows.append(
            f"| {stored} | {loaded} | " + " | ".join(f"{n / MIB:.0f}" for n in counts) + " |"
        )
        peaks.append({"stored": stored, "loaded": loaded, **asdict(peak)})
    write(options.output, {"environment": environment, "peaks": peaks}, "\n".join(rows))


if __name__ == "__main__":
    main()
