"""A text file beside each image or video."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from sage_cli.render.jsonout import dump
from sage_cli.sinks.sink import Record, Sink
from sage_cli.sinks.subtitles import as_subtitles
from sage_cli.streams import OutputError
from sage_core.errors import InputError
from sage_core.files.atomic_write import write_atomically

__all__ = ["Sidecars", "places"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
"""Errors that the next file would have too."""
_OURS = 'x:xmptk="sage"'


def places(files: Sequence[tuple[str, str]], suffix: str, folder: Path | None) -> dict[str, Path]:
    """The sidecar of each file, ``NAME.txt`` beside ``NAME.jpg``, by the file's name.

    Where several files would share one (``a.jpg`` and ``a.mov``), the first has it and the others
    have their suffixes in the name: ``a.mov.txt``.

    Args:
        files: names, and their paths below the folder that was searched.
        suffix: of the sidecars, without a dot.
        folder: instead of beside the files, in the same structure below this.
    """
    taken: set[Path] = set()
    found: dict[str, Path] = {}
    for name, relative in files:
        if name in found:
            continue
        file = Path(name) if folder is None else folder / relative
        path = file.with_suffix(f".{suffix}")
        if path in taken or path == file:
            path = file.with_name(f"{file.name}.{suffix}")
        taken.add(path)
        found[name] = path
    return found


class Sidecars(Sink):
    """Writes each file's sidecar when its last text is there.

    Args:
        kind: ``txt``, ``json``, ``xmp``, ``srt`` or ``vtt``.
        paths: of the sidecars, by the file's name.
        captions: texts of each file.
        append: add to a sidecar that is there, as new lines.
        language: of the texts in XMP, a tag as ``de``.
    """

    def __init__(
        self,
        kind: str,
        paths: Mapping[str, Path],
        *,
        captions: int = 1,
        append: bool = False,
        language: str | None = None,
    ) -> None:
        self._kind = kind
        self._paths = paths
        self._captions = captions
        self._append = append
        self._language = language
        self._records: dict[str, list[Record]] = {}

    def result(self, label: str, record: Record) -> None:
        """Take a record.

        Raises:
            InputError: this sidecar cannot be written.
            OutputError: none can: the disk is full.
        """
        self.failure(label, record)

    def failure(self, label: str, record: Record) -> None:
        name = record["files"][0]
        records = self._records.setdefault(name, [])
        records.append(record)
        if len(records) < self._captions:
            return
        done = [one for one in self._records.pop(name) if "text" in one]
        if done:
            self._write(self._paths[name], done)

    def _write(self, path: Path, records: Sequence[Record]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, self._content(path, records))
        except OSError as error:
            if error.errno in _FULL:
                raise OutputError(error, str(path)) from error
            raise InputError(f"{path}: {error.strerror}: the text is not kept") from error

    def _content(self, path: Path, records: Sequence[Record]) -> str:
        texts = [record["text"] for record in records]
        if self._kind in ("srt", "vtt"):
            return as_subtitles(records[0], self._kind)
        if self._kind == "json":
            return dump(list(records) if self._captions > 1 else dict(records[0]), indent=2) + "\n"
        if self._kind == "xmp":
            if path.exists() and _OURS not in path.read_text(encoding="utf-8", errors="replace"):
                raise InputError(f"{path}: was written by another program, and is left as it is")
            return _xmp("\n".join(texts), self._language)
        if self._captions > 1:  # a line each
            texts = [" ".join(text.split()) for text in texts]
        before = (
            path.read_text(encoding="utf-8", errors="surrogateescape")
            if (self._append and path.exists())
            else ""
        )
        if before and not before.endswith("\n"):
            before += "\n"
        return before + "\n".join(texts) + "\n"


def _xmp(text: str, language: str | None) -> str:
    """An XMP packet with ``dc:description``, and ``dc:language`` if known (XMP part 1, 8.3)."""
    clean = "".join(c for c in text if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff"))
    texts, known = f'<rdf:li xml:lang="x-default">{escape(clean)}</rdf:li>', ""
    if language is not None:
        texts += f"\n    <rdf:li xml:lang={quoteattr(language)}>{escape(clean)}</rdf:li>"
        bag = f"<rdf:Bag><rdf:li>{escape(language)}</rdf:li></rdf:Bag>"
        known = f"\n   <dc:language>{bag}</dc:language>"
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" {_OURS}>
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
   <dc:description><rdf:Alt>
    {texts}
   </rdf:Alt></dc:description>{known}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
"""
