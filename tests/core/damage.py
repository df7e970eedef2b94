"""Damages files: truncation, flipped bits, zeroed ranges and extreme numbers in headers."""

from __future__ import annotations

import random

DAMAGES = ("cut", "flip", "header", "hole", "insert", "lie")

EXTREMES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
BOXES = (
    *(b"moov", b"mvhd", b"trak", b"tkhd", b"elst", b"mdhd", b"hdlr", b"stbl", b"stsd"),
    *(b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"mdat"),
    *(b"IHDR", b"IDAT", b"VP8X", b"strh", b"avih", b"idx1"),
)


def damaged(data: bytes, how: str, dice: random.Random) -> bytes:
    """A copy of ``data`` with one of the `DAMAGES`."""
    broken = bytearray(data)
    if how == "cut":
        return bytes(broken[: dice.randrange(1, len(broken))])
    if how == "flip":
        for _ in range(dice.choice((1, 5, 50))):
            broken[dice.randrange(len(broken))] ^= 1 << dice.randrange(8)
    elif how == "header":
        for _ in range(dice.choice((1, 4, 16))):
            broken[dice.randrange(min(1000, len(broken)))] = dice.randrange(256)
    elif how == "hole":
        at = dice.randrange(len(broken))
        stretch = len(broken[at : at + dice.randrange(1, len(broken))])
        broken[at : at + stretch] = bytes(stretch)
    elif how == "insert":
        at = dice.randrange(len(broken))
        broken[at:at] = broken[: dice.randrange(1, len(broken))]
    elif how == "lie":
        _lie(broken, dice)
    else:
        raise ValueError(how)
    return bytes(broken)


def _lie(broken: bytearray, dice: random.Random) -> None:
    """Write extreme numbers into boxes that hold sizes and counts, or near the beginning."""
    places = [at for name in BOXES if (at := broken.find(name)) >= 4]
    for _ in range(dice.choice((1, 2, 4))):
        if places:
            at = dice.choice(places) + dice.choice((-4, 4, 8, 12, 16, 20))
        else:
            at = dice.randrange(min(400, len(broken)))
        number = dice.choice(EXTREMES)
        at = max(0, min(at, len(broken) - 4))
        broken[at : at + 4] = number.to_bytes(4, dice.choice(("big", "little")))
