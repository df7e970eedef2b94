"""Loading a target with its draft: checked and measured before any weights are read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_core.errors import ModelError
from sage_core.models import catalog, hub
from sage_core.models.families import find_family
from sage_core.models.hub import Checkpoint
from sage_core.models.memory_needs import Size, measure
from sage_core.models.quantization import Method, check_ready_made, find_method
from sage_core.models.quiet import quiet
from sage_core.models.weights import load_weights

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, eq=False)
class CheckpointInfo:
    """One model of a pair before its weights are read."""

    checkpoint: Checkpoint
    config: Any
    tokenizer: Any
    size: Size


def inspect(
    name: str | Path, shown: str, revision: str | None, code: bool, method: Method | None = None
) -> CheckpointInfo:
    """A model without its weights, which messages call ``shown``.

    Raises:
        ModelError: not found, damaged, or of an unknown kind.
    """
    checkpoint = hub.find(name, revision, code=code)
    config = load_config(checkpoint.folder, code=code)
    check_ready_made(shown, config, method)
    find_family(config)
    tokenizer = load_tokenizer(checkpoint.folder, code=code)
    size = measure(shown, config, checkpoint.bytes, code=code)
    return CheckpointInfo(replace(checkpoint, name=shown), config, tokenizer, size)


def load_config(folder: Path, *, code: bool = False) -> Any:
    """The transformers configuration of a local checkpoint; ``code`` lets its own modules run.

    Raises:
        ModelError: damaged, or an architecture that this version of transformers does not know.
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
    """The tokenizer of a local checkpoint; ``code`` lets its own modules run.

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
            f"{folder}: its tokenizer cannot be loaded: get a whole copy of the model"
        ) from error


def load_model(
    name: str | Path, device: str = "cpu", dtype: str = "float32", *, quantization: str = "none"
) -> Any:
    """One transformers model from a folder or hub id, in evaluation mode on ``device``.

    ``dtype`` is a name of `devices.DTYPES`, or ``checkpoint``.

    Raises:
        ModelError: not found, damaged, incomplete, or of a kind that cannot be loaded.
        OptionError: an unknown quantization, or its package is not installed.
        MemoryExhaustedError: it does not fit.
    """
    method = find_method(quantization)
    folder = hub.fetch(hub.find(name)).folder
    return load_weights(
        folder, load_config(folder), name=str(name), device=device, dtype=dtype, method=method
    )
