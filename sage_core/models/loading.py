"""Loading a target with its draft: checked before weights are read, quiet, safetensors only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage_core.errors import ModelError
from sage_core.models import catalog, devices, hub
from sage_core.models.families import Family, find_family
from sage_core.models.quiet import is_memory_error, memory_errors, quiet

Progress = Callable[[str, float], None]

MEMORY_ADVICE = "choose a smaller model, another --device, or --dtype bfloat16"


@dataclass(frozen=True, eq=False)
class LoadedPair:
    """A target and perhaps its draft, ready to decode."""

    target: Any
    draft: Any | None
    family: Family
    target_id: str
    draft_id: str | None
    device: str
    dtype: str
    """The dtype of the target's weights: ``float32``, ``bfloat16``, ``float16``."""
    note: str


def load_pair(
    target: str | Path | None = None,
    draft: str | Path | None = "auto",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> LoadedPair:
    """Find, check and load a pair. Arguments as `sage_core.load`'s.

    Raises:
        ModelError: not found, no checkpoint, damaged, of an unknown kind, or no pair.
        OptionError: an unknown or absent device, or an unknown dtype.
        MemoryExhaustedError: it does not fit.
    """
    say = progress or (lambda message, fraction: None)
    say("finding the models", 0.0)
    names = find_pair(target, draft)
    choice = devices.choose(device, dtype)
    folder = hub.resolve(names.target, progress)
    draft_folder = None if names.draft is None else hub.resolve(names.draft, progress)
    say("reading the tokenizers", 0.1)
    config = load_config(folder)
    family_class = find_family(config)
    tokenizer = load_tokenizer(folder)
    if draft_folder is not None:
        load_config(draft_folder)
        check_same_tokenizer(tokenizer, load_tokenizer(draft_folder))
    family = family_class(folder, config, tokenizer)
    say(f"loading {names.target_id}", 0.2)
    target_model = load_model(folder, choice.device, choice.dtype)
    draft_model = None
    if draft_folder is not None:
        say(f"loading the draft {names.draft_id}", 0.8)
        draft_model = load_model(draft_folder, choice.device, choice.dtype)
        share_vision(target_model, draft_model)
    say("ready", 1.0)
    loaded = str(target_model.dtype).removeprefix("torch.")
    note = choice.note.replace("the checkpoint's own dtype", loaded)
    return LoadedPair(
        target_model,
        draft_model,
        family,
        names.target_id,
        names.draft_id,
        choice.device,
        loaded,
        note + names.note,
    )


@dataclass(frozen=True)
class PairNames:
    """Where target and draft are to be loaded from, what they are called, and a remark."""

    target: str | Path
    target_id: str
    draft: str | Path | None
    draft_id: str | None
    note: str = ""


def find_pair(target: str | Path | None, draft: str | Path | None) -> PairNames:
    """What ``target`` and ``draft`` mean, before anything is looked up outside this machine.

    A folder that holds ``target`` and ``draft`` stands for both.

    Raises:
        ModelError: the bundled pair is not there.
    """
    if target is None or str(target) == catalog.BUNDLED:
        pair: Path | None = catalog.bundled_folder()
        name = catalog.BUNDLED
    else:
        path = Path(target).expanduser()
        held = all((path / part / "config.json").is_file() for part in ("target", "draft"))
        pair, name = (path, str(target)) if held else (None, str(target))
    where = pair / "target" if pair is not None else target
    assert where is not None
    if draft is None or str(draft) == "none":
        return PairNames(where, name, None, None)
    if str(draft) != "auto":
        return PairNames(where, name, draft, str(draft))
    if pair is not None:
        return PairNames(where, name, pair / "draft", f"{name}/draft")
    known = catalog.KNOWN_DRAFTS.get(str(target))
    if known is not None:
        return PairNames(where, name, known, known)
    return PairNames(
        where, name, None, None, f"; no draft is known for {name}: decoding without one"
    )


def load_config(folder: Path) -> Any:
    """The transformers configuration of a local checkpoint.

    Raises:
        ModelError: damaged, or an architecture that this version of transformers does not know.
    """
    from transformers import AutoConfig

    kind = catalog.read_config(folder)["model_type"]
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if "auto_map" in str(error) or "remote code" in str(error):
            raise ModelError(f"{folder}: needs code of its own, which is not run") from error
        raise ModelError(
            f"{folder}: transformers does not know models of type {kind}, or its config.json is "
            "damaged: choose another model, or a newer transformers"
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a local checkpoint.

    Raises:
        ModelError: missing or damaged.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust library raises bare Exceptions on damaged files
        raise ModelError(
            f"{folder}: its tokenizer cannot be loaded: get a whole copy of the model"
        ) from error


def check_same_tokenizer(target: Any, draft: Any) -> None:
    """Refuse a pair whose tokens differ: a drafted id must mean the same to both models.

    Sizes may differ where one model pads its vocabulary; tokens may not.

    Raises:
        ModelError: naming the first id that differs.
    """
    ours = {index: token for token, index in target.get_vocab().items()}
    theirs = {index: token for token, index in draft.get_vocab().items()}
    for index in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(index), theirs.get(index)
        if mine == other:
            continue
        raise ModelError(
            f"target and draft have different tokenizers: token {index} is "
            f"{_shown(mine)} to the target and {_shown(other)} to the draft: choose a draft of the "
            "target's own family"
        )


def _shown(token: str | None) -> str:
    return "nothing" if token is None else repr(token)


def load_model(name: str | Path, device: str = "cpu", dtype: str = "float32") -> Any:
    """One transformers model from a folder or hub id, in evaluation mode on ``device``.

    ``dtype`` is a name of `devices.DTYPES`, or ``checkpoint``.

    Raises:
        ModelError: not found, damaged, incomplete, or of a kind that cannot be loaded.
        MemoryExhaustedError: it does not fit.
    """
    from transformers import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    folder = hub.resolve(name)
    config = load_config(folder)
    seeing = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto: Any = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    with memory_errors(f"while loading {name}", MEMORY_ADVICE):
        try:
            with quiet():
                model, info = auto.from_pretrained(
                    folder,
                    dtype=devices.torch_dtype(dtype),
                    attn_implementation="sdpa",
                    use_safetensors=True,
                    local_files_only=True,
                    output_loading_info=True,
                )
        except MemoryError:
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and is_memory_error(error):
                raise
            raise ModelError(_why(folder, error)) from error
        missing = sorted(info["missing_keys"])
        if missing:
            raise ModelError(
                f"{folder}: its weights lack {missing[0]} and {len(missing) - 1} more: get a whole "
                "copy of the model"
            )
        return model.to(device).eval()


def _why(folder: Path, error: Exception) -> str:
    """One line for what transformers and safetensors raise over a bad checkpoint."""
    kind = type(error).__name__
    text = " ".join(str(error).split())
    if "Safetensor" in kind or "safetensors" in text or "ignore_mismatched_sizes" in text:
        return f"{folder}: its weights are damaged: get a whole copy of the model"
    if "Unrecognized configuration class" in text:
        return f"{folder}: is no model that writes text: choose another"
    if "does not support an attention" in text or "sdpa" in text:
        return f"{folder}: its attention cannot verify a tree (no sdpa): choose another model"
    return f"{folder}: cannot be loaded ({kind}: {text[:160]}): check the model"


def share_vision(target: Any, draft: Any) -> bool:
    """Let ``draft`` hold the target's own vision tower if theirs are equal; True if it now does.

    Saves the memory of one tower, and the engine encodes a picture once for a shared one.
    """
    import torch

    from sage_core.vision import find_tower

    theirs, name = find_tower(draft)
    mine, own_name = find_tower(target)
    if theirs is None or mine is None:
        return False
    tower, other = getattr(mine, own_name), getattr(theirs, name)
    if type(tower) is not type(other):
        return False
    if tower.config.to_diff_dict() != other.config.to_diff_dict():
        return False
    ours, drafts = tower.state_dict(), other.state_dict()
    if ours.keys() != drafts.keys():
        return False
    for key, value in ours.items():
        twin = drafts[key]
        if (value.shape, value.dtype, value.device) != (twin.shape, twin.dtype, twin.device):
            return False
        if not torch.equal(value, twin):
            return False
    setattr(theirs, name, tower)
    return True
