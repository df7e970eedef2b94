"""From a path or a hub id to a local folder that holds a whole checkpoint."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

from sage_core.errors import ModelError
from sage_core.models.catalog import is_complete, weight_files
from sage_core.models.quiet import quiet

FILES = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"]
"""What is downloaded of a hub repository: never pickles, never code."""
TIMEOUT = 5.0
"""Seconds to wait for the hub's first answer."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

Progress = Callable[[str, float], None]


def resolve(name: str | Path, progress: Progress | None = None) -> Path:
    """The local folder of a checkpoint, downloaded first if it is a hub id that is not cached.

    A cached checkpoint is used without asking the network.

    Raises:
        ModelError: no such folder, no checkpoint in it, only pickled weights, not on the hub, or
            the hub cannot be reached.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return check_folder(path, str(name))
    if path.exists():
        raise ModelError(f"{name}: is a file: give the folder of a transformers checkpoint")
    text = os.fspath(name)
    if isinstance(name, Path) or not _HUB_ID.fullmatch(text):
        raise ModelError(
            f"{name}: no such folder, and not a hub id either (owner/name): check the name"
        )
    cached = _cached(text)
    if cached is not None:
        return check_folder(cached, text)
    return check_folder(_download(text, progress), text)


def check_folder(folder: Path, name: str) -> Path:
    """Refuse a folder that is no whole safetensors checkpoint, before anything is loaded.

    Raises:
        ModelError: see `resolve`.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{name}: is no model: it has no config.json (give a transformers checkpoint)"
        )
    if is_complete(folder):
        return folder
    missing = [path.name for path in weight_files(folder) if not path.is_file()]
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise ModelError(
            f"{name}: has pickled weights only, which are not opened: convert them to safetensors"
        )
    raise ModelError(f"{name}: {missing[0]} is missing: get a whole copy of the model")


def _cached(repo: str) -> Path | None:
    """The cached snapshot of a hub id if it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        with quiet():
            folder = Path(snapshot_download(repo, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    whole = (folder / "config.json").is_file() and is_complete(folder)
    return folder if whole else None


def _download(repo: str, progress: Progress | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if progress is not None:
        progress(f"downloading {repo}", 0.0)
    try:
        with quiet():
            # Asked first, as only this call gives up in time when a network swallows everything.
            HfApi().model_info(repo, timeout=TIMEOUT)
            return Path(snapshot_download(repo, allow_patterns=FILES, etag_timeout=TIMEOUT))
    except GatedRepoError as error:
        raise ModelError(
            f"{repo}: its owner asks for consent: accept on the hub, then run: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{repo}: not on the hub, or private: check the name, or run: hf auth login"
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(f"{repo}: the hub refused the download: try again later") from error
    except Exception as error:  # the network's own errors differ by version of the hub's client
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
            raise ModelError(
                f"{repo}: the cache cannot be written ({error.strerror}): make room, or set HF_HOME"
            ) from error
        raise ModelError(
            f"{repo}: not in the local cache, and the hub cannot be reached: connect once, or give "
            "the path of a local copy"
        ) from error
