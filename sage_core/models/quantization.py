"""Quantization while loading, and the packages that quantized checkpoints need."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from sage_core.errors import ModelError, OptionError


@dataclass(frozen=True)
class Method:
    """A quantization method for ``--quantization``."""

    name: str
    package: str
    """The package it needs, which is also the name of the extra that installs it."""
    bits: float
    """Bits per weight of a linear layer, scales included."""
    about: str
    """A description for display."""


METHODS = (
    Method("8bit", "bitsandbytes", 8.1, "bitsandbytes LLM.int8"),
    Method("4bit", "bitsandbytes", 4.5, "bitsandbytes NF4"),
    Method("int8", "torchao", 8.1, "torchao int8, weights only"),
    Method("int4", "torchao", 4.3, "torchao int4, weights only, groups of 128"),
)
NONE = "none"

_READY_MADE = {
    "awq": ("gptqmodel", "gptq"),
    "gptq": ("gptqmodel", "gptq"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "torchao": ("torchao", "torchao"),
}
"""By quantization method of a checkpoint: the package it needs, and the extra that installs it."""


def is_installed(method: Method) -> bool:
    """Whether the package of ``method`` is installed."""
    return find_spec(method.package) is not None


def find_method(name: str | None) -> Method | None:
    """The method of that name; None for ``none``.

    Raises:
        OptionError: an unknown name, or its package is not installed.
    """
    if name is None or name == NONE:
        return None
    for method in METHODS:
        if method.name == name:
            if not is_installed(method):
                raise OptionError(
                    f"quantization {name} needs {method.package}: "
                    f"pip install 'sage-vlm[{method.package}]'"
                )
            return method
    names = ", ".join([NONE, *(method.name for method in METHODS)])
    raise OptionError(f"unknown quantization {name!r}: choose from {names}")


def ready_made(config: Any) -> str | None:
    """The quantization method of a checkpoint (``awq``, ``gptq``, ...); None if not quantized."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    if method is None and isinstance(found, dict):  # older bitsandbytes checkpoints name none
        method = "bitsandbytes" if any(key.startswith("load_in_") for key in found) else "unknown"
    return str(getattr(method, "value", method))


def check_ready_made(name: str, config: Any, method: Method | None) -> None:
    """Refuse to quantize a quantized checkpoint, or one whose package is missing.

    Raises:
        OptionError: the checkpoint is quantized and ``method`` is given.
        ModelError: the package that the checkpoint needs is not installed.
    """
    found = ready_made(config)
    if found is None:
        return
    if method is not None:
        raise OptionError(
            f"{name}: is quantized already ({found}): leave --quantization {method.name} out"
        )
    package, extra = _READY_MADE.get(found, (None, None))
    if package is not None and find_spec(package) is None:
        raise ModelError(
            f"{name}: is quantized with {found}, which needs {package}: "
            f"pip install 'sage-vlm[{extra}]'"
        )


def config_for(method: Method, dtype: str) -> Any:
    """The transformers configuration object for ``method``, computing in ``dtype``."""
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if method.name == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if method.name == "4bit":
        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if method.name == "int8":
        return TorchAoConfig(Int8WeightOnlyConfig())
    return TorchAoConfig(Int4WeightOnlyConfig(group_size=128))
