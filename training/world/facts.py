"""Facts parsed from a caption, and scored against the scene."""

from __future__ import annotations

import re

from training.world.captions import clip_cell
from training.world.phrases import NUMBERS, PLACES, ROWS, SIZE_WORDS, size_of
from training.world.scenes import (
    COLORS,
    DIRECTIONS,
    SHAPES,
    Chart,
    Clip,
    Picture,
    Shapes,
    Thing,
    Words,
)

_CELL = {name: cell for cell, names in enumerate(PLACES) for name in names}
_PLACE = "|".join(sorted(_CELL, key=len, reverse=True))
_SIZE = "|".join({word for words in SIZE_WORDS.values() for word in words})
_THING = rf"(?:(?P<size>{_SIZE}) )?(?P<color>{'|'.join(COLORS)}) (?P<shape>{'|'.join(SHAPES)})"
_BEFORE = re.compile(
    rf"{_THING}(?: (?:sits|stands|rests|is placed|appears|shows up|pops up))?"
    rf" in the (?P<place>{_PLACE})\b"
)
_VERBS = "there is|is taken by|is|we find|you can see|holds|shows|contains"
_AFTER = re.compile(rf"the (?P<place>{_PLACE}) (?:{_VERBS}) an? {_THING}", re.IGNORECASE)
_COUNT = re.compile(
    rf"\b({'|'.join(NUMBERS[1:])})(?: printed)? (?:shape|object|bar|word)s?\b", re.IGNORECASE
)
_BAR = re.compile(r"\b[Bb]ar ([A-Z])\b[^.;]*? (\d+)\b")
_BAR_COLORS = (
    re.compile(rf"\b({'|'.join(COLORS)}) bar ([A-Z])\b", re.IGNORECASE),
    re.compile(rf"\bbar ([A-Z])(?: is|, drawn in) ({'|'.join(COLORS)})\b", re.IGNORECASE),
)
_WORD = (
    re.compile(rf'"(?P<text>\w+)" is printed in (?P<color>\w+) at the (?P<row>{"|".join(ROWS)})'),
    re.compile(
        rf"at the (?P<row>{'|'.join(ROWS)}) (?:we read|it says|stands) "
        r'"(?P<text>\w+)" in (?P<color>\w+)',
        re.I,
    ),
    re.compile(
        rf'(?P<color>\w+) text at the (?P<row>{"|".join(ROWS)}) (?:reads|says) "(?P<text>\w+)"',
        re.I,
    ),
)
_WAYS = "|".join(sorted(DIRECTIONS, key=len, reverse=True))
_MOVE = re.compile(rf"the ([a-z]+ [a-z]+) (?:moves|slides|travels) ({_WAYS}) to the ({_PLACE})\b")
_FROM_TO = re.compile(
    rf"the ([a-z]+ [a-z]+) (?:moves|slides|travels) from the ({_PLACE}) to the ({_PLACE})\b"
    rf"(?:, moving ({_WAYS})\b)?"
)
_LEAVE = re.compile(r"the ([a-z]+ [a-z]+) (?:leaves|exits) the (?:picture|scene)")
_APPEAR = re.compile(rf"{_THING} (?:appears|shows up|pops up) in the (?P<place>{_PLACE})\b")
Slots = dict[str, str]


def thing_slots(text: str) -> Slots:
    """Things that are named with their place: 'thing 4 color' -> 'red'."""
    out: Slots = {}
    for pattern in (_BEFORE, _AFTER):
        for match in pattern.finditer(text):
            cell = _CELL[match["place"].lower()]
            out[f"thing {cell} color"] = match["color"]
            out[f"thing {cell} shape"] = match["shape"]
            size = size_of(match["size"] or "")
            if size:
                out[f"thing {cell} size"] = size
    return out


def caption_slots(text: str, kind: str) -> Slots:
    """All facts that a caption of a kind ('shapes', 'chart', 'words', 'clip') states."""
    out: Slots = {}
    count = _COUNT.search(text)
    if count:
        out["count"] = count[1].lower()
    if kind in ("shapes", "clip"):
        events = [
            m for p in (_MOVE, _FROM_TO, _LEAVE, _APPEAR) for m in p.finditer(_lower_starts(text))
        ]
        start = text
        if kind == "clip":
            clauses = [c for c in text.split(". ") if not _is_event(c)]
            start = ". ".join(clauses)
        out |= thing_slots(start)
        if kind == "clip":
            for i, match in enumerate(sorted(events, key=lambda m: m.start())):
                out[f"event {i}"] = _event_slot(match)
    elif kind == "chart":
        for label, value in reversed(_BAR.findall(text)):
            out[f"bar {label} value"] = value
        for color, label in _BAR_COLORS[0].findall(text):
            out[f"bar {label} color"] = color.lower()
        for label, color in _BAR_COLORS[1].findall(text):
            out[f"bar {label} color"] = color.lower()
    else:
        for pattern in _WORD:
            for match in pattern.finditer(text):
                row = match["row"].lower()
                out[f"word {row} text"], out[f"word {row} color"] = match["text"], match["color"]
    return out


_STARTERS = re.compile(
    r"^(?:first|to begin with|then|after that|next|finally|in the end|after a moment|soon), ", re.I
)


def _is_event(clause: str) -> bool:
    """Whether a sentence states an event; a first mention of a thing does not."""
    if any(pattern.search(clause) for pattern in (_MOVE, _FROM_TO, _LEAVE)):
        return True
    return bool(_STARTERS.match(clause) and _APPEAR.search(clause) and " a " in f" {clause}")


def _lower_starts(text: str) -> str:
    """The text with sentences that state no event replaced by spaces."""
    parts = text.split(". ")
    kept = [p if _is_event(p) else " " * len(p) for p in parts]
    return ". ".join(kept)


def _event_slot(match: re.Match[str]) -> str:
    if match.re is _MOVE:
        return f"{match[1]} moves {match[2]} to {_CELL[match[3]]}"
    if match.re is _FROM_TO:
        start, end = _CELL[match[2]], _CELL[match[3]]
        way = way_between(start, end)
        if match[4] not in (None, way):
            way = f"{match[4]}, not {way},"
        return f"{match[1]} moves {way} to {end}"
    if match.re is _LEAVE:
        return f"{match[1]} leaves"
    return f"{match['color']} {match['shape']} appears in {_CELL[match['place']]}"


def way_between(start: int, end: int) -> str:
    """The direction between two cells: 'left', 'diagonally up and right'; '' if there is none."""
    across, down = end % 3 - start % 3, end // 3 - start // 3
    if across and down and abs(across) != abs(down):
        return ""
    sign = ((across > 0) - (across < 0), (down > 0) - (down < 0))
    return next((way for way, step in DIRECTIONS.items() if step == sign), "")


def _true_things(things: list[Thing]) -> Slots:
    out: Slots = {}
    for thing in things:
        out[f"thing {thing.cell} color"] = thing.color
        out[f"thing {thing.cell} shape"] = thing.shape
        out[f"thing {thing.cell} size"] = thing.size
    return out


def scene_slots(scene: Picture | Clip) -> Slots:
    """The facts of a scene, in the form of `caption_slots`."""
    if isinstance(scene, Shapes):
        return {"count": NUMBERS[len(scene.things)]} | _true_things(list(scene.things))
    if isinstance(scene, Chart):
        out = {"count": NUMBERS[len(scene.bars)]}
        for bar in scene.bars:
            out[f"bar {bar.label} value"] = str(bar.value)
            out[f"bar {bar.label} color"] = bar.color
        return out
    if isinstance(scene, Words):
        out = {"count": NUMBERS[len(scene.words)]}
        for word in scene.words:
            out[f"word {ROWS[word.row]} text"] = word.text
            out[f"word {ROWS[word.row]} color"] = word.color
        return out
    hidden = scene.hidden_at_start()
    visible = [t for i, t in enumerate(scene.things) if i not in hidden]
    return {"count": NUMBERS[len(visible)]} | _true_things(visible) | event_slots(scene)


def event_slots(clip: Clip) -> Slots:
    """'event 0' -> 'red circle moves left to 3', in order."""
    at = [thing.cell for thing in clip.things]
    out: Slots = {}
    for i, event in enumerate(clip.events):
        thing = clip.things[event.who]
        name = f"{thing.color} {thing.shape}"
        at[event.who] = clip_cell(at[event.who], event)
        if event.kind == "move":
            out[f"event {i}"] = f"{name} moves {event.direction} to {at[event.who]}"
        elif event.kind == "leave":
            out[f"event {i}"] = f"{name} leaves"
        else:
            out[f"event {i}"] = f"{name} appears in {at[event.who]}"
    return out


def kind_of(scene: Picture | Clip) -> str:
    return {"Shapes": "shapes", "Chart": "chart", "Words": "words", "Clip": "clip"}[
        type(scene).__name__
    ]


def score(text: str, scene: Picture | Clip) -> tuple[int, int, list[str]]:
    """Correct slots, all slots (invented ones count as wrong), and the errors."""
    stated, true = caption_slots(text, kind_of(scene)), scene_slots(scene)
    extra = [key for key in stated if key not in true]
    wrong = [key for key, value in true.items() if stated.get(key) != value]
    detail = [f"{key}: {stated.get(key)} for {true[key]}" for key in wrong]
    detail += [f"{key}: {stated[key]} invented" for key in extra]
    return len(true) - len(wrong), len(true) + len(extra), detail
