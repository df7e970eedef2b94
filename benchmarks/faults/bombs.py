"""Small files that claim to be huge, or take long to read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.core.media_files import encoded

Bomb = tuple[str, bytes]


def bombs() -> list[Bomb]:
    """Names and data; all together some 100 MB."""
    groups = (_png(), _webp(), _tiff(), _gif(), _jpeg(), _plain(), _wrapped(), _mp4(), _mkv())
    return [bomb for group in (*groups, _streams()) for bomb in group]


def zeros(size: int) -> bytes:
    """A zlib stream of ``size`` zero bytes, of which the first MiB is compressed only once."""
    pack = zlib.compressobj(9, wbits=-15)
    block = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, wbits=-15)
    rest = last.compress(bytes(size % 2**20)) + last.flush()
    checksum = (size % 65521) << 16 | 1
    return b"\x78\x9c" + block * (size // 2**20) + rest + struct.pack(">I", checksum)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, color: int = 2, depth: int = 8, before: bytes = b"",
        pixels: bytes | None = None, interlaced: int = 0) -> bytes:  # fmt: skip
    """A PNG of zeros; ``color`` as in its header."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    if pixels is None:
        pixels = zeros(height * (1 + (width * channels * depth + 7) // 8))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    parts = [_chunk(b"IHDR", header), before, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _png() -> Iterator[Bomb]:
    for name, color, depth in (("rgba", 6, 8), ("rgb", 2, 8), ("grey16", 0, 16), ("bit", 0, 1)):
        yield f"{name} 13000.png", png(13000, 13000, color, depth)
    yield "palette.png", png(13000, 13000, 3, before=_chunk(b"PLTE", bytes(768)))
    yield "interlaced.png", png(12000, 12000, interlaced=1)
    yield "wide.png", png(150_000_000, 1, 0)
    yield "high.png", png(1, 60_000_000, 0)
    yield "largest.png", png(2**31 - 1, 2**31 - 1, pixels=zeros(1000))
    text = zeros(256 * 2**20)
    small = Image.new("RGB", (64, 48))
    body = encoded(small, "PNG")[33:]
    head = encoded(small, "PNG")[:33]
    yield "ztxt.png", head + _chunk(b"zTXt", b"a\0\0" + text) + body
    yield "itxt.png", head + _chunk(b"iTXt", b"a\0\1\0\0\0" + text) + body
    yield "iccp.png", head + _chunk(b"iCCP", b"a\0\0" + text) + body
    yield "many texts.png", head + _chunk(b"tEXt", b"a\0b") * 200_000 + body
    frame = zeros(6000 * (1 + 6000 * 4))
    control = struct.pack(">IIIIIHHBB", 0, 6000, 6000, 0, 0, 1, 10, 0, 0)
    first = _chunk(b"acTL", struct.pack(">II", 400, 0)) + _chunk(b"fcTL", control)
    more = b"".join(
        _chunk(b"fcTL", struct.pack(">I", 2 * i - 1) + control[4:])
        + _chunk(b"fdAT", struct.pack(">I", 2 * i) + frame)
        for i in range(1, 40)
    )
    whole = png(6000, 6000, 6, before=first, pixels=frame)
    yield "animated.png", whole[:-12] + more + whole[-12:]


def _webp() -> Iterator[Bomb]:
    for side in (8000, 13000, 16383):
        bits = "".join(_low_first(v, n) for v, n in ((side - 1, 14), (side - 1, 14), (0, 7)))
        bits += "".join("101" + _low_first(c, 8) for c in (180, 40, 90, 255)) + "1000"
        yield f"one colour {side}.webp", _riff(b"VP8L", b"\x2f" + _bytes(bits) + b"\0")
    frames = [Image.new("RGB", (3000, 3000), (i, 0, 0)) for i in range(12)]
    yield "animated.webp", encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:],
                                   lossless=True, method=0)  # fmt: skip


def _low_first(value: int, bits: int) -> str:
    return f"{value:0{bits}b}"[::-1]


def _bytes(bits: str) -> bytes:
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def _riff(kind: bytes, data: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def tiff(tags: list[tuple[int, int, int, int]], data: bytes = b"", following: int = 0) -> bytes:
    """A TIFF whose ``data`` begins at byte 8; a tag is number, type, count, value."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    at = 8 + len(data)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", at) + data + directory


def _tiff() -> Iterator[Bomb]:
    def tags(width: int, height: int, bits: int, compression: int, kind: int, size: int) -> list:
        return [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits),
                (259, 3, 1, compression), (262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1),
                (278, 4, 1, height), (279, 4, 1, size), (339, 3, 1, kind)]  # fmt: skip

    for name, bits, kind in (("float", 32, 3), ("grey16", 16, 1), ("grey", 8, 1)):
        data = zeros(13000 * 13000 * bits // 8)
        yield f"{name} 13000.tiff", tiff(tags(13000, 13000, bits, 8, kind, len(data)), data)
    yield "no data.tiff", tiff(tags(60000, 60000, 8, 1, 1, 0))
    yield "largest.tiff", tiff(tags(2**32 - 1, 2**32 - 1, 8, 5, 1, 9), b"\x80" * 9)
    plain = tags(64, 48, 8, 1, 1, 64 * 48)
    yield "circle.tiff", tiff(plain, bytes(64 * 48), following=8 + 64 * 48)
    yield "long tag.tiff", tiff([*plain, (270, 2, 2**31, 8)], bytes(64 * 48))
    page = struct.pack("<H", len(plain)) + b"".join(struct.pack("<HHII", *tag) for tag in plain)
    start, step = 8 + 64 * 48, len(page) + 4
    pages = b"".join(page + struct.pack("<I", start + (i + 1) * step) for i in range(50_000))
    yield "pages.tiff", b"II*\0" + struct.pack("<I", start) + bytes(64 * 48) + pages + bytes(6)


def _gif() -> Iterator[Bomb]:
    for side, frames in ((13000, 20), (4000, 300), (64, 60_000)):
        buffer = io.BytesIO()
        Image.new("P", (side, side), 1).save(buffer, "GIF")
        data = buffer.getvalue()
        start = 13 + (3 << (data[10] & 7) + 1) * (data[10] >> 7)
        body = data[start:-1]
        frames = min(frames, 8 * 2**20 // len(body) + 1)
        yield f"{frames} of {side}.gif", data[:start] + body * frames + b";"
    yield "screen.gif", b"GIF89a\xff\xff\xff\xff\0\0\0" + data[start:-1] + b";"


def _jpeg() -> Iterator[Bomb]:
    data = bytearray(encoded(Image.new("RGB", (64, 64)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    for height, width in ((65000, 65000), (13000, 13000), (0, 65535)):
        data[at : at + 4] = struct.pack(">HH", height, width)
        yield f"claims {width}x{height}.jpeg", bytes(data)
    side = 2000
    whole = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    first = whole.index(b"\xff\xda")
    scan = whole[first : whole.index(b"\xff", first + 12)]
    yield "1500 scans.jpeg", whole[:first] + scan * 1500 + b"\xff\xd9"
    small = encoded(Image.new("RGB", (64, 48)), "JPEG")
    profile = b"\xff\xe2" + struct.pack(">H", 65535) + b"ICC_PROFILE\0\1\1" + bytes(65519)
    yield "profiles.jpeg", small[:2] + profile * 100 + small[2:]
    ending = small[:2] + b"\xff\xfe\0\2" * 2_000_000 + small[2:]
    yield "empty comments.jpeg", ending
    jp2 = bytearray(encoded(Image.new("RGB", (64, 48)), "JPEG2000"))
    size, header = jp2.index(b"\xff\x51") + 6, jp2.find(b"ihdr") + 4
    for side in (60000, 2**31 - 1):
        jp2[size : size + 8] = struct.pack(">II", side, side)
        jp2[header : header + 8] = struct.pack(">II", side, side)
        yield f"claims {side}.jp2", bytes(jp2)


def _plain() -> Iterator[Bomb]:
    for kind in ("P4", "P5", "P6", "Pf"):
        yield f"claims.{kind}", f"{kind}\n100000 100000\n255\n".encode() + bytes(1000)
    yield "text.ppm", b"P3\n9000 9000\n255\n" + b"0 " * 2_000_000
    yield "comment.ppm", b"P6\n#" + b"x" * 4_000_000 + b"\n1 1\n255\n\0\0\0"
    side = 30000
    head = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024)
    info = struct.pack("<IiiHHIIiiII", 40, side, -side, 1, 8, 1, 0, 0, 0, 256, 0)
    yield "rle.bmp", head + info + bytes(1024) + b"\xff\0" * 100_000 + b"\0\1"
    yield "claims.bmp", head + info.replace(b"\1\0\0\0\0", b"\0\0\0\0\0", 1) + bytes(1024)
    yield (
        "rle.tga",
        struct.pack("<BBBHHBHHHHBB", 0, 0, 10, 0, 0, 0, 0, 0, 65535, 65535, 24, 0)
        + (b"\xff\0\0\0" * 100_000),
    )
    yield (
        "claims.dds",
        b"DDS "
        + struct.pack("<7I", 124, 0x1007, 60000, 60000, 0, 0, 0)
        + (bytes(44) + struct.pack("<II4s5I", 32, 4, b"DXT1", 0, 0, 0, 0, 0) + bytes(20)),
    )


def _wrapped() -> Iterator[Bomb]:
    """Pictures in containers of pictures."""
    inner = png(13000, 13000, 6)
    entry = struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, len(inner), 22)
    yield "png.ico", struct.pack("<HHH", 0, 1, 1) + entry + inner
    part = b"ic10" + struct.pack(">I", 8 + len(inner)) + inner
    yield "png.icns", b"icns" + struct.pack(">I", 8 + len(part)) + part
    try:
        avif = bytearray(encoded(Image.new("RGB", (64, 48)), "AVIF"))
    except (KeyError, OSError):
        return
    at = avif.index(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", 65000, 65000)
    yield "claims.avif", bytes(avif)


def box(kind: bytes, *data: bytes) -> bytes:
    """A box of MP4."""
    body = b"".join(data)
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind: bytes, *data: bytes) -> bytes:
    return box(kind, bytes(4), *data)


def _words(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


_UNIT = _words(1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def _track(number: int, samples: int, side: int, scale: int, rows: int) -> bytes:
    entry = box(b"mp4v", bytes(6), b"\0\1", bytes(16), struct.pack(">HH", side, side),
                _words(72 << 16, 72 << 16, 0), b"\0\1", bytes(32), b"\0\x18\xff\xff")  # fmt: skip
    times = _full(b"stts", _words(rows), _words(samples // rows, 1) * rows)
    tables = box(b"stbl", _full(b"stsd", _words(1), entry), times,
                 _full(b"stsc", _words(1, 1, samples, 1)), _full(b"stsz", _words(1, samples)),
                 _full(b"stco", _words(1, 0)))  # fmt: skip
    media = box(b"mdia", _full(b"mdhd", _words(0, 0, scale, samples, 0)),
                _full(b"hdlr", _words(0), b"vide", bytes(13)),
                box(b"minf", _full(b"vmhd", bytes(8)),
                    box(b"dinf", _full(b"dref", _words(1), _full(b"url "))), tables))  # fmt: skip
    head = _full(b"tkhd", _words(0, 0, number, 0, samples, 0, 0, 0, 0), _UNIT,
                 _words(side << 16, side << 16))  # fmt: skip
    return box(b"trak", head, media)


def mp4(tracks: int = 1, samples: int = 1000, side: int = 64, scale: int = 1000, rows: int = 1,
        inside: bytes = b"") -> bytes:  # fmt: skip
    """Tracks whose tables claim so many samples of one byte."""
    movie = _full(b"mvhd", _words(0, 0, scale, samples, 1 << 16), bytes(12), _UNIT, bytes(24),
                  _words(tracks + 1))  # fmt: skip
    all_of = [_track(n + 1, samples, side, scale, rows) for n in range(tracks)]
    head = box(b"ftyp", b"isom", _words(512), b"isommp42")
    return head + box(b"moov", movie, *all_of, inside) + box(b"mdat", bytes(64))


def _mp4() -> Iterator[Bomb]:
    for tracks, samples in ((1, 10**7), (10, 10**7), (60, 10**7), (1, 2**32 - 1), (5000, 10)):
        yield f"{tracks} tracks of {samples}.mp4", mp4(tracks, samples)
    yield "side.mp4", mp4(side=65535)
    yield "clock.mp4", mp4(samples=2**31, scale=1)
    yield "rows.mp4", mp4(samples=300_000, rows=300_000)
    nested = b""
    for _ in range(20_000):
        nested = struct.pack(">I", 8 + len(nested)) + b"udta" + nested
    yield "nested.mp4", mp4(inside=nested)
    yield "boxes.mp4", mp4() + box(b"free") * 500_000
    yield "fragments.mp4", mp4() + box(b"moof", _full(b"mfhd", _words(1))) * 100_000
    yield "long box.mp4", mp4()[:-72] + struct.pack(">I4sQ", 1, b"mdat", 2**63)


def _element(name: str, data: bytes) -> bytes:
    """An element of Matroska, its size in eight bytes."""
    return bytes.fromhex(name) + b"\x01" + len(data).to_bytes(7, "big") + data


def _mkv() -> Iterator[Bomb]:
    start = _element("1A45DFA3", _element("4282", b"matroska"))
    empty = {"void": ("ec80", 4), "tags": ("1254c36780", 1), "clusters": ("1f43b67580", 1)}
    for name, (element, millions) in empty.items():
        yield f"{name}.mkv", start + _element("18538067", bytes.fromhex(element) * millions * 10**6)
    for side in (65535, 2**31 - 1):
        video = _element("B0", _words(side)) + _element("BA", _words(side))
        entry = (
            _element("D7", b"\1")
            + _element("83", b"\1")
            + _element("86", b"V_UNCOMPRESSED")
            + _element("E0", video)
        )
        block = _element(
            "1F43B675", _element("E7", b"\0") + _element("A3", b"\x81\0\0\x80" + bytes(99))
        )
        tracks = _element("1654AE6B", _element("AE", entry))
        yield f"side {side}.mkv", start + _element("18538067", tracks + block)
    nested = b""
    for _ in range(3000):
        nested = _element("67C8", nested)
    yield "nested.mkv", start + _element("18538067", _element("1254C367", nested))


def _streams() -> Iterator[Bomb]:
    for width in (60000, 10**9):
        yield (
            f"claims {width}.y4m",
            f"YUV4MPEG2 W{width} H{width} F30:1\nFRAME\n".encode() + bytes(99),
        )
    packet = b"\x47\x40\0\x10\0" + bytes(183)
    yield "empty.ts", packet * 40_000
    dice = np.random.default_rng(0)
    packets = (
        bytes([0x47, 0x40 | pid >> 8, pid & 255, 0x10]) + dice.bytes(184) for pid in range(8191)
    )
    yield "8191 streams.ts", b"".join(packets)
    yield "tags.flv", b"FLV\1\5\0\0\0\x09\0\0\0\0" + (b"\x09" + bytes(10) + _words(11)) * 200_000
    head = b"RIFF\xff\xff\xff\x7fAVI LIST" + struct.pack("<I", 4) + b"hdrl"
    yield "claims.avi", head + b"LIST" + struct.pack("<I", 4) + b"movi" + b"00dc\0\0\0\0" * 500_000
    yield "headers.mpg", b"\0\0\1\xb3\xff\xff\xff\x13\xff\xff\xe0\x18" * 300_000
