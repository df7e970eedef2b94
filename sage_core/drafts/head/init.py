"""New heads: initialized from the target's last layer."""

from __future__ import annotations

from typing import Any

import torch

from sage_core.drafts.head.config import HeadConfig
from sage_core.drafts.head.fingerprint import fingerprint
from sage_core.drafts.head.module import Head
from sage_core.models.parts import decoder_of


def new_head(target: Any, *, name: str, revision: str | None = None, **options: Any) -> Head:
    """An untrained head for a loaded target, in float32 on the CPU.

    Its layer is a copy of the target's last one, its final norm a copy of the target's.

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
    """Copy the last layer and the final norm of ``decoder`` to the one-layer decoder ``into``.

    A weight of another shape or packed by quantization is left as it is.
    """
    for source, goal in [(decoder.layers[-1], into.layers[0]), (decoder.norm, into.norm)]:
        known = source.state_dict()
        for name, weight in goal.state_dict().items():
            given = known.get(name)
            if given is not None and given.shape == weight.shape and given.is_floating_point():
                weight.copy_(given)
