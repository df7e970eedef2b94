"""What can be loaded: the bundled pair, the local hub cache, and known pairs on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from sage_core.errors import ModelError
from sage_core.models.known_pairs import KNOWN, drafts_for

BUNDLED = "sage-tiny"
"""Name of the pair that comes with the package."""
BUNDLED_HEAD = "sage-tiny-head"
"""Name of its draft: a head on the target's own features."""
BUNDLED_DRAFT = "sage-tiny-draft"
"""Name of another draft for it that comes with it: a small model of its own."""
BUNDLED_VARIABLE = "SAGE_BUNDLED_PAIR"
"""Environment variable: another directory with target/ and draft/ to use as the bundled pair."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


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
    draft_cached: bool = False
    """True if that draft needs no download."""


@dataclass(frozen=True)
class PairEntry:
    """One known pair that is not whole on this machine."""

    target: str
    series: str
    draft: str
    """What ``--draft auto`` would choose."""
    drafts: tuple[str, ...]
    """All drafts that fit, best first."""
    target_cached: bool
    drafts_cached: tuple[str, ...]
    quantized: bool
    """The target is another's weights in fewer bits."""


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


def bundled_draft(name: str) -> Path | None:
    """Where the draft of that name is; None if none that is bundled has it."""
    parts = {BUNDLED_HEAD: "head", BUNDLED_DRAFT: "draft"}
    return bundled_folder() / parts[name] if name in parts else None


def bundled_choice() -> str:
    """What the bundled pair drafts with. Another folder in its place need not hold a head."""
    whole = (bundled_folder() / "head" / "config.json").is_file()
    return BUNDLED_HEAD if whole else BUNDLED_DRAFT


def list_models() -> list[ModelEntry]:
    """The bundled pair's target first, then complete models in the hub cache, by id."""
    entries: list[ModelEntry] = []
    with suppress(ModelError):
        target = bundled_folder() / "target"
        kind = architecture(read_config(target))
        entries.append(
            ModelEntry(BUNDLED, "bundled", target, kind, weight_bytes(target), "bundled", True)
        )
    return entries + sorted(_cached(), key=lambda entry: entry.id.lower())


def list_pairs(models: Sequence[ModelEntry]) -> list[PairEntry]:
    """The known pairs, but for those whose target and chosen draft are both in ``models``."""
    cached = {entry.id for entry in models}
    entries = []
    for pair in KNOWN.values():
        here = tuple(draft for draft in pair.drafts if draft in cached)
        if pair.target in cached and here:
            continue
        draft = choose_draft(pair.drafts, cached)
        entries.append(
            PairEntry(
                pair.target,
                pair.series,
                draft,
                pair.drafts,
                pair.target in cached,
                here,
                pair.quantized,
            )
        )
    return entries


def choose_draft(drafts: Sequence[str], cached: Container[str]) -> str:
    """The best of ``drafts`` that needs no download; the best of all if each does."""
    return next((draft for draft in drafts if draft in cached), drafts[0])


def _cached() -> list[ModelEntry]:
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return []
    found: dict[str, tuple[Path, str]] = {}
    for repo in repos:
        if repo.repo_type != "model" or not repo.revisions:
            continue
        newest = max(repo.revisions, key=lambda r: r.last_modified)
        folder = Path(newest.snapshot_path)
        with suppress(ModelError):
            kind = architecture(read_config(folder))
            if is_complete(folder):
                found[repo.repo_id] = (folder, kind)
    entries = []
    for name, (folder, kind) in found.items():
        drafts = drafts_for(name)
        draft = choose_draft(drafts, found) if drafts else None
        entries.append(
            ModelEntry(name, "cached", folder, kind, weight_bytes(folder), draft, draft in found)
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


def check_weights(folder: Path, name: str, there: Collection[str] = ()) -> None:
    """Refuse a checkpoint without config.json or with weights missing, before anything is loaded.

    Args:
        folder: the checkpoint.
        name: what the user calls it.
        there: names of the files that the hub has of it, if that is where it is.

    Raises:
        ModelError: no config.json, a file of the weights is missing, or they are pickled.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{name}: is no model: it has no config.json (give a transformers checkpoint)"
        )
    # A link into the hub's cache may lead nowhere, so a name alone is not enough.
    files = there or {path.name for path in folder.iterdir() if path.is_file()}
    missing = [path.name for path in weight_files(folder) if path.name not in files]
    if not missing:
        return
    if any(file.endswith(_PICKLES) for file in files):
        raise ModelError(
            f"{name}: has pickled weights only, which are not opened: convert them to safetensors"
        )
    raise ModelError(f"{name}: {missing[0]} is missing: get a whole copy of the model")


def is_complete(folder: Path) -> bool:
    """True if every file of the weights is there."""
    try:
        return all(path.is_file() for path in weight_files(folder))
    except ModelError:
        return False


def weight_bytes(folder: Path) -> int:
    """Bytes of the safetensors files on disk."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
