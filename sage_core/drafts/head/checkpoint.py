"""A head in a folder: ``head.safetensors`` and a ``config.json`` that names its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sage_core.drafts.head.config import CONFIG, WEIGHTS, HeadConfig, read_config
from sage_core.drafts.head.fingerprint import fingerprint
from sage_core.drafts.head.module import Head
from sage_core.errors import ModelError


def save_head(head: Head, folder: str | Path) -> None:
    """Write a head to ``folder``, which is made if it is not there.

    Each file is whole or not there: it is written beside its place and then moved.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    _replace(where / WEIGHTS, save(weights))
    _replace(where / CONFIG, head.config.to_json().encode())


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def load_head(folder: str | Path, target: Any) -> Head:
    """The head of ``folder``, for its loaded target: in evaluation mode, on the device and in the
    dtype of the target's output head.

    Raises:
        ModelError: damaged, incomplete, or of another target.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = read_config(folder)
    check_target(target, config, str(folder))
    head = Head(config, target.get_decoder().config)
    path = Path(folder) / WEIGHTS
    try:
        weights = load_file(path)
        head.load_state_dict(weights)
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: has no {WEIGHTS}: get a whole copy of the head") from error
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(f"{folder}: its weights are damaged: get a whole copy of it") from error
    return placed(head, target)


def placed(head: Head, target: Any) -> Head:
    """The head, ready to draft: where its target's output head is, in the target's dtype."""
    device = target.get_output_embeddings().weight.device
    return head.to(device=device, dtype=target.dtype).eval().requires_grad_(False)


def check_head(target: Any, head: Head) -> None:
    """Refuse a head that was made for another target, or that is somewhere else.

    Raises:
        ModelError: says which target it is for.
    """
    check_target(target, head.config, "the head")
    output = target.get_output_embeddings().weight
    if (head.device, head.dtype) != (output.device, target.dtype):
        raise ModelError(
            f"the head is on {head.device} in {_name(head.dtype)} and its target's output head "
            f"on {output.device} in {_name(target.dtype)}: place it with heads.checkpoint.placed"
        )


def check_target(target: Any, config: HeadConfig, what: str) -> None:
    """Refuse a head of another target: ``what`` is what the message calls the head.

    Raises:
        ModelError: says which target it is for.
    """
    size = int(target.get_decoder().config.hidden_size)
    rows = int(target.get_output_embeddings().weight.shape[0])
    same = (size, rows) == (config.hidden_size, config.vocab_size)
    if not same or config.fingerprint not in ("", fingerprint(target)):
        raise ModelError(config.refusal(what))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
