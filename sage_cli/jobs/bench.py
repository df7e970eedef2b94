"""`sage bench`: data, models, measurement, report."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_cli import signals, version
from sage_cli.console import (
    complain,
    display_name,
    is_terminal,
    loading_progress,
    say,
    set_verbosity,
)
from sage_cli.exit_codes import ExitCode, code_of, worst
from sage_cli.options.bench import DEFAULT_COMPARE, BenchOptions
from sage_cli.options.check import check_decoding
from sage_cli.options.shared import RunOptions
from sage_core.errors import OptionError

if TYPE_CHECKING:
    from sage_cli.render.bench_trees import TreeKeeper
    from sage_core.bench.engine import PairEngine
    from sage_core.bench.items import Item, Problem
    from sage_core.bench.measure import Input, Measurement, Method
    from sage_core.bench.methods import Chosen, MethodSpec
    from sage_core.bench.records import Failure
    from sage_core.bench.store import Store

__all__ = ["diff", "load_engine", "read", "run"]

_DEFAULT_ITEMS = 18  # of the bundled ones: a result within minutes on two cores
_CALIBRATION_ITEMS = 4
_CALIBRATION_TOKENS = 96  # new tokens of each at most, because many settings are tried
_MEASURED = ("repeats", "node_budget", "least")
_DECODED = (
    *("max_new_tokens", "repetition_penalty", "draft_lookup", "draft_vocab", "lossy", "viskip"),
    *("draft_pruning", "seed"),
)
"""Options that the report holds as its settings."""


def run(
    names: Sequence[str], prompt: str | None, options: BenchOptions, models: RunOptions
) -> ExitCode:
    """Measure and report; returns the worst exit code of what failed.

    Raises:
        SageError: an error of the whole run, such as an invalid option or a missing model.
    """
    from sage_cli.render.bench_trees import TreeKeeper, chosen_ids
    from sage_core.bench import methods

    _check(options, models)
    sampled = _sampling(models) is not None
    asked = methods.chosen(
        options.compare or DEFAULT_COMPARE,
        options.reference,
        options.node_budget,
        named=options.compare is not None,
        sampled=sampled,
    )
    chosen = asked.methods
    needing = [name for name, method in chosen.items() if method.drafts]
    if models.draft == "none" and needing:
        raise OptionError(f"{', '.join(needing)}: needs a draft: leave out --draft none")
    reference = next(iter(chosen))
    methods.check_lossy(models.lossy, chosen[reference], sampled=sampled)
    calibrates = any(getattr(method, "calibrates", False) for method in chosen.values())
    items, others, problems = read(names, prompt, options.items, calibrates=calibrates)
    shown = chosen_ids(options.trees, [name for item in items for name in item.ids])
    set_verbosity(models.verbose)
    store = _store(options, models, list(chosen), reference, items)
    engine = load_engine(models)
    job = _Job(options, models, engine, asked, store)
    trees = TreeKeeper(engine, shown, options.output)
    with signals.raised_inside():
        job.run(items, others, problems, trees)
    return job.exit_code


def _check(options: BenchOptions, models: RunOptions) -> None:
    """Refuse what cannot work before anything is loaded."""
    if options.json and options.csv:
        raise OptionError("--json and --csv exclude each other")
    check_decoding(replace(models, lossy=None))  # each method has its own acceptance rule


def _sampling(models: RunOptions) -> dict[str, Any] | None:
    """The sampling parameters by their names in `GenerationConfig`; None: greedy decoding."""
    from sage_core.options import Options

    fields = Options(**models.decoding()).sampling_params().generation_fields()
    return fields if fields.pop("do_sample", False) else None


def load_engine(models: RunOptions) -> PairEngine:
    """Load the pair, with progress on a terminal and one line on device and dtype."""
    with loading_progress(is_terminal(sys.stderr) and not models.quiet) as progress:
        progress("starting", 0.0)
        from sage_core.bench.engine import PairEngine
        from sage_core.media import MediaWorker, open_media
        from sage_core.options import Options
        from sage_core.pair_loading import load_pair

        pair = load_pair(**models.loading(), progress=progress)
    if pair.note and not models.quiet:
        say(pair.note)
    opener = partial(open_media, isolate=MediaWorker(models.media_limits()))
    return PairEngine(pair, Options(**models.decoding()), opener)


def read(
    names: Sequence[str], prompt: str | None, count: int | None, *, calibrates: bool
) -> tuple[list[Item], list[Item], list[Problem]]:
    """The items to measure, those to choose settings on, and the data that cannot be used.

    Settings are chosen on bundled items that are never measured. If own data is named, they are
    chosen on those of its items that ``count`` leaves out, or else on the last quarter, at most
    four, which are then not measured; fewer than four items are all measured.

    Args:
        calibrates: whether settings are chosen at all.
    """
    from sage_core.bench.data import bundled_items, calibration_items, read_data

    bundled = calibration_items() if calibrates else []
    if not names:
        return bundled_items(count or _DEFAULT_ITEMS), bundled, []
    items, problems = read_data(names, prompt)
    measured = items[:count]
    if not calibrates:
        return measured, [], problems
    others = items[len(measured) :][:_CALIBRATION_ITEMS]
    if not others and len(items) >= 4:
        held_back = min(_CALIBRATION_ITEMS, len(items) // 4)
        measured, others = measured[:-held_back], measured[-held_back:]
    return measured, others or bundled, problems


def _store(
    options: BenchOptions,
    models: RunOptions,
    methods: list[str],
    reference: str,
    items: list[Item],
) -> Store | None:
    if options.output is None:
        return None
    from sage_core.bench.store import Store

    decoding = asdict(models)
    for name in ("quiet", "verbose", "config"):
        decoding.pop(name)
    text = repr([(i.id, i.prompts, i.history, repr(i.source)) for i in items])
    plan = {
        "schema": 1,
        "methods": methods,
        "reference": reference,
        "repeats": options.repeats,
        "items": len(items),
        "data": hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest(),
        "decoding": decoding,
    }
    store = Store(options.output, plan)
    if store.resumed and not models.quiet:
        say(f"resuming the run in {display_name(str(options.output))}")
    return store


@dataclass
class _Job:
    """One benchmark, with what stays the same while it runs."""

    options: BenchOptions
    models: RunOptions
    engine: PairEngine
    asked: Chosen
    store: Store | None
    problems: list[dict[str, str]] = field(default_factory=list)
    codes: list[ExitCode] = field(default_factory=list)
    others: list[Input] = field(default_factory=list)

    def __post_init__(self) -> None:
        from sage_core.bench.environment import describe

        self.environment = describe(shlex.join(["sage", *sys.argv[1:]]), version())
        self.chosen = dict(self.asked.methods)
        self.reference = next(iter(self.chosen))
        self.calibration = self.store.calibration if self.store is not None else {}

    @property
    def exit_code(self) -> ExitCode:
        return worst(self.codes)

    def run(
        self,
        items: list[Item],
        others: list[Item],
        problems: list[Problem],
        trees: TreeKeeper,
    ) -> None:
        """Measure and report; after an exception, report what there is."""
        from sage_core.bench.measure import Measurement, Plan

        self.problems = [asdict(problem) for problem in problems]
        for problem in problems:
            say(f"{display_name(problem.where)}: {problem.message}")
            self.codes.append(ExitCode.INPUT)
        if not items:
            raise OptionError("no items to measure")
        methods = self._methods(others)
        plan = Plan(tuple(items), methods, self.reference, self.options.repeats)
        results = self.store.results if self.store is not None else None
        measurement = Measurement(plan, self.engine, results, on_record=trees.add)
        try:
            self._measure(measurement, plan.total)
        finally:
            if measurement.results.records or measurement.results.failures:
                self._report(measurement, trees)
            if self.store is not None:
                self.store.close()

    def _methods(self, others: list[Item]) -> tuple[Method, ...]:
        """The methods, with the settings that were chosen for them.

        A method whose setting cannot be chosen is reported and left out, unless it is the
        reference; so is an optional one that the pair cannot run.
        """
        methods: list[Method] = []
        for name, method in list(self.chosen.items()):
            try:
                self.engine.check(name)
                if getattr(method, "calibrates", False) and name not in self.calibration:
                    self._calibrate(name, method, others)
                methods.append(self.engine.method(name, self.calibration.get(name)))
            except OptionError as error:
                if name not in self.asked.optional:
                    raise
                del self.chosen[name]
                say(f"left out: {error}")
            except Exception as error:
                if name == self.reference:
                    raise
                complain(error, name=name, verbose=self.models.verbose)
                message = " ".join(str(error).split())
                self.problems.append({"where": name, "message": message})
                self.codes.append(code_of(error))
        return tuple(methods)

    def _calibrate(self, name: str, method: MethodSpec, others: list[Item]) -> None:
        if not self.models.quiet:
            say(f"{name}: choosing its setting on {len(others)} other items")
        if not self.others:
            prepared = (self.engine.prepare(i.request(0, ())) for i in others)
            self.others = [item.limited(_CALIBRATION_TOKENS) for item in prepared]
        self.calibration[name] = self.engine.calibrate(method, self.others)
        if self.store is not None:
            self.store.keep_calibration(self.calibration)

    def _measure(self, measurement: Measurement, total: int) -> None:
        from sage_cli.render.bench_progress import Progress
        from sage_core.bench.records import Failure

        enabled = is_terminal(sys.stderr) and not self.models.quiet
        done = len(measurement.results.records)
        with Progress(enabled, total, done, self.reference, self.options.least) as progress:
            for line in measurement.lines():
                if self.store is not None:
                    self.store.add(line)
                if isinstance(line, Failure):
                    progress.say(_failed(line))
                progress.line(line, measurement.results)
        self.codes += [ExitCode[f.kind.upper()] for f in measurement.results.failures]

    def _report(self, measurement: Measurement, trees: TreeKeeper) -> None:
        """Print the results, and write them to the folder."""
        from sage_cli.render import bench as show
        from sage_cli.render.tables import print_json

        report = self._results(measurement)
        if self.store is not None:
            self._write(self.store.folder, report, trees)
        if self.options.json:
            print_json(report)
        elif self.options.csv:
            show.print_csv(report)
        else:
            show.print_table(report)

    def _results(self, measurement: Measurement) -> dict[str, Any]:
        from sage_core.bench.summary import SCHEMA, SPEEDUP, summary

        figures = summary(
            measurement.results,
            list(self.chosen),
            self.reference,
            least=self.options.least,
            seed=self.models.seed,
        )
        return {
            "schema": SCHEMA,
            "sage": version(),
            "environment": self.environment,
            "models": {"target": self.engine.target_id, "draft": self.engine.draft_id},
            "device": self.engine.device,
            "dtype": self.engine.dtype,
            "reference": self.reference,
            "speedup_is": SPEEDUP,
            "settings": {
                **{name: getattr(self.options, name) for name in _MEASURED},
                **{name: getattr(self.models, name) for name in _DECODED},
                "sampling": _sampling(self.models),
            },
            "calibration": self.calibration,
            "problems": self.problems,
            **figures,
        }

    def _write(self, folder: Path, report: dict[str, Any], trees: TreeKeeper) -> None:
        """Write everything that the folder holds besides the lines."""
        from sage_cli.render import bench as show
        from sage_cli.render.bench_html import write_html
        from sage_cli.render.bench_plots import write_plots

        show.write_files(folder, report)
        plots = write_plots(folder / "plots", report)
        write_html(folder / "report.html", report, plots, trees.views())
        if not self.models.quiet:
            say(f"results in {display_name(str(folder))}: open report.html")


def _failed(failure: Failure) -> str:
    """One line on a failure: the method, the item unless the message names it, the message."""
    item = display_name(failure.item)
    names = [failure.method, "" if item in failure.message else item, failure.message]
    return ": ".join(name for name in names if name)


def diff(names: Sequence[str], *, as_json: bool) -> ExitCode:
    """Compare two results, each a ``results.json`` or its folder.

    Raises:
        OptionError: not two of them, or they have nothing in common.
        InputError: one cannot be read.
    """
    from sage_cli.render.bench import print_diff
    from sage_cli.render.tables import print_json
    from sage_core.bench.compare import compare
    from sage_core.files.reading import LIST_LIMIT, read_json

    if len(names) != 2:
        raise OptionError("diff compares two results: sage bench diff A.json B.json")
    paths = [Path(name) / "results.json" if Path(name).is_dir() else Path(name) for name in names]
    before, after = (read_json(path, dict, limit=LIST_LIMIT, any_number=True) for path in paths)
    found = compare(before, after)
    if as_json:
        print_json(found)
    else:
        print_diff(found, [display_name(name) for name in names])
    return ExitCode.OK
