"""What options ask for, looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from sage_cli.options.draft import check_vocab
from sage_cli.options.shared import RunOptions
from sage_cli.render.outputs import check_not_input, check_writable
from sage_core.errors import OptionError

__all__ = ["check"]


def check(options: RunOptions, *, several: bool, inputs: Sequence[str] = ()) -> str:
    """Refuse what cannot work before anything is loaded; returns the policy to use.

    ``inputs`` are names of files that are read, which no result may be written over.

    Raises:
        OptionError: options that contradict each other, or that nothing answers to.
    """
    from sage_core.drafts.ngram import as_ngram, is_lookup
    from sage_core.generation.lossy import as_lossy, check_lossy
    from sage_core.generation.sampling_params import SamplingParams, check_candidates, check_viskip
    from sage_core.media.types import Sampling
    from sage_core.trees import policies

    if options.json and options.jsonl:
        raise OptionError("--json and --jsonl exclude each other")
    if options.repetition_penalty is not None and not 0 < options.repetition_penalty < float("inf"):
        raise OptionError("--repetition-penalty must be a positive number")
    SamplingParams(options.sample, options.temperature, options.top_p, options.top_k, options.min_p)
    Sampling(options.frames, options.fps, options.start, options.end, options.max_pixels)
    _check_inputs(options, inputs)
    if options.output is not None:
        check_writable(options.output, "--output")
    if options.save_view is not None:
        from sage_cli.render.page import check_view_path

        check_view_path(options.save_view)
        if several:
            raise OptionError("--save-view keeps one result: one file at a time, no conversation")
        if options.output is not None and options.output.resolve() == options.save_view.resolve():
            raise OptionError("--output and --save-view name the same file")
    drafts = options.draft != "none" or options.draft_lookup
    default = "sage" if drafts else "autoregressive"
    policy = policies.parse(options.policy if options.policy is not None else default)
    if options.policy is not None and policy.drafts and not drafts:
        raise OptionError(
            f"--policy {policy.name} needs drafts: leave out --draft none, or add --draft-lookup"
        )
    if is_lookup(options.draft):
        as_ngram(options.draft)
    if not policy.drafts and (options.draft_lookup or is_lookup(options.draft)):
        raise OptionError(
            f"--policy {policy.name} verifies no drafts: leave out --draft ngram and "
            "--draft-lookup, or name another policy"
        )
    check_vocab(options.draft_vocab, options.draft, drafts=policy.drafts)
    lookup = options.draft_lookup or is_lookup(options.draft)
    check_candidates(options.candidates, policy, lookup=lookup)
    model = options.draft != "none" and not is_lookup(options.draft)
    check_viskip(options.viskip, policy, model=model)
    if options.lossy is not None:
        check_lossy(as_lossy(options.lossy), policy, options.candidates)
    return policies.spec(policy)


def _check_inputs(options: RunOptions, inputs: Sequence[str]) -> None:
    lists = [one for one in (options.files_from, options.draft_vocab) if one is not None]
    for path, option in ((options.output, "--output"), (options.save_view, "--save-view")):
        if path is not None:
            check_not_input(path, option, [*inputs, *lists])
