"""One checkpoint: inspected without its weights, then loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sage_core.errors import ModelError
from sage_core.models import catalog, hub
from sage_core.models.families import find_family
from sage_core.models.hub import Checkpoint
from sage_core.models.memory_needs import Size, measure
from sage_core.models.quantization import Method, check_ready_made, find_method
from sage_core.models.quiet import quiet
from sage_core.models.weights import load_weights


@dataclass(frozen=True, eq=False)
class CheckpointInfo:
    """A checkpoint before its weights are read."""

    checkpoint: Checkpoint
    config: Any
    tokenizer: Any
    size: Size


def inspect(
    name: str | Path, shown: str, revision: str | None, code: bool, method: Method | None = None
) -> CheckpointInfo:
    """Find, check and measure a checkpoint without reading its weights.

    Args:
        name, revision: a folder, or a hub id with a branch, tag or commit.
        shown: its name in messages.
        code: whether the checkpoint's own code may run.
        method: how it will be quantized.

    Raises:
        ModelError: not found, damaged, or of an unsupported architecture.
        OptionError: it is quantized already and ``method`` is given.
    """
    checkpoint = hub.find(name, revision, code=code)
    config = load_config(checkpoint.folder, code=code)
    check_ready_made(shown, config, method)
    find_family(config)
    tokenizer = load_tokenizer(checkpoint.folder, code=code)
    size = measure(shown, config, checkpoint.bytes, code=code)
    return CheckpointInfo(replace(checkpoint, name=shown), config, tokenizer, size)


def load_config(folder: Path, *, code: bool = False) -> Any:
    """The transformers configuration of a local checkpoint; ``code`` allows its own modules.

    Raises:
        ModelError: damaged, or an architecture unknown to this version of transformers.
    """
    from transformers import AutoConfig

    kind = catalog.read_config(folder)["model_type"]
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if not code and ("auto_map" in str(error) or "trust_remote_code" in str(error)):
            raise ModelError(
                f"{folder}: needs code of its own, which is not run: if you have read that code "
                "and trust it, use --trust-remote-code"
            ) from error
        raise ModelError(
            f"{folder}: transformers does not know models of type {kind}, or its config.json is "
            "damaged: choose another model, or a newer transformers"
        ) from error


def load_tokenizer(folder: Path, *, code: bool = False) -> Any:
    """The tokenizer of a local checkpoint; ``code`` allows its own modules.

    Raises:
        ModelError: missing or damaged.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=code
            )
    except Exception as error:  # the Rust library raises bare Exceptions on damaged files
        raise ModelError(
            f"{folder}: its tokenizer cannot be loaded: get a complete copy of the model"
        ) from error


def load_model(
    name: str | Path, device: str = "cpu", dtype: str = "float32", *, quantization: str = "none"
) -> Any:
    """A transformers model from a folder or hub id, in evaluation mode on ``device``.

    ``dtype`` is one of `devices.DTYPES` or ``checkpoint``.

    Raises:
        ModelError: not found, damaged, incomplete, or of an unsupported architecture.
        OptionError: an unknown quantization, or its package is not installed.
        MemoryExhaustedError: it does not fit.
    """
    method = find_method(quantization)
    folder = hub.fetch(hub.find(name)).folder
    return load_weights(
        folder, load_config(folder), name=str(name), device=device, dtype=dtype, method=method
    )
