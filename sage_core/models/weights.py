"""Loads a checkpoint's weights directly to their device, with progress in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sage_core.errors import ModelError, is_memory_error
from sage_core.models.devices import torch_dtype
from sage_core.models.memory_needs import DTYPE_BYTES, Size, auto_class
from sage_core.models.progress import Progress, gib
from sage_core.models.quantization import Method, config_for
from sage_core.models.quiet import memory_errors, quiet

MEMORY_ADVICE = "choose a smaller model, another --device, --dtype bfloat16, or --quantization 4bit"


def load_weights(
    folder: Path,
    config: Any,
    *,
    name: str,
    device: str,
    dtype: str,
    method: Method | None = None,
    budgets: Mapping[int, int] | None = None,
    code: bool = False,
    size: Size | None = None,
    progress: Progress | None = None,
) -> Any:
    """The model of a local checkpoint, in evaluation mode.

    Only safetensors are opened. The model is built on the meta device and each weight moves from
    its file to its device, so that the host never holds a second copy.

    Args:
        device: the device, unless ``budgets`` are given.
        dtype: one of `devices.DTYPES`, or ``checkpoint``.
        method: how to quantize it while loading.
        budgets: bytes of weights per GPU index, to spread the model over several GPUs.
        size: the result of `memory_needs.measure`, for progress and the checkpoint's dtype.

    Raises:
        ModelError: damaged, incomplete, or of an unsupported architecture.
        MemoryExhaustedError: it does not fit.
    """
    own = size.own_dtype if size is not None else "bfloat16"
    options: dict[str, Any] = {"device_map": {"": device}}
    if budgets is not None:
        options = {"device_map": "sequential", "max_memory": dict(budgets)}
    if method is not None:
        computed = own if dtype == "checkpoint" else dtype
        options["quantization_config"] = config_for(method, computed)
    with memory_errors(f"while loading {name}", MEMORY_ADVICE):
        try:
            with quiet(), _report_bytes(name, size, dtype, progress):
                model, info = auto_class(config).from_pretrained(
                    folder,
                    config=config,
                    dtype=torch_dtype(dtype),
                    attn_implementation="sdpa",
                    use_safetensors=True,
                    local_files_only=True,
                    trust_remote_code=code,
                    output_loading_info=True,
                    **options,
                )
        except Exception as error:
            if is_memory_error(error):
                raise
            raise ModelError(_why(name, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{name}: its weights lack {missing[0]} and {len(missing) - 1} more: get a complete "
            "copy of the model"
        )
    return model.eval()


@contextmanager
def _report_bytes(
    name: str, size: Size | None, dtype: str, progress: Progress | None
) -> Iterator[None]:
    """Report the progress of transformers' loop over the weights to ``progress``."""
    from transformers.utils import logging as library

    if size is None or progress is None:
        yield
        return
    sizes = size.parameters
    width = DTYPE_BYTES[size.own_dtype if dtype == "checkpoint" else dtype]
    whole = max(1, width * sum(sizes.values()))

    def count(bar: Any) -> Iterator[Any]:
        done = 0
        for item in bar:
            yield item
            done += width * sizes.get(item[0], 0)
            progress(f"loading {name}: {gib(done)} of {gib(whole)}", done / whole)

    def hook(factory: Callable[..., Any], args: Any, options: dict[str, Any]) -> Any:
        bar = factory(*args, **options)
        return count(bar) if options.get("desc") == "Loading weights" else bar

    before = library.set_tqdm_hook(hook)
    try:
        yield
    finally:
        library.set_tqdm_hook(before)


def _why(name: str, error: Exception) -> str:
    """One line for an error of transformers or safetensors about a bad checkpoint."""
    kind = type(error).__name__
    text = " ".join(str(error).split())
    if "Safetensor" in kind or "safetensors" in text or "ignore_mismatched_sizes" in text:
        return f"{name}: its weights are damaged: get a complete copy of the model"
    if "Unrecognized configuration class" in text:
        return f"{name}: not a text-generating model: choose another"
    if "does not support an attention" in text or "sdpa" in text:
        return f"{name}: no SDPA attention, which tree verification needs: choose another model"
    return f"{name}: cannot be loaded ({kind}: {text[:160]}): check the model"
