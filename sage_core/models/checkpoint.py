"""One checkpoint: inspected without its weights, then loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sage_core.errors import ModelError
from sage_core.models import catalog, hub
from sage_core.models.checkpoint_errors import checkpoint_errors, is_panic, reason
from sage_core.models.families import find_family
from sage_core.models.hub import Checkpoint
from sage_core.models.memory_needs import Size, measure
from sage_core.models.quantization import Method, check_ready_made, find_method
from sage_core.models.quiet import quiet
from sage_core.models.small_files import check_small_files
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
    with checkpoint_errors(checkpoint.folder, "config.json"):
        check_ready_made(shown, config, method)
        find_family(config)
    tokenizer = load_tokenizer(checkpoint.folder, code=code)
    with checkpoint_errors(checkpoint.folder, "config.json"):
        size = measure(shown, config, checkpoint.bytes, code=code)
    return CheckpointInfo(replace(checkpoint, name=shown), config, tokenizer, size)


def load_config(folder: Path, *, code: bool = False) -> Any:
    """The transformers configuration of a local checkpoint; ``code`` allows its own modules.

    What it says about implementations of attention and experts is dropped: transformers would
    fetch and run a kernel that is named there.

    Raises:
        ModelError: damaged, or an architecture unknown to this version of transformers.
    """
    from transformers import AutoConfig

    check_small_files(folder)
    given = catalog.read_config(folder)
    if given.get("transformers_weights") is not None:
        raise ModelError(f"{folder}/config.json: transformers_weights: is not supported")
    try:
        with quiet(), checkpoint_errors(folder, "config.json"):
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=code
            )
    except ModelError as error:
        said = str(error.__cause__)
        if not code and ("auto_map" in said or "trust_remote_code" in said):
            raise ModelError(
                f"{folder}: needs code of its own, which is not run: if you have read that code "
                "and trust it, use --trust-remote-code"
            ) from error
        if "does not recognize this architecture" in said:
            raise ModelError(
                f"{folder}: transformers does not know models of type {given['model_type']}: "
                "choose another model, or a newer transformers"
            ) from error
        raise
    _drop_implementations(config)
    return config


def _drop_implementations(config: Any) -> None:
    """Leave the choice of attention and experts in a configuration and its parts to sage."""
    from transformers import PreTrainedConfig

    config._attn_implementation_internal = config._experts_implementation_internal = None
    for part in vars(config).values():
        if isinstance(part, PreTrainedConfig):
            _drop_implementations(part)


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
    except BaseException as error:
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        raise ModelError(
            f"{folder}: its tokenizer cannot be loaded ({reason(error)}): get a complete copy of "
            "the model"
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
