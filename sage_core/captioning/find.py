"""The images and videos in a folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from sage_core.errors import InputError

__all__ = ["Finder", "Found", "natural_key"]

_IMAGES = (
    "apng avif bmp dds dib gif heic heif hif icns ico j2k jfif jp2 jpe jpeg jpf jpg jpx jxl pbm "
    "pcx pgm png pnm ppm qoi sgi tga tif tiff webp xbm"
)
_VIDEOS = (
    "264 265 3g2 3gp asf avi divx dv f4v flv h264 h265 hevc ivf m1v m2ts m2v m4v mj2 mjpeg mjpg "
    "mkv mov mp4 mpeg mpg mts mxf ogv qt rm rmvb ts vob webm wmv y4m"
)
SUFFIXES = frozenset(f".{name}" for names in (_IMAGES, _VIDEOS) for name in names.split())
"""What is taken from a folder without ``include``. Opening every file to find out would read all
of a large folder; whether a file is what its name says is found when it is opened."""


@dataclass(frozen=True)
class Found:
    """A file: its ``path``, and its path below the folder that was searched."""

    path: str
    relative: str


@dataclass(frozen=True)
class Finder:
    """Finds files in folders, in natural order (``2.jpg`` before ``10.jpg``).

    Hidden files and folders, whose names begin with a dot, are left out. Links are followed; a
    folder that was entered before, as in a loop of links, is not entered again.

    Args:
        recursive: search folders inside.
        include: patterns as ``*.jpg`` or ``2024/*``: only files whose name, or path below the
            folder, matches one. Without any: files with a known suffix.
        exclude: patterns of files and folders that are left out.
    """

    recursive: bool = False
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    """Numbers of files and folders that were left out, by reason."""

    def find(self, folder: str) -> Iterator[Found]:
        """The files in ``folder``.

        Raises:
            InputError: it cannot be read.
        """
        yield from self._walk(folder, "", {_identity(folder)})

    def _walk(self, folder: str, below: str, entered: set[tuple[int, int]]) -> Iterator[Found]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: natural_key(entry.name))
        except OSError as error:
            if not below:
                raise InputError(f"{folder}: {error.strerror}") from error
            self.skipped["folders that cannot be read"] += 1
            return
        folders = []
        for entry in entries:
            relative = f"{below}{entry.name}"
            if _is_folder(entry):
                if self._enters(entry, relative):
                    folders.append((entry.path, relative))
            elif self._takes(entry, relative):
                yield Found(entry.path, relative)
        for path, relative in folders:
            try:
                identity = _identity(path)
            except InputError:
                self.skipped["folders that cannot be read"] += 1
                continue
            if identity in entered:
                self.skipped["folders that were searched already"] += 1
                continue
            entered.add(identity)
            yield from self._walk(path, f"{relative}/", entered)

    def _enters(self, entry: os.DirEntry[str], relative: str) -> bool:
        if entry.name.startswith("."):
            self.skipped["hidden folders"] += 1
        elif _matches(relative, self.exclude):
            self.skipped["excluded folders"] += 1
        elif not self.recursive:
            self.skipped["folders inside (use --recursive)"] += 1
        else:
            return True
        return False

    def _takes(self, entry: os.DirEntry[str], relative: str) -> bool:
        if entry.name.startswith("."):
            self.skipped["hidden files"] += 1
        elif _matches(relative, self.exclude):
            self.skipped["excluded files"] += 1
        elif self.include and not _matches(relative, self.include):
            self.skipped["files that are not included"] += 1
        elif not self.include and Path(entry.name).suffix.lower() not in SUFFIXES:
            self.skipped["files of other kinds"] += 1
        else:
            return True
        return False


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Orders names by the values of the numbers in them; letters regardless of their case."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    key = [(0, int(one), "") if one.isdecimal() else (1, 0, one.casefold()) for one in parts]
    return (*key, (-1, 0, name))


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    name = relative.rpartition("/")[2]
    return any(fnmatchcase(name, one) or fnmatchcase(relative, one) for one in patterns)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed: reported as the file that it is not
        return False


def _identity(folder: str) -> tuple[int, int]:
    try:
        found = Path(folder).stat()
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error
    return found.st_dev, found.st_ino
