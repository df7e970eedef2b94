"""What options ask for, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from sage_cli.options.decoding import AUTO
from sage_cli.options.shared import RunOptions
from sage_cli.render.outputs import check_not_input, check_writable
from sage_core.errors import OptionError

__all__ = ["check", "check_decoding"]

_VIEWS = (".svg", ".html")


def check(
    options: RunOptions, *, several: bool, inputs: Sequence[str] = (), batch: str = "1"
) -> None:
    """Refuse what cannot work.

    ``inputs`` are names of files that are read, which no result may be written over; ``batch`` is
    ``--batch`` as given.

    Raises:
        OptionError: options that contradict each other, or values that make no sense.
    """
    if options.json and options.jsonl:
        raise OptionError("--json and --jsonl exclude each other")
    if options.live and several and batch not in ("1", AUTO):
        raise OptionError("--live shows one text at a time: leave out --batch")
    _check_files(options, several, inputs)
    check_decoding(options)


def _check_files(options: RunOptions, several: bool, inputs: Sequence[str]) -> None:
    output, view = options.output, options.save_view
    for path, option in ((output, "--output"), (view, "--save-view")):
        if path is not None:
            check_writable(path, option)
            check_not_input(path, option, [*inputs, *options.reads])
    if view is not None and view.suffix.lower() not in _VIEWS:
        raise OptionError(f"--save-view {view}: the name must end in .svg or .html")
    if view is not None and several:
        raise OptionError("--save-view keeps one result: one file at a time, no conversation")
    if output is not None and view is not None and output.resolve() == view.resolve():
        raise OptionError("--output and --save-view name the same file")


def check_decoding(options: RunOptions) -> None:
    """Refuse decoding options that do not go together, as the decoder would once models are loaded.

    Raises:
        OptionError, UnsupportedError: as `sage_core.engine.extensions.resolve`.
    """
    from sage_core.drafts.ngram import is_lookup
    from sage_core.engine.extensions import resolve
    from sage_core.options import Options

    chosen = Options(**options.decoding())
    lookup = {"lookup": options.draft} if is_lookup(options.draft) else {}
    draft = options.draft != "none" and not lookup
    resolve(chosen.policy, chosen.candidates, {**chosen.extensions, **lookup}, draft=draft)
