"""``sage distill --dry-run``: what the run would need, as a table or as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sage_cli import version
from sage_cli.console import say, set_verbosity
from sage_cli.exit_codes import ExitCode
from sage_cli.jobs.distill import run_options
from sage_cli.options.distill import DistillFlags

if TYPE_CHECKING:
    from sage_core.distill.dry import DryRun
    from sage_core.distill.options import DistillOptions

__all__ = ["run"]

_MEMORY = {
    "target": "the target's weights",
    "draft": "the draft's weights, float32",
    "gradients": "its gradients",
    "moments": "AdamW's moments",
    "lessons": "lessons",
    "margin": "libraries and fragments",
}
_PASSES = {
    "target": "as the target reads",
    "draft": "as the draft learns",
    "optimizer": "as weights are changed",
}


def run(options: DistillFlags, shared: Any) -> ExitCode:
    """Look, count, tell.

    Raises:
        SageError: as `sage_core.distill.dry.dry_run`.
    """
    from sage_core.distill.plan import Machine

    endless = options.steps is None and options.minutes is None
    chosen = run_options(options, shared, **({"steps": 1} if endless else {}))
    gpu = not shared.device.startswith("cpu")
    tflops = options.tflops if options.tflops is not None else (989 if gpu else 0.2)
    bandwidth = options.bandwidth if options.bandwidth is not None else (4300 if gpu else 20)
    use = options.utilisation if options.utilisation is not None else 0.4
    machine = Machine(tflops * 1e12, use, bandwidth * 1e9, gpu)
    set_verbosity(shared.verbose)
    from sage_core.distill.dry import dry_run

    found = dry_run(
        options.target,
        options.data,
        chosen,
        machine,
        say,
        dtype=shared.dtype,
        quantization=shared.quantization,
        revision=shared.revision,
        trust_remote_code=shared.trust_remote_code,
    )
    _print(found, chosen, endless=endless, as_json=options.json)
    return ExitCode.OK


def _print(found: DryRun, options: DistillOptions, *, endless: bool, as_json: bool) -> None:
    from sage_cli.render.jsonout import SCHEMA
    from sage_cli.render.stats import size
    from sage_cli.render.tables import print_json, print_table

    plan, shape, machine = found.plan, found.shape, found.machine
    if as_json:
        about = {
            "target": found.target,
            "kind": options.kind,
            "samples": found.samples,
            "batch": options.batch,
            "shape": asdict(shape),
            "machine": asdict(machine),
        }
        print_json({"schema": SCHEMA, "sage": version(), **about, **plan.as_json()})
        return
    worst = max(plan.passes, key=lambda name: plan.passes[name])
    parameters = f"{plan.target_parameters / 1e6:,.1f} M weights, {plan.dtype}"
    rows = [
        ("target", f"{found.target}: {parameters}"),
        ("draft", f"{options.kind}: {plan.cost.parameters / 1e6:,.1f} M weights trained"),
        ("a sample", f"{shape.prompt:,} tokens, {shape.visual:,} visual; answer {shape.answer:,}"),
        *((text, size(plan.memory[name])) for name, text in _MEMORY.items()),
        (f"{_PASSES[worst]}, at most", size(plan.passes[worst])),
        ("memory in all", size(plan.peak)),
    ]
    print_table(("", ""), rows)
    seconds = plan.seconds
    read, learn = (plan.flops[name] / 1e12 for name in ("read", "learn"))
    peak = f"{machine.flops / 1e12:g} TFLOP/s of which {machine.use:.0%} are reached"
    timed = [
        ("planned for", f"{peak}, {machine.bandwidth / 1e9:g} GB/s"),
        ("the target writes an answer", f"{seconds['write']:.3g} s, once a sample"),
        ("it reads a lesson", f"{read:.3g} TFLOP, {seconds['read']:.3g} s"),
        (
            "the draft learns from it",
            f"{learn:.3g} TFLOP, {seconds['learn']:.3g} s",
        ),
        (f"a step of {options.batch}", f"{seconds['step']:.3g} s"),
    ]
    if not endless and options.steps is not None:
        minutes = found.seconds(options.steps, options.batch) / 60
        timed.append((f"{options.steps:,} steps", f"{minutes:,.3g} minutes"))
    print_table(("", ""), timed)
