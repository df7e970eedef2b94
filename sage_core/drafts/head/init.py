"""New heads: initialized from the target's last layer."""

from __future__ import annotations

from typing import Any

import torch

from sage_core.drafts.head.config import HeadConfig
from sage_core.drafts.head.fingerprint import fingerprint
from sage_core.drafts.head.module import Head, attending_layer
from sage_core.models.parts import decoder_of


def new_head(target: Any, *, name: str, revision: str | None = None, **options: Any) -> Head:
    """An untrained head for a loaded target, in float32 on the CPU.

    Its layer is a copy of the target's last one with attention, its final norm one of the target's.

    Args:
        target: a loaded transformers model.
        name: of the target.
        revision: of the target.
        options: ``kind``, ``mode``, ``ratio``... as fields of `HeadConfig`.

    Raises:
        OptionError: as `HeadConfig`.
        ModelError: no such layer can be built.
    """
    decoder = decoder_of(target)
    config = HeadConfig(
        hidden_size=int(decoder.config.hidden_size),
        vocab_size=int(target.get_output_embeddings().weight.shape[0]),
        target=name,
        revision=revision,
        fingerprint=fingerprint(target),
        **options,
    )
    head = Head(config, decoder.config).float()
    copy_layer(decoder, head.decoder)
    return head.eval()


@torch.no_grad()
def copy_layer(decoder: Any, into: Any) -> None:
    """Copy the last attention layer and the final norm of ``decoder`` to the one layer of ``into``.

    A weight of another shape or packed by quantization is left as it is.
    """
    last = decoder.layers[attending_layer(decoder.config)]
    for source, goal in [(last, into.layers[0]), (_norm(decoder), _norm(into))]:
        known = source.state_dict()
        for name, weight in goal.state_dict().items():
            given = known.get(name)
            if given is not None and given.shape == weight.shape and given.is_floating_point():
                weight.copy_(given)


def _norm(decoder: Any) -> Any:
    """The final norm, which LFM2 names otherwise."""
    return decoder.norm if hasattr(decoder, "norm") else decoder.embedding_norm
