"""A saved head: checked and measured before any weights are read, then loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from sage_core.drafts.head.config import WEIGHTS, HeadConfig, is_head, read_config, weight_errors
from sage_core.errors import ModelError, OptionError
from sage_core.models.memory_needs import Size
from sage_core.models.quiet import memory_errors, quiet

_ADVICE = "choose a smaller target, --dtype bfloat16, or --draft none"


@dataclass(frozen=True)
class SavedHead:
    """A head in a folder, before its weights are read."""

    folder: Path
    config: HeadConfig
    parameters: int

    def beside(self, target: Size, layers: int) -> Size:
        """The memory needs of ``target``, which has ``layers`` layers, with this head.

        A head is on the target's device and is never quantized.
        """
        return replace(
            target,
            others=target.others + self.parameters,
            stored=target.stored + 4 * self.parameters if target.stored else 0,
            cache_values=target.cache_values + target.cache_values // layers,
        )

    def load(self, target: Any) -> Any:
        """The head, for its loaded target.

        Raises:
            ModelError: damaged, or of another target.
            MemoryExhaustedError: it does not fit.
        """
        from sage_core.drafts.head.checkpoint import load_head

        with memory_errors(f"while loading {self.folder}", _ADVICE), quiet():
            return load_head(self.folder, target)


def find_saved_head(
    draft: str | Path | None,
    target_config: Any,
    revision: str | None = None,
    device: str = "auto",
    draft_device: str = "auto",
) -> SavedHead | None:
    """The head that ``draft`` names; None if it names anything else.

    Args:
        draft: a folder, a hub id, or None.
        target_config: the target's transformers configuration.
        revision: the draft's, as requested.
        device: the target's, as requested.
        draft_device: the draft's, as requested.

    Raises:
        ModelError: damaged, or of a target of another size.
        OptionError: a device of its own.
    """
    if draft is None or not is_head(draft):
        return None
    folder = Path(draft).expanduser()
    if revision is not None:
        raise ModelError(f"{draft}: is a folder, which has no revisions: leave it out")
    if draft_device not in ("auto", device):
        raise OptionError(
            f"{draft}: is a head, which runs where its target does: leave --draft-device out"
        )
    config = read_config(folder)
    text = target_config.get_text_config(decoder=True)
    if (config.hidden_size, config.vocab_size) != (text.hidden_size, text.vocab_size):
        raise ModelError(config.refusal(str(draft)))
    return SavedHead(folder, config, _parameters(folder))


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    with weight_errors(folder), safe_open(folder / WEIGHTS, "pt") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
    return sum(prod(shape) for shape in shapes)
