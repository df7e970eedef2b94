"""From a path or hub id to a local checkpoint: small files first, weights on request."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sage_core.errors import ModelError
from sage_core.models import catalog
from sage_core.models.progress import Progress, gib
from sage_core.models.quiet import quiet

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "README.md")
"""Files of a hub repository that are fetched first: configurations, tokenizers, the model card."""
CODE_FILES = ("*.py",)
"""Fetched as well if the checkpoint's own code may run."""
TIMEOUT = 5.0
"""Seconds until the hub must answer."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose configuration and tokenizer are local."""

    name: str
    """As given by the user."""
    folder: Path
    repo: str | None = None
    """The hub id to fetch its weights from; None if they are local."""
    revision: str | None = None
    """The commit of ``repo`` in ``folder``."""
    bytes: int = 0
    """Size of the weights, local or not; 0 if unknown."""


def split_revision(name: str | Path, revision: str | None) -> tuple[str | Path, str | None]:
    """Split ``owner/name@revision``; an existing folder with an @ in its name is not split.

    Raises:
        ModelError: it conflicts with ``revision``.
    """
    if isinstance(name, Path) or "@" not in name or Path(name).expanduser().exists():
        return name, revision
    bare, _, pinned = name.partition("@")
    if not _HUB_ID.fullmatch(bare) or not pinned:
        return name, revision
    if revision not in (None, pinned):
        raise ModelError(f"{name}: names one revision and --revision {revision} another")
    return bare, pinned


def find(name: str | Path, revision: str | None = None, *, code: bool = False) -> Checkpoint:
    """A checkpoint's small files, downloaded if ``name`` is a hub id that is not cached.

    Complete cached snapshots are used without network access. ``code`` fetches the repository's own
    modules too.

    Raises:
        ModelError: no such folder, no checkpoint in it, only pickled weights, not on the hub, or
            the hub cannot be reached.
    """
    name, revision = split_revision(name, revision)
    path = Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ModelError(f"{name}: is a folder, which has no revisions: leave --revision out")
        catalog.check_weights(path, str(name))
        return Checkpoint(str(name), path, bytes=catalog.weight_bytes(path))
    if path.exists():
        raise ModelError(f"{name}: is a file: give the folder of a transformers checkpoint")
    repo = os.fspath(name)
    if isinstance(name, Path) or not _HUB_ID.fullmatch(repo):
        raise ModelError(
            f"{name}: no such folder, and not a hub id either (owner/name): check the name"
        )
    folder = cached_folder(repo, revision)
    if folder is not None and catalog.is_complete(folder) and not (code and _lacks_code(folder)):
        return Checkpoint(repo, folder, bytes=catalog.weight_bytes(folder))
    return _fetch_small_files(repo, revision, SMALL_FILES + (CODE_FILES if code else ()))


def fetch(checkpoint: Checkpoint, progress: Progress | None = None) -> Checkpoint:
    """The checkpoint with its weights downloaded; ``progress`` reports the bytes.

    Raises:
        ModelError: the hub cannot be reached or refuses, or the cache cannot be written.
    """
    if checkpoint.repo is None:
        return checkpoint
    from huggingface_hub import snapshot_download

    names = [path.name for path in catalog.weight_files(checkpoint.folder) if not path.is_file()]
    left = checkpoint.bytes - catalog.weight_bytes(checkpoint.folder)
    with _hub_errors(checkpoint.repo), quiet():
        snapshot_download(
            checkpoint.repo,
            revision=checkpoint.revision,
            allow_patterns=names,
            etag_timeout=TIMEOUT,
            tqdm_class=_bar(checkpoint.name, left, progress),
        )
    catalog.check_weights(checkpoint.folder, checkpoint.name)
    return replace(checkpoint, repo=None, bytes=catalog.weight_bytes(checkpoint.folder))


def cached_folder(repo: str, revision: str | None = None) -> Path | None:
    """The cached snapshot of a hub id with a config.json, with or without weights."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repo, "config.json", revision=revision)
    except (OSError, ValueError):
        return None
    return Path(found).parent if isinstance(found, str) else None


def _lacks_code(folder: Path) -> bool:
    """Whether a checkpoint needs modules of its own that were not fetched."""
    return "auto_map" in catalog.read_config(folder) and not any(folder.glob("*.py"))


def is_cached(repo: str) -> bool:
    """Whether a hub id can be loaded without a download."""
    folder = cached_folder(repo)
    return folder is not None and catalog.is_complete(folder)


def _fetch_small_files(repo: str, revision: str | None, patterns: tuple[str, ...]) -> Checkpoint:
    from huggingface_hub import HfApi, snapshot_download

    with _hub_errors(repo), quiet():
        # First, since only this call respects the timeout on networks that drop all packets.
        info = HfApi().model_info(repo, revision=revision, timeout=TIMEOUT, files_metadata=True)
        folder = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=list(patterns), etag_timeout=TIMEOUT
            )
        )
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    catalog.check_weights(folder, repo, there=frozenset(sizes))
    total = sum(sizes[path.name] for path in catalog.weight_files(folder))
    return Checkpoint(repo, folder, repo, revision=folder.name, bytes=total)


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn errors of the hub's client into a `ModelError` of one line."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # network errors differ by version of the hub's client
        raise ModelError(f"{repo}: {_reason(repo, error)}") from error


def _reason(repo: str, error: Exception) -> str:
    """Why the hub's client failed, and what to do."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return f"a gated model: accept its terms on the hub, then {_log_in()}"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision on the hub: check --revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "not on the hub, or private: check the name, or run: hf auth login"
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", 0)
        if status in (401, 403):
            return f"the hub denies access: {_log_in()}"
        return f"the hub refused the download (HTTP {status}): try again later"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        return f"the cache cannot be written ({error.strerror}): free space or set HF_HOME"
    here = "not" if cached_folder(repo) is None else "only in part"
    reach = "the hub cannot be reached: connect once"
    if constants.HF_HUB_OFFLINE:
        reach = "HF_HUB_OFFLINE forbids network access: unset it once"
    return f"{here} in the local cache, and {reach}, or give the path of a local copy"


def _log_in() -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        return "run: hf auth login (no token is set)"
    return "set another token (the current one does not give access)"


def _bar(name: str, expected: int, progress: Progress | None) -> Any:
    """A tqdm class that draws nothing and reports downloaded bytes to ``progress``.

    The hub's client makes several bars; those in bytes count the data on disk.
    """
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._in_bytes = options.get("unit") == "B"
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            self.n += n or 0
            if progress is None or not self._in_bytes:
                return
            whole = max(expected, self.total or 0, self.n, 1)
            progress(f"downloading {name}: {gib(self.n)} of {gib(whole)}", self.n / whole)

    return Bar
