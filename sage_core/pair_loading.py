"""Loads a target with its draft; both are checked and measured before any weights are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any

from sage_core.drafts.head.saved import SavedHead, find_saved_head
from sage_core.drafts.ngram import Ngram, as_ngram, is_lookup
from sage_core.engine.model_check import check_draft, check_target, verdict_before_loading
from sage_core.engine.trial import EXACT, Verdict
from sage_core.errors import ModelError
from sage_core.models import hub
from sage_core.models.checkpoint import CheckpointInfo, inspect
from sage_core.models.checkpoint_errors import checkpoint_errors
from sage_core.models.devices import check_device, check_dtype, find_devices
from sage_core.models.draft_search import find_drafts
from sage_core.models.families import Family, find_family
from sage_core.models.pair_check import check_pair
from sage_core.models.pair_names import PairNames, find_pair
from sage_core.models.placement import PairSize, Placement, place
from sage_core.models.progress import Progress, stage
from sage_core.models.quantization import Method, find_method
from sage_core.models.quiet import memory_errors
from sage_core.models.shared_vision import share_vision
from sage_core.models.weights import MEMORY_ADVICE, load_weights

_LOADING = RLock()
"""While transformers builds a model it replaces methods of its classes and PyTorch's default dtype,
for the whole process."""


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with _LOADING:
        yield


@dataclass(frozen=True, eq=False)
class LoadedPair:
    """A target and perhaps its draft, ready to decode."""

    target: Any
    draft: Any | None
    """A model or a `drafts.head.module.Head`; None without."""
    family: Family
    target_id: str
    draft_id: str | None
    device: str
    """The target's; several are separated by commas."""
    dtype: str
    """The dtype of the target's weights: ``float32``, ``bfloat16``, ``float16``."""
    note: str
    lookup: Ngram | None = None
    """N-gram lookup in place of a draft model."""
    folder: Path | None = None
    """The target's checkpoint."""
    small: Path | None = None
    """If the draft is a head: a small draft model, not loaded, for methods that need one."""
    verdict: Verdict = EXACT
    """Of the trial of the target's class."""


@_one_at_a_time()
@memory_errors("while loading the models", MEMORY_ADVICE)
def load_pair(
    target: str | Path | None = None,
    draft: str | Path | None = "auto",
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
    *,
    quantization: str | None = None,
    revision: str | None = None,
    draft_revision: str | None = None,
    draft_device: str = "auto",
    trust_remote_code: bool = False,
    on_family: Callable[[Family], None] | None = None,
) -> LoadedPair:
    """Find, check and load a pair. Arguments and errors as for `sage_core.load`.

    Threads load one after another.
    """
    lookup = as_ngram(str(draft)) if is_lookup(draft) else None
    if lookup is not None:
        draft = draft_revision = None
    say = stage(progress, 0.0, 1.0)
    say("finding the models", 0.0)
    method = find_method(quantization)
    check_dtype(dtype)
    found = find_devices()
    for name in (device, draft_device):
        check_device(name, found)
    names = find_pair(target, draft)
    ours = inspect(names.target, names.target_id, revision, trust_remote_code, method)
    family_class = find_family(ours.config)
    names, theirs, head = _found_draft(
        names, ours, draft_revision, trust_remote_code, device, draft_device
    )
    if head is not None:
        ours = _with_head(ours, head)
    folder = ours.checkpoint.folder
    with checkpoint_errors(folder, "config.json", "preprocessor_config.json"):
        family = family_class(folder, ours.config, ours.tokenizer)
    if on_family is not None:
        on_family(family)
    say("trying a small copy of the model", 0.04)
    verdict = verdict_before_loading(ours.config, code=trust_remote_code)
    check_target(ours.config, verdict)

    say("making room", 0.05)
    pair_size = PairSize(ours.size, theirs.size if theirs is not None else None, method)
    placement = place(pair_size, found, device, draft_device, dtype)
    say(placement.note, 0.06)
    ours = _fetched(ours, stage(progress, 0.06, 0.5))
    if theirs is not None:
        theirs = _fetched(theirs, stage(progress, 0.5, 0.6))

    say(f"loading {names.target_id}", 0.6)
    bar = stage(progress, 0.6, 0.9)
    target_model = _read(ours, placement, trust_remote_code, bar, method)
    loaded = str(target_model.dtype).removeprefix("torch.")
    draft_model = None
    if head is not None:
        say(f"loading the head {names.draft_id}", 0.9)
        draft_model = head.load(target_model)
    elif theirs is not None:
        say(f"loading the draft {names.draft_id}", 0.9)
        # Both read the same pixels: the draft takes the target's dtype.
        alone = replace(placement, target=placement.draft, dtype=loaded, budgets=None)
        draft_model = _read(theirs, alone, trust_remote_code, stage(progress, 0.9, 1.0))
        if method is None:
            share_vision(target_model, draft_model)
    say("ready", 1.0)
    return LoadedPair(
        target_model,
        draft_model,
        family,
        names.target_id,
        names.draft_id if lookup is None else str(lookup),
        placement.target,
        loaded,
        placement.note + names.note,
        lookup=lookup,
        folder=ours.checkpoint.folder,
        small=names.small,
        verdict=verdict,
    )


def measure_pair(
    target: str | Path | None = None,
    draft: str | Path | None = "auto",
    *,
    quantization: str | None = None,
    revision: str | None = None,
    draft_revision: str | None = None,
    trust_remote_code: bool = False,
) -> PairSize:
    """The sizes of a pair, without reading weights. Arguments and errors as of `sage_core.load`."""
    method = find_method(quantization)
    names = find_pair(target, None if is_lookup(draft) else draft)
    ours = inspect(names.target, names.target_id, revision, trust_remote_code, method)
    _, theirs, head = _found_draft(names, ours, draft_revision, trust_remote_code)
    if head is not None:
        ours = _with_head(ours, head)
    return PairSize(ours.size, theirs.size if theirs is not None else None, method)


def _found_draft(
    names: PairNames,
    target: CheckpointInfo,
    revision: str | None,
    code: bool,
    device: str = "auto",
    draft_device: str = "auto",
) -> tuple[PairNames, CheckpointInfo | None, SavedHead | None]:
    """The draft model or the head, if there is one; see `_inspect_draft`."""
    head = find_saved_head(names.draft, target.config, revision, device, draft_device)
    if head is not None:
        return names, None, head
    names, theirs = _inspect_draft(names, target, revision, code)
    return names, theirs, None


def _with_head(target: CheckpointInfo, head: SavedHead) -> CheckpointInfo:
    layers = target.config.get_text_config(decoder=True).num_hidden_layers
    return replace(target, size=head.beside(target.size, layers))


def _inspect_draft(
    names: PairNames, target: CheckpointInfo, revision: str | None, code: bool
) -> tuple[PairNames, CheckpointInfo | None]:
    """The draft if there is one; a known one that does not fit is dropped with a note.

    Raises:
        ModelError: a requested draft is missing or does not fit.
    """
    if names.draft is None and names.unknown:
        names = _searched(names, target)
    if names.draft is None:
        return names, None
    assert names.draft_id is not None
    try:
        draft = inspect(names.draft, names.draft_id, revision, code)
        with checkpoint_errors(draft.checkpoint.folder, "config.json"):
            check_pair(target.config, draft.config, target.tokenizer, draft.tokenizer)
        check_draft(draft.config, verdict_before_loading(draft.config, code=code))
    except ModelError as error:
        if not names.known:
            raise
        note = f"; decoding without a draft ({error})"
        return replace(names, draft=None, draft_id=None, note=note), None
    return names, draft


def _searched(names: PairNames, target: CheckpointInfo) -> PairNames:
    """The draft of a target whose name is not known, found by what the target is."""
    best = next(find_drafts(target, names.target_id), None)
    if best is not None and best.automatic:
        note = f"; draft {best.id}: {best.reason}"
        return replace(names, draft=best.id, draft_id=best.id, note=note, known=True)
    advice = "--draft ngram" if best is None else f"--draft {best.id} or --draft ngram"
    note = f"; no draft is known for {names.target_id}: decoding without one ({advice} may "
    return replace(names, note=note + "speed it up)")


def _fetched(part: CheckpointInfo, progress: Progress) -> CheckpointInfo:
    return replace(part, checkpoint=hub.fetch(part.checkpoint, progress))


def _read(
    part: CheckpointInfo,
    placement: Placement,
    code: bool,
    progress: Progress,
    method: Method | None = None,
) -> Any:
    return load_weights(
        part.checkpoint.folder,
        part.config,
        name=part.checkpoint.name,
        device=placement.target,
        dtype=placement.dtype,
        method=method,
        budgets=placement.budgets,
        code=code,
        size=part.size,
        progress=progress,
    )
