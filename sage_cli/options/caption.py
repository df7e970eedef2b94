"""All options of ``sage caption``."""

from __future__ import annotations

from dataclasses import dataclass

from sage_cli.options.answer import AnswerOptions
from sage_cli.options.film import FilmOptions
from sage_cli.options.folder import FolderOptions
from sage_cli.options.workers import WorkerOptions

__all__ = ["CaptionOptions"]


# The fields of the last base come first.
@dataclass(frozen=True)
class CaptionOptions(WorkerOptions, AnswerOptions, FilmOptions, FolderOptions):
    """Options of ``sage caption``, as the command line gives them."""
