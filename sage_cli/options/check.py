"""What options ask for, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from sage_cli.options.decoding import AUTO
from sage_cli.options.shared import RunOptions
from sage_cli.render.outputs import check_not_input, check_writable
from sage_core.errors import OptionError

__all__ = ["check", "check_vocab"]

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
    _check_decoding(options)


def _check_files(options: RunOptions, several: bool, inputs: Sequence[str]) -> None:
    output, view = options.output, options.save_view
    lists = [name for name in (options.files_from, options.draft_vocab) if name is not None]
    for path, option in ((output, "--output"), (view, "--save-view")):
        if path is not None:
            check_not_input(path, option, [*inputs, *lists])
            check_writable(path, option)
    if view is not None and view.suffix.lower() not in _VIEWS:
        raise OptionError(f"--save-view {view}: the name must end in .svg or .html")
    if view is not None and several:
        raise OptionError("--save-view keeps one result: one file at a time, no conversation")
    if output is not None and view is not None and output.resolve() == view.resolve():
        raise OptionError("--output and --save-view name the same file")


def _check_decoding(options: RunOptions) -> None:
    from sage_core.drafts.ngram import as_ngram, is_lookup
    from sage_core.generation.lossy import as_lossy, check_lossy
    from sage_core.generation.sampling_params import check_candidates, check_viskip
    from sage_core.options import Options
    from sage_core.trees import policies

    Options(**options.decoding())
    if is_lookup(options.draft):
        as_ngram(options.draft)
    model = options.draft != "none" and not is_lookup(options.draft)
    lookup = options.draft_lookup or is_lookup(options.draft)
    default = "sage" if model or lookup else "autoregressive"
    policy = policies.parse(options.policy or default)
    if policy.drafts and not (model or lookup):
        raise OptionError(
            f"--policy {policy.name} needs drafts: leave out --draft none, or add --draft-lookup"
        )
    if lookup and not policy.drafts:
        raise OptionError(
            f"--policy {policy.name} verifies no drafts: leave out --draft ngram and "
            "--draft-lookup, or choose another policy"
        )
    check_vocab(options.draft_vocab, options.draft if policy.drafts else "none")
    check_candidates(options.candidates, policy, lookup=lookup)
    check_viskip(options.viskip, policy, model=model)
    if options.lossy is not None:
        check_lossy(as_lossy(options.lossy), policy, options.candidates)


def check_vocab(vocab: str | None, draft: str) -> None:
    """Refuse a ``--draft-vocab`` that makes no sense, or without a draft model.

    Raises:
        OptionError: it is one of these.
    """
    from sage_core.drafts.ngram import is_lookup
    from sage_core.drafts.vocab.token_list import as_asked

    as_asked(vocab)
    if vocab is not None and (draft == "none" or is_lookup(draft)):
        raise OptionError("--draft-vocab needs a draft model, and none is used: leave it out")
