"""Where sentences end: by full stops of many scripts, with the usual abbreviations left alone."""

from __future__ import annotations

import re

__all__ = ["sentence_ends"]

_SPACED = ".!?…"
"""Ends of sentences that a space or the end of the text follows; elsewhere they are decimal points
and the like."""
_ALONE = "。！？｡．।॥۔؟።။។‼⁇⁈⁉"
"""Ends of sentences that nothing need follow: Chinese, Japanese, Hindi, Urdu, Arabic, Amharic,
Burmese, Khmer."""
_CLOSERS = "\"'”’»›)\\]}」』）】〉》*_"
"""Quotation marks and brackets that still belong to the sentence."""
_END = re.compile(
    rf"([{_SPACED}{_ALONE}]++)([{_CLOSERS}]*+)"
    r"|\n(?:[ \t]*+\n)++"  # blank lines
    r"|\n(?=[ \t]*+(?:[-*•#]++|[0-9]++[.)])\s)"  # the next item of a list
)
_NEXT = re.compile(r"(\s*+)(\S?)")
_TITLES = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "rev",
        "hon",
        "gen",
        "col",
        "lt",
        "sgt",
        "capt",
        "cpt",
        "mt",
        "ft",
        "fig",
        "figs",
        "no",
        "nr",
        "vol",
        "vs",
        "cf",
        "approx",
        "ca",
        "e.g",
        "i.e",
        "z.b",
        "d.h",
        "u.a",
        "bzw",
        "str",
        "hr",
        "fr",
        "mme",
        "mlle",
        "sr",
        "sra",
        "srta",
        "dra",
        "av",
        "dept",
        "est",
        "bsp",
        "abb",
        "vgl",
    ]
)
"""Abbreviations that a name or number follows, which end no sentence."""
_ENDINGS = frozenset(
    ["etc", "usw", "jr", "inc", "ltd", "co", "corp", "a.m", "p.m", "u.s", "u.k", "al"]
)
"""Abbreviations that end a sentence if a capital letter follows."""
_WORD = re.compile(r"(?:\w+\.)*\w+$")
_LONGEST = 24
"""Characters of a word that are looked at."""


def sentence_ends(text: str) -> list[int]:
    """The places in ``text`` behind each whole sentence, in order.

    An item of a list and a line before a blank one count as sentences too.
    """
    ends: list[int] = []
    last = 0
    for found in _END.finditer(text):
        marks, closers = found.groups()
        place = found.start() if marks is None else found.end()
        if not text[last:place].strip():
            continue
        if marks is None or _ends(text, last, found.start(), place, marks, closers):
            ends.append(place)
            last = place
    return ends


def _ends(text: str, start: int, mark: int, place: int, marks: str, closers: str) -> bool:
    """Whether the sentence from ``start`` ends with the ``marks`` at ``mark``, before ``place``."""
    if any(one in _ALONE for one in marks):
        return True
    found = _NEXT.match(text, place)
    assert found is not None
    space, after = found.groups()
    if after and not space:  # a decimal point, a file's name
        return False
    if after.islower() and (closers or marks == "…" or marks.startswith("..")):
        return False  # «What?» he asked. Well... perhaps.
    if marks != "." or closers:
        return True
    word = _WORD.search(text, max(start, mark - _LONGEST), mark)
    if word is None:
        return True
    name, line = word.group(), text.rfind("\n", start, mark) + 1
    if name.isdecimal():  # the number of an item of a list
        return bool(text[max(start, line) : word.start()].strip(" \t*#"))
    if name.lower() in _ENDINGS:
        return not after or after.isupper()
    initial = len(name) == 1 and name.isascii() and name.isupper()
    return name.lower() not in _TITLES and not (initial and after)
