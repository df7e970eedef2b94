"""What came of a run: how much of the draft is accepted, how fast it is, how large."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sage_core.distill.student import Acceptance
from sage_core.distill.teacher import Teacher
from sage_core.errors import InputError, OptionError

__all__ = ["REPORT", "TIMED", "Report", "Speed", "measure", "usable"]

REPORT = "report.json"
TIMED = 6
"""Held-out prompts that speeds are measured on, at most."""
_TOKENS = 128


@dataclass(frozen=True)
class Speed:
    """One way to decode the held-out prompts."""

    draft: str
    """``none``, the previous draft's name, or ``new``."""
    policy: str
    tokens: int
    """That were decoded."""
    seconds: float
    """Of decoding, without the prompt and the token that reading it gives."""
    mean_accepted: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(1e-9, self.seconds)


@dataclass(frozen=True)
class Report:
    """The end of a run, as ``report.json`` has it."""

    kind: str
    target: str
    output: str
    steps: int
    seconds: float
    """Of training, over all parts of a run that was resumed."""
    samples: int
    held_out: int
    tau: float
    """Mean accepted length of a chain, on held-out samples; of the draft that was kept."""
    by_depth: tuple[float, ...]
    by_rank: tuple[float, ...]
    parameters: int
    """That were trained."""
    bytes: int
    """Of the draft's weights on disk."""
    foretold: int
    """Nodes, of held-out texts that no speed is measured on, from which a head learned what is
    accepted of it; 0 where they were too few."""
    speeds: tuple[Speed, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        data = asdict(self)
        for plain, speed in zip(data["speeds"], self.speeds, strict=True):
            plain["tokens_per_second"] = speed.tokens_per_second
        return data


def weights_bytes(folder: Path) -> int:
    """Of a draft's files of weights."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def shares(found: Acceptance) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`Acceptance.by_depth` and `by_rank`, rounded for a file that people read."""
    return (
        tuple(round(share, 4) for share in found.by_depth),
        tuple(round(share, 4) for share in found.by_rank),
    )


def usable(teacher: Teacher, indices: Iterable[int]) -> Iterator[dict[str, Any]]:
    """The prompts of samples, without those that cannot be used."""
    for index in indices:
        try:
            yield teacher.prompt(index)
        except (InputError, OptionError):  # it was told when it was left out
            continue


def measure(
    teacher: Teacher,
    prompts: Sequence[dict[str, Any]],
    drafts: Sequence[tuple[str, Any]],
    longest: int,
) -> tuple[Speed, ...]:
    """Decode prompts without and with each of ``drafts``, greedily.

    Texts have at most ``longest`` tokens, and at most 128. Every way decodes every prompt, in an
    order that rotates, after one that is not counted.
    """
    ways = [("none", teacher.decoder(None, "autoregressive"))]
    ways += [(name, teacher.decoder(draft)) for name, draft in drafts]
    totals = {name: [0.0, 0.0, 0.0, 0.0] for name, _ in ways}
    for number, prompt in enumerate([*prompts[:1], *prompts]):
        turn = number % len(ways)
        for name, decoder in [*ways[turn:], *ways[:turn]]:
            output = decoder.generate(**prompt, max_new_tokens=min(longest, _TOKENS))
            if number == 0:  # a warm-up, in which costs are measured too
                continue
            stats, total = output.stats, totals[name]
            total[0] += stats.new_tokens - 1
            total[1] += stats.decode_seconds
            total[2] += stats.accepted
            total[3] += stats.steps
    return tuple(
        Speed(
            name,
            decoder.settings.policy.name,
            int(total[0]),
            total[1],
            total[2] / max(1.0, total[3]),
        )
        for (name, decoder), total in zip(ways, totals.values(), strict=True)
    )
