"""What the names of a target and its draft stand for: a pair's folder, a known draft, a path."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_core.models import catalog, hub
from sage_core.models.known_pairs import drafts_for

__all__ = ["PairNames", "find_pair"]


@dataclass(frozen=True)
class PairNames:
    """Where target and draft are to be loaded from, what they are called, and a remark."""

    target: str | Path
    target_id: str
    draft: str | Path | None
    draft_id: str | None
    note: str = ""
    known: bool = False
    """The draft was chosen among the known ones: without it the target goes alone."""
    unknown: bool = False
    """A draft was wanted and none is known."""
    small: Path | None = None
    """Where the draft is a head: a small model that would be another."""


def find_pair(target: str | Path | None, draft: str | Path | None) -> PairNames:
    """What ``target`` and ``draft`` mean, before anything is looked up outside this machine.

    A folder that holds ``target`` and ``draft`` stands for both. Of the drafts known for a target
    the best that is cached is chosen; if none is, the best of all.

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
    if name == catalog.BUNDLED and str(draft) == "auto":
        draft = catalog.bundled_choice()
    if (held_by := catalog.bundled_draft(str(draft))) is not None:
        small = held_by.with_name("draft") if held_by.name != "draft" else None
        return PairNames(where, name, held_by, str(draft), small=small)
    if str(draft) != "auto":
        return PairNames(where, name, draft, str(draft))
    if pair is not None:
        return PairNames(where, name, pair / "draft", f"{name}/draft")
    drafts = drafts_for(str(hub.split_revision(where, None)[0]))
    if not drafts:
        return PairNames(where, name, None, None, unknown=True)
    chosen = catalog.choose_draft(drafts, [one for one in drafts if hub.is_cached(one)])
    return PairNames(where, name, chosen, chosen, known=True)
