"""Resolves the names of a target and draft to folders or hub ids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sage_core.models import catalog, hub
from sage_core.models.known_pairs import drafts_for


@dataclass(frozen=True)
class PairNames:
    """Where target and draft are loaded from, and their names in messages."""

    target: str | Path
    target_id: str
    draft: str | Path | None
    draft_id: str | None
    note: str = ""
    """Added to the note of the loaded pair."""
    known: bool = False
    """The draft was chosen automatically: if it cannot be used, the target decodes without one."""
    unknown: bool = False
    """A draft was to be chosen automatically and none is known."""
    small: Path | None = None
    """If the draft is the bundled head: the bundled draft model, as an alternative."""


def find_pair(target: str | Path | None, draft: str | Path | None) -> PairNames:
    """Resolve ``target`` and ``draft`` without network access.

    A folder that holds ``target`` and ``draft`` is a pair. ``auto`` chooses the best known draft
    that is cached, else the best known one.

    Raises:
        ModelError: the bundled pair is missing.
    """
    if target is None or str(target) == catalog.BUNDLED:
        pair: Path | None = catalog.bundled_folder()
        name = catalog.BUNDLED
    else:
        path = Path(target).expanduser()
        is_pair = all((path / part / "config.json").is_file() for part in ("target", "draft"))
        pair, name = (path if is_pair else None), str(target)
    where = pair / "target" if pair is not None else target
    assert where is not None
    if draft is None or str(draft) == "none":
        return PairNames(where, name, None, None)
    if name == catalog.BUNDLED and str(draft) == "auto":
        draft = catalog.bundled_choice()
    if (bundled := catalog.bundled_draft(str(draft))) is not None:
        small = bundled.with_name("draft") if bundled.name != "draft" else None
        return PairNames(where, name, bundled, str(draft), small=small)
    if str(draft) != "auto":
        return PairNames(where, name, draft, str(draft))
    if pair is not None:
        return PairNames(where, name, pair / "draft", f"{name}/draft")
    drafts = drafts_for(str(hub.split_revision(where, None)[0]))
    if not drafts:
        return PairNames(where, name, None, None, unknown=True)
    chosen = catalog.choose_draft(drafts, [one for one in drafts if hub.is_cached(one)])
    return PairNames(where, name, chosen, chosen, known=True)
