"""``sage distill``: loads the target, runs the training or its dry run, prints the report."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sage_cli import signals, version
from sage_cli.console import (
    Progress,
    clean,
    error_console,
    is_terminal,
    say,
    set_verbosity,
    with_progress,
)
from sage_cli.exit_codes import ExitCode
from sage_cli.options.distill import DistillFlags, distill_options

if TYPE_CHECKING:
    from sage_core.distill.dry_run import DryRun
    from sage_core.distill.report import Report
    from sage_core.distill.trainer import Event, OnEvent
    from sage_core.pair_loading import LoadedPair

__all__ = ["run"]

_LINE_EVERY = 30.0
"""Seconds between lines of progress where standard error is no terminal."""


def run(options: DistillFlags, training: Any, shared: Any) -> ExitCode:
    """Train, measure and report; with ``dry_run`` measure one step and report.

    Raises:
        SageError, OSError: as `sage_core.distill.run.distill` and `dry_run`.
    """
    chosen = distill_options(training, shared)
    set_verbosity(shared.verbose)
    from sage_core.distill import process_group
    from sage_core.distill.data import read_samples
    from sage_core.distill.state import check_output

    main = process_group.is_main_process()  # the others print nothing
    if not main:
        shared = replace(shared, quiet=True)
    if shared.device == "auto":
        shared = replace(shared, device=process_group.local_device())
    if not options.resume:
        check_output(options.output)
    samples = read_samples(options.data, say if main else lambda note: None)
    pair = _load(options, shared)
    if options.dry_run:
        from sage_core.distill.dry_run import dry_run

        measured = dry_run(pair, samples, chosen, lambda event: say(event.note) if main else None)
        if main:
            _print(measured, _dry_run_tables(measured), as_json=options.json)
        return ExitCode.OK
    from sage_core.distill.run import distill

    with signals.raised_inside(), _progress(quiet=shared.quiet) as on_event:
        report = distill(
            pair,
            samples,
            options.output,
            chosen,
            on_event,
            resume=options.resume,
            tensorboard=options.log == "tensorboard",
        )
    if report is not None:
        _print(report, _report_tables(report), as_json=options.json)
    if not shared.quiet:
        say(f"the draft is in {options.output}: use it with --draft {options.output}")
    return ExitCode.OK


def _load(options: DistillFlags, shared: Any) -> LoadedPair:
    """The target with its previous draft."""

    def load(progress: Progress) -> LoadedPair:
        from sage_core.pair_loading import load_pair

        return load_pair(
            options.target,
            None if options.compare == "none" else options.compare,
            shared.device,
            shared.dtype,
            progress,
            quantization=shared.quantization,
            revision=shared.revision,
            draft_revision=shared.draft_revision,
            trust_remote_code=shared.trust_remote_code,
        )

    return with_progress(load, quiet=shared.quiet)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[OnEvent]:
    """Shows events on standard error: a bar on a terminal, else a line from time to time."""
    if quiet:
        yield lambda event: say(event.note) if event.note else None
        return
    if not is_terminal(sys.stderr):
        yield _Lines()
        return
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Bar(*columns, console=error_console(), transient=True) as bar:
        task = bar.add_task("training", total=1.0)
        tau = ""

        def show(event: Event) -> None:
            nonlocal tau
            if event.note:
                bar.console.print(f"sage: {clean(event.note, keep='')}", markup=False)
            if "tau" in event.values:
                tau = f"  {_tau(event)}"
                bar.console.print(f"sage: step {event.step}: {_tau(event)}", markup=False)
            if event.values:
                bar.update(task, description=_line(event) + tau, completed=min(1.0, event.done))

        yield show


class _Lines:
    """A line for each note and each evaluation, and one every `_LINE_EVERY` seconds."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        if event.note:
            say(event.note)
        if "tau" in event.values:
            say(f"{_line(event)}  {_tau(event)}")
            self._last = event.seconds
        elif event.values and event.seconds - self._last >= _LINE_EVERY:
            say(_line(event))
            self._last = event.seconds


def _line(event: Event) -> str:
    values = event.values
    speed = values.get("tokens_per_second", 0.0)
    return f"step {event.step}  loss {values.get('loss', 0.0):.3f}  {speed:.0f} tokens/s"


def _tau(event: Event) -> str:
    depths = [share for name, share in event.values.items() if name.startswith("tau/")]
    return f"τ {event.values['tau']:.2f} ({' '.join(f'{share:.2f}' for share in depths)})"


_Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Titles and rows."""


def _print(result: Report | DryRun, tables: Sequence[_Table], *, as_json: bool) -> None:
    from sage_cli.render.jsonout import SCHEMA
    from sage_cli.render.tables import print_json, print_table

    if as_json:
        document: Mapping[str, Any] = {"schema": SCHEMA, "sage": version(), **result.as_json()}
        print_json(document)
        return
    for titles, rows in tables:
        print_table(titles, rows)


def _dry_run_tables(found: DryRun) -> list[_Table]:
    from sage_cli.render.stats import size

    answer = "given" if not found.answer_seconds else f"{found.answer_seconds:.3g} s, once a sample"
    rows = [
        ("target", f"{found.target} on {found.device}"),
        ("draft", f"{found.kind}: {found.parameters / 1e6:,.2f} M weights trained"),
        ("training samples", f"{found.samples:,}"),
        (f"longest of {found.measured}", found.sample),
        ("its prompt", f"{found.prompt_tokens:,} tokens, {found.visual_tokens:,} of them visual"),
        ("its answer", f"{found.answer_tokens:,} tokens"),
        ("peak memory", size(found.peak_memory)),
        ("writing the answer", answer),
        (f"a step of {found.batch} such samples", f"{found.step_seconds:.3g} s"),
        (
            "the run, if all are as long",
            f"{found.steps:,} steps in {found.seconds / 60:,.3g} minutes",
        ),
    ]
    return [(("", ""), rows)]


def _report_tables(report: Report) -> list[_Table]:
    from sage_cli.render.stats import size

    rows = [
        ("target", report.target),
        ("kind", report.kind),
        ("trained", f"{report.steps} steps, {report.seconds / 60:.1f} minutes"),
        ("size", f"{report.parameters / 1e6:.2f} M weights trained, {size(report.bytes)} on disk"),
        ("τ on held-out samples", f"{report.tau:.2f} (bonus token not counted)"),
        ("accepted by depth", " ".join(f"{share:.2f}" for share in report.by_depth)),
        ("target's token by rank", " ".join(f"{share:.2f}" for share in report.by_rank)),
    ]
    if report.kind != "model":
        nodes = report.acceptance_nodes
        fitted = f"fitted to {nodes} nodes" if nodes else "not fitted: too few held-out texts"
        rows.append(("acceptance predictor", fitted))
    base = next((s.tokens_per_second for s in report.speeds if s.draft == "none"), 0.0)
    speeds = []
    for speed in report.speeds:
        ratio = speed.tokens_per_second / base if base else 0.0
        rate = f"{speed.tokens_per_second:.0f}"
        accepted = f"{speed.mean_accepted:.2f}" if speed.draft != "none" else ""
        speeds.append((speed.draft, speed.policy, rate, f"{ratio:.2f}×", accepted))
    titles = ("draft", "policy", "tokens/s", "speed-up", "τ")
    return [(("", ""), rows), (titles, speeds)]
