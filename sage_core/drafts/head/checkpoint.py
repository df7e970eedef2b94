"""A head in a folder: ``head.safetensors`` and a ``config.json`` that names its target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sage_core.drafts.head.config import CONFIG, WEIGHTS, HeadConfig, read_config, weight_errors
from sage_core.drafts.head.fingerprint import fingerprint
from sage_core.drafts.head.module import Head
from sage_core.errors import ModelError
from sage_core.files.atomic_write import write_atomically
from sage_core.models.parts import decoder_of


def save_head(head: Head, folder: str | Path) -> None:
    """Write a head to ``folder``, which is created if missing; each file is written atomically.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
    write_atomically(where / WEIGHTS, save(weights))
    write_atomically(where / CONFIG, head.config.to_json())


def load_head(folder: str | Path, target: Any) -> Head:
    """The head of ``folder``, for its loaded target, as `placed` returns it.

    Raises:
        ModelError: damaged, incomplete, or of another target.
    """
    from safetensors.torch import load_file

    config = read_config(folder)
    check_target(target, config, str(folder))
    decoder = decoder_of(target).config
    with weight_errors(folder):
        weights = load_file(Path(folder) / WEIGHTS)
        with torch.device("meta"):  # the sizes in the file may be any: no memory is taken yet
            sizes = {name: one.shape for name, one in Head(config, decoder).state_dict().items()}
        if sizes != {name: one.shape for name, one in weights.items()}:
            raise RuntimeError("the weights are not of the head that config.json describes")
        head = Head(config, decoder)
        head.load_state_dict(weights)
    return placed(head, target)


def placed(head: Head, target: Any) -> Head:
    """The head in evaluation mode, on the device of its target's output head, in its dtype."""
    device = target.get_output_embeddings().weight.device
    return head.to(device=device, dtype=target.dtype).eval().requires_grad_(False)


def check_head(target: Any, head: Head) -> None:
    """Refuse a head of another target, device or dtype.

    Raises:
        ModelError: says which target it is for.
    """
    check_target(target, head.config, "the head")
    device, dtype = target.get_output_embeddings().weight.device, target.dtype
    if (head.device, head.dtype) != (device, dtype):
        raise ModelError(
            f"the head is on {head.device} in {head.dtype} and its target's output head on "
            f"{device} in {dtype}: place it with sage_core.drafts.head.checkpoint.placed"
        )


def check_target(target: Any, config: HeadConfig, what: str) -> None:
    """Refuse a head of another target: ``what`` is what the message calls the head.

    Raises:
        ModelError: says which target it is for.
    """
    size = int(decoder_of(target).config.hidden_size)
    vocabulary = int(target.get_output_embeddings().weight.shape[0])
    same = (size, vocabulary) == (config.hidden_size, config.vocab_size)
    if not same or config.fingerprint not in ("", fingerprint(target)):
        raise ModelError(config.refusal(what))
