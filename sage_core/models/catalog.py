"""Models that can be loaded: the bundled pair, the local hub cache, known pairs on the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec

from sage_core.errors import ModelError
from sage_core.files.reading import as_shape, read_json
from sage_core.models.known_pairs import KNOWN, drafts_for

BUNDLED = "sage-tiny"
"""Name of the pair that comes with the package."""
BUNDLED_HEAD = "sage-tiny-head"
"""Its default draft: a head on the target's features."""
BUNDLED_DRAFT = "sage-tiny-draft"
"""Another draft that comes with it: a small model."""
BUNDLED_VARIABLE = "SAGE_BUNDLED_PAIR"
"""Environment variable: another directory with target/ and draft/ to use as the bundled pair."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_FILE = re.compile(r"[^/\\:\0]+\.safetensors")


class _Index(msgspec.Struct):
    """What is read of ``model.safetensors.index.json``."""

    weight_map: dict[str, str]
    metadata: dict[str, Any]  # which transformers reads


@dataclass(frozen=True)
class ModelEntry:
    """One model on this machine."""

    id: str
    """The name for ``--model``."""
    kind: Literal["bundled", "cached"]
    path: Path
    architecture: str
    bytes: int
    """Size of the weights on disk."""
    draft: str | None
    """The choice of ``--draft auto``."""
    draft_cached: bool = False
    """That draft is on this machine."""


@dataclass(frozen=True)
class PairEntry:
    """One known pair that is not complete on this machine."""

    target: str
    series: str
    draft: str
    """The choice of ``--draft auto``."""
    drafts: tuple[str, ...]
    """All drafts that fit, best first."""
    target_cached: bool
    drafts_cached: tuple[str, ...]
    quantized: bool
    """The target is a quantized form of another."""


def bundled_folder() -> Path:
    """The directory of the bundled pair, which holds ``target`` and ``draft``.

    Raises:
        ModelError: it is missing or incomplete.
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
    """The folder of the bundled draft with that name; None if there is none."""
    parts = {BUNDLED_HEAD: "head", BUNDLED_DRAFT: "draft"}
    return bundled_folder() / parts[name] if name in parts else None


def bundled_choice() -> str:
    """The default draft of the bundled pair: its head, unless an override folder has none."""
    whole = (bundled_folder() / "head" / "config.json").is_file()
    return BUNDLED_HEAD if whole else BUNDLED_DRAFT


def list_models() -> list[ModelEntry]:
    """The bundled pair's target first, then complete models in the hub cache, by id."""
    entries: list[ModelEntry] = []
    with suppress(ModelError):
        target = bundled_folder() / "target"
        kind, size = architecture(read_config(target)), weight_bytes(target)
        entries.append(ModelEntry(BUNDLED, "bundled", target, kind, size, "bundled", True))
    return entries + sorted(_cached(), key=lambda entry: entry.id.lower())


def list_pairs(models: Sequence[ModelEntry]) -> list[PairEntry]:
    """The known pairs except those whose target and draft are both in ``models``."""
    cached = {entry.id for entry in models}
    return [
        PairEntry(
            target=pair.target,
            series=pair.series,
            draft=choose_draft(pair.drafts, cached),
            drafts=pair.drafts,
            target_cached=pair.target in cached,
            drafts_cached=tuple(draft for draft in pair.drafts if draft in cached),
            quantized=pair.quantized,
        )
        for pair in KNOWN.values()
        if pair.target not in cached or cached.isdisjoint(pair.drafts)
    ]


def choose_draft(drafts: Sequence[str], cached: Container[str]) -> str:
    """The first of ``drafts`` that is cached; the first of all if none is."""
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
        size = weight_bytes(folder)
        entries.append(ModelEntry(name, "cached", folder, kind, size, draft, draft in found))
    return entries


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's ``config.json``.

    Raises:
        ModelError: it is missing or damaged.
    """
    path = folder / "config.json"
    with reading_json(path) as config:
        if isinstance(config, dict) and isinstance(config.get("model_type"), str):
            return config
    raise ModelError(f"{path}: names no model_type: not a transformers checkpoint")


@contextmanager
def reading_json(path: Path) -> Iterator[Any]:
    """The content of a JSON file. An error of reading it, or of a lookup in it within the context,
    becomes a `ModelError` that names the file."""
    if not path.exists():
        raise ModelError(
            f"{path.parent}: not a model: it has no {path.name} (give a transformers checkpoint)"
        )
    try:
        yield read_json(path, error=ModelError, any_number=True)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{path}: a field is of a wrong type: get a complete copy of the model"
        ) from error


def architecture(config: dict[str, Any]) -> str:
    """The model class that a config names, else its ``model_type``."""
    names = config.get("architectures")
    return str(names[0] if isinstance(names, list) and names else config["model_type"])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, existing or not.

    Raises:
        ModelError: the index of a sharded checkpoint is damaged, or names a file elsewhere.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    content = as_shape(read_json(index, error=ModelError), index, _Index, error=ModelError)
    shards = sorted(set(content.weight_map.values()))
    for shard in shards:
        # transformers opens whatever path stands there.
        if not _FILE.fullmatch(shard):
            raise ModelError(
                f"{index}: weight_map names {shard[:80]!r}, which is no safetensors file in this "
                "folder: get the model from a source that you trust"
            )
    return [folder / shard for shard in shards]


def check_weights(folder: Path, name: str, there: Collection[str] = ()) -> None:
    """Refuse a checkpoint without config.json or with missing weights.

    ``there``: file names of its hub repository, if the weights are not downloaded yet.

    Raises:
        ModelError: no config.json, a missing file of weights, or pickled weights only.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{name}: not a model: it has no config.json (give a transformers checkpoint)"
        )
    # Links into the hub cache may be broken, so the existence of a name is not enough.
    files = there or {path.name for path in folder.iterdir() if path.is_file()}
    missing = [path.name for path in weight_files(folder) if path.name not in files]
    if not missing:
        return
    if any(file.endswith(_PICKLES) for file in files):
        raise ModelError(
            f"{name}: has only pickled weights, which are not opened: convert them to safetensors"
        )
    raise ModelError(f"{name}: {missing[0]} is missing: get a complete copy of the model")


def is_complete(folder: Path) -> bool:
    """Whether all files of weights exist."""
    try:
        return all(path.is_file() for path in weight_files(folder))
    except ModelError:
        return False


def weight_bytes(folder: Path) -> int:
    """Total size of the safetensors files, in bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file())
