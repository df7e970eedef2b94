"""The options for captioning many files: which ones, and where the results go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from sage_cli.options import flags

__all__ = ["FolderOptions"]

_setting = partial(flags.setting, flags.FOLDERS)
_once = partial(flags.once, flags.FOLDERS)


def _shard(text: str) -> str:
    """``I/N``, with I from 1 to N."""
    part, _, parts = str(text).partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise typer.BadParameter(f"{text!r} is not I/N with I from 1 to N")
    return text


@dataclass(frozen=True)
class FolderOptions:
    """Which files of folders are captioned, what is skipped, and what is written."""

    recursive: Annotated[bool, _setting("Search folders inside folders.", "--recursive", "-r")] = (
        False
    )
    sidecar: Annotated[
        Literal["txt", "json", "xmp", "srt", "vtt"] | None,
        _setting(
            "Write each text to NAME.txt, NAME.json or NAME.xmp beside its file, as soon as it is "
            "done; or a video's segments to NAME.srt or NAME.vtt.",
            metavar="txt|json|xmp|srt|vtt",
        ),
    ] = None
    output_dir: Annotated[
        Path | None,
        _once(
            "Write sidecars below DIR, with the structure of the folders that are searched.",
            metavar="DIR",
        ),
    ] = None
    existing: Annotated[
        Literal["skip", "overwrite", "append"],
        _setting(
            "A file that has its sidecar: skip it, overwrite the sidecar, or append to it (txt).",
            metavar="skip|overwrite|append",
        ),
    ] = "skip"
    resume: Annotated[
        bool,
        _once(
            "Append to the --output of an earlier run (with --jsonl), and skip what it has "
            "finished with the same model, prompt and options."
        ),
    ] = False
    limit: Annotated[
        int | None, _once("Caption at most N files that are not done.", min=1, metavar="N")
    ] = None
    dry_run: Annotated[
        bool,
        _once(
            "List what would be done and write nothing; caption up to three files to estimate the "
            "time."
        ),
    ] = False
    include: Annotated[
        list[str] | None,
        _once(
            "Only files whose name, or path below the folder, matches GLOB. May be repeated.",
            metavar="GLOB",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        _once("Leave out files and folders that match GLOB. May be repeated.", metavar="GLOB"),
    ] = None
    captions: Annotated[
        int,
        _setting(
            "Texts for each file: N > 1 samples them, with seeds that count from --seed.",
            min=1,
            metavar="N",
        ),
    ] = 1
    export: Annotated[
        list[Path] | None,
        _once(
            "Also write all results to FILE at the end: *.csv, *.parquet, or metadata.jsonl for "
            "Hugging Face's ImageFolder. May be repeated.",
            metavar="FILE",
        ),
    ] = None
    failures: Annotated[
        Path | None,
        _once("Write the failed files and why to FILE, a JSON object per line.", metavar="FILE"),
    ] = None
    shard: Annotated[
        str | None,
        _once(
            "Do part I of N, by the files' names: parts never overlap and together are all files.",
            parser=_shard,
            metavar="I/N",
        ),
    ] = None
    column: Annotated[
        str | None,
        _once(
            "Column of images in Parquet and Arrow files; their rows are captioned like files.",
            metavar="NAME",
            show_default="the first one of bytes",
        ),
    ] = None
    content_keys: Annotated[
        bool,
        _setting(
            "Recognize finished files by their content, not by path, size and time: also after "
            "they were moved. Reads every file."
        ),
    ] = False
    language: Annotated[
        str | None,
        _setting("Language of the texts in XMP sidecars, a tag such as 'de'.", metavar="TAG"),
    ] = None

    @property
    def bulk(self) -> bool:
        """Whether results go elsewhere than to one output of the shell."""
        return bool(
            self.sidecar or self.resume or self.export or self.shard or self.dry_run or self.limit
        )
