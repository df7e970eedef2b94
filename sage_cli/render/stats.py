"""The ``--stats`` table: speed, acceptance, time per phase, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage_cli.console import error_console
from sage_core.engine.results import Stats

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["print_stats", "size", "stats_table"]


def size(count: int) -> str:
    """Bytes in B, KiB, MiB or GiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def _rows(stats: Stats, lossy: str | None) -> list[tuple[str, str]]:
    seconds = stats.seconds
    histogram = " ".join(f"{k}:{v}" for k, v in stats.accepted_histogram.items())
    mark = [("lossy", f"{lossy}: the text may differ from the model's own")] if lossy else []
    return [
        *mark,
        ("speed, decoding", f"{stats.tokens_per_second:.1f} tokens/s"),
        ("speed, end to end", f"{stats.end_to_end_tokens_per_second:.1f} tokens/s"),
        ("tokens", f"{stats.new_tokens} new, {stats.prompt_tokens} in the prompt"),
        (
            "visual tokens",
            f"{stats.visual_tokens}, {stats.draft_visual_tokens} for the draft",
        ),
        ("steps", f"{stats.steps}, {stats.nodes_per_step:.1f} drafted tokens per step"),
        ("τ", f"{stats.mean_accepted:.2f} accepted per step, bonus token not counted"),
        ("mean acceptance length", f"{stats.mean_acceptance_length:.2f}, τ + bonus token"),
        ("accepted: steps", histogram or "none"),
        ("draft passes", f"{stats.draft_passes}, {stats.draft_passes_per_step:.2f} per step"),
        ("media", f"{stats.media_seconds:.2f} s"),
        ("prefill", f"{seconds.prefill:.2f} s"),
        ("drafting", f"{seconds.draft + seconds.plan:.2f} s"),
        ("verifying", f"{seconds.verify:.2f} s"),
        ("accept, commit", f"{seconds.accept + seconds.commit:.2f} s"),
        ("peak memory", size(stats.peak_memory)),
    ]


def stats_table(stats: Stats, title: str, lossy: str | None = None) -> Table:
    """The table for one result; ``lossy`` names the rule that made it, if any."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title), title_justify="left", show_header=False, box=box.SIMPLE, pad_edge=False
    )
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in _rows(stats, lossy):
        table.add_row(name, Text(value))
    return table


def print_stats(stats: Stats, title: str, lossy: str | None = None) -> None:
    """Print the table to standard error."""
    error_console(highlight=False).print(stats_table(stats, title, lossy))
