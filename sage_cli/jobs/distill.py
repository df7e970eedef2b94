"""From the options of ``sage distill`` to a trained draft: progress, notes, and the report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from sage_cli import version
from sage_cli.console import clean, error_console, is_terminal, loading_progress, say, set_verbosity
from sage_cli.exit_codes import ExitCode
from sage_cli.options.distill import DistillFlags

if TYPE_CHECKING:
    from sage_core.distill.options import DistillOptions
    from sage_core.distill.report import Report
    from sage_core.distill.trainer import Event, Tell
    from sage_core.pair_loading import LoadedPair

__all__ = ["run", "run_options"]

_TELL_EVERY = 30.0
"""Seconds between lines of progress where there is no terminal."""


def run(options: DistillFlags, shared: Any) -> ExitCode:
    """Train, measure, report; or tell what that would take.

    Raises:
        SageError, OSError: as `sage_core.distill.run.distill`.
    """
    if options.dry_run:
        from sage_cli.jobs.distill_plan import run as plan

        return plan(options, shared)
    from sage_core.distill import process_group as crew
    from sage_core.distill.found import find
    from sage_core.distill.trainer import Event

    if not crew.leads():  # the one that does tells for all
        shared = replace(shared, quiet=True)
    if shared.device == "auto":
        shared = replace(shared, device=crew.own_device())
    chosen = run_options(options, shared)
    set_verbosity(shared.verbose)
    found = find(options.data, options.output, resume=options.resume)
    pair = _load(options, shared)
    from sage_core.distill.run import distill

    with _progress(quiet=shared.quiet) as tell:
        tell(Event(0, 0.0, note=pair.note) if pair.note and not shared.quiet else Event(0, 0.0))
        report = distill(
            pair,
            found,
            options.output,
            chosen,
            tell,
            resume=options.resume,
            tensorboard=options.log == "tensorboard",
        )
    if report is not None:
        _print(report, as_json=options.json)
    if not shared.quiet:
        say(f"the draft is in {options.output}: use it with --draft {options.output}")
    return ExitCode.OK


def run_options(options: DistillFlags, shared: Any, **more: Any) -> DistillOptions:
    """The options of the run among all that were given, and ``more``.

    Raises:
        OptionError: see `DistillOptions`.
    """
    from sage_core.distill.options import DistillOptions

    every = {**vars(options), **vars(shared), **more}
    names = {field.name for field in fields(DistillOptions)}
    return DistillOptions(**{name: value for name, value in every.items() if name in names})


def _load(options: DistillFlags, shared: Any) -> LoadedPair:
    """The target with the draft it had so far."""
    with loading_progress(is_terminal(sys.stderr) and not shared.quiet) as progress:
        progress("starting", 0.0)
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


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Tell]:
    """What is told goes to standard error: a bar on a terminal, else a line now and then."""
    if quiet:
        yield lambda event: say(event.note) if event.note else None
        return
    if not is_terminal(sys.stderr):
        yield _Lines()
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console(), transient=True) as bar:
        task = bar.add_task("training", total=1.0)
        tau = ""

        def tell(event: Event) -> None:
            nonlocal tau
            if event.note:
                bar.console.print(f"sage: {clean(event.note, keep='')}", markup=False)
            if "tau" in event.values:
                tau = f"  {_tau(event)}"
                bar.console.print(f"sage: step {event.step}: {_tau(event)}", markup=False)
            if event.values:
                bar.update(task, description=_line(event) + tau, completed=min(1.0, event.done))

        yield tell


class _Lines:
    """A line for each note and each look at held-out samples, and one now and then between."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, event: Event) -> None:
        if event.note:
            say(event.note)
        if "tau" in event.values:
            say(f"{_line(event)}  {_tau(event)}")
            self._last = event.seconds
        elif event.values and event.seconds - self._last >= _TELL_EVERY:
            say(_line(event))
            self._last = event.seconds


def _line(event: Event) -> str:
    values = event.values
    speed = values.get("tokens_per_second", 0.0)
    return f"step {event.step}  loss {values.get('loss', 0.0):.3f}  {speed:.0f} tokens/s"


def _tau(event: Event) -> str:
    depths = [share for name, share in event.values.items() if name.startswith("tau/")]
    return f"τ {event.values['tau']:.2f} ({' '.join(f'{share:.2f}' for share in depths)})"


def _print(report: Report, *, as_json: bool) -> None:
    from sage_cli.render.jsonout import SCHEMA
    from sage_cli.render.stats import size
    from sage_cli.render.tables import print_json, print_table

    if as_json:
        print_json({"schema": SCHEMA, "sage": version(), **report.as_json()})
        return
    rows = [
        ("target", report.target),
        ("kind", report.kind),
        ("trained", f"{report.steps} steps, {report.seconds / 60:.1f} minutes"),
        ("size", f"{report.parameters / 1e6:.2f} M weights trained, {size(report.bytes)} on disk"),
        ("τ on held-out samples", f"{report.tau:.2f}"),
        ("accepted by depth", " ".join(f"{share:.2f}" for share in report.by_depth)),
        ("target's choice by rank", " ".join(f"{share:.2f}" for share in report.by_rank)),
    ]
    if report.kind != "model":
        learned = (
            f"from {report.foretold} nodes" if report.foretold else "no: too few texts held out"
        )
        rows.append(("foretells what is accepted", learned))
    print_table(("", ""), rows)
    base = next((s.tokens_per_second for s in report.speeds if s.draft == "none"), 0.0)
    speeds = []
    for speed in report.speeds:
        times = speed.tokens_per_second / base if base else 0.0
        rate = f"{speed.tokens_per_second:.0f}"
        accepted = f"{speed.mean_accepted:.2f}" if speed.draft != "none" else ""
        speeds.append((speed.draft, speed.policy, rate, f"{times:.2f}×", accepted))
    print_table(("draft", "policy", "tokens/s", "against none", "accepted a step"), speeds)
