"""What can be loaded without a download: the bundled pair and the local hub cache."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from sage_core.errors import ModelError

BUNDLED = "sage-tiny"
"""Name of the pair that comes with the package."""
BUNDLED_VARIABLE = "SAGE_BUNDLED_PAIR"
"""Environment variable: another directory with target/ and draft/ to use as the bundled pair."""

KNOWN_DRAFTS = {
    "llava-hf/llava-onevision-qwen2-72b-ov-hf": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-hf/llava-onevision-qwen2-72b-ov-chat-hf": "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-chat-hf": "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
}
"""Hub ids of targets and the draft that ``draft="auto"`` means for them."""


@dataclass(frozen=True)
class ModelEntry:
    """One model that can be loaded now."""

    id: str
    """What ``--model`` takes."""
    kind: Literal["bundled", "cached"]
    path: Path
    architecture: str
    bytes: int
    """Size of the weights on disk."""
    draft: str | None
    """What ``--draft auto`` would choose for it."""


def bundled_folder() -> Path:
    """The directory of the bundled pair, with ``target`` and ``draft`` in it.

    Raises:
        ModelError: it is not there.
    """
    override = os.environ.get(BUNDLED_VARIABLE)
    if override:
        folder = Path(override).expanduser()
        where = f"{BUNDLED_VARIABLE}={override}"
    else:
        folder = Path(str(resources.files("sage_core") / "assets" / BUNDLED))
        where = "the installed package"
    for part in ("target", "draft"):
        if not (folder / part / "config.json").is_file():
            raise ModelError(
                f"the bundled pair is incomplete ({where} has no {part}/config.json): reinstall "
                "sage or name a model"
            )
    return folder


def list_models() -> list[ModelEntry]:
    """The bundled pair's target first, then complete models in the hub cache, by id."""
    entries: list[ModelEntry] = []
    try:
        target = bundled_folder() / "target"
        config = read_config(target)
        entries.append(
            ModelEntry(
                BUNDLED, "bundled", target, architecture(config), weight_bytes(target), "bundled"
            )
        )
    except ModelError:
        pass
    return entries + sorted(_cached(), key=lambda entry: entry.id.lower())


def _cached() -> list[ModelEntry]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return []
    entries = []
    for repo in repos:
        if repo.repo_type != "model" or not repo.revisions:
            continue
        newest = max(repo.revisions, key=lambda r: r.last_modified)
        folder = Path(newest.snapshot_path)
        try:
            config = read_config(folder)
        except ModelError:
            continue
        if not is_complete(folder):
            continue
        entries.append(
            ModelEntry(
                repo.repo_id,
                "cached",
                folder,
                architecture(config),
                weight_bytes(folder),
                KNOWN_DRAFTS.get(repo.repo_id),
            )
        )
    return entries


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's ``config.json``.

    Raises:
        ModelError: it is missing or damaged.
    """
    path = folder / "config.json"
    with reading_json(path):
        config = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{path}: names no model_type: it is no transformers checkpoint")
    return config


@contextmanager
def reading_json(path: Path) -> Iterator[None]:
    """Turn a missing or damaged JSON file into a `ModelError` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent}: is no model: it has no {path.name} (give a transformers checkpoint)"
        ) from error
    except (OSError, ValueError, LookupError, AttributeError) as error:
        raise ModelError(f"{path}: cannot be read: get a whole copy of the model") from error


def architecture(config: dict[str, Any]) -> str:
    """The model class that a config names, or its type."""
    names = config.get("architectures") or [config.get("model_type", "unknown")]
    return str(names[0])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that a checkpoint consists of, whether or not they are there.

    Raises:
        ModelError: the index of a sharded checkpoint is damaged.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    with reading_json(index):
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [folder / shard for shard in shards]


def is_complete(folder: Path) -> bool:
    """True if every file of the weights is there."""
    try:
        return all(path.is_file() for path in weight_files(folder))
    except ModelError:
        return False


def weight_bytes(folder: Path) -> int:
    """Bytes of the safetensors files on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
