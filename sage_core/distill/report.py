"""The result of a run: acceptance, decoding speed and size of the draft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sage_core.distill.teacher import Teacher

REPORT = "report.json"
TIMED = 6
"""Most held-out prompts that decoding speed is measured on; the acceptance predictor of a head is
fitted to the others."""
_TOKENS = 128


@dataclass(frozen=True)
class Speed:
    """Speed of the held-out prompts with one draft."""

    draft: str
    """``none``, the previous draft's name, or ``new``."""
    policy: str
    tokens: int
    """Decoded tokens, without the first of each text."""
    seconds: float
    """Of decoding, without prefill."""
    mean_accepted: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(1e-9, self.seconds)


@dataclass(frozen=True)
class Report:
    """The result of a run; ``report.json`` has the same names."""

    kind: str
    target: str
    output: str
    steps: int
    seconds: float
    """Of training, with those before a resume."""
    samples: int
    held_out: int
    tau: float
    """Of the kept draft on held-out samples, see `ChainAcceptance.tau`."""
    by_depth: tuple[float, ...]
    by_rank: tuple[float, ...]
    parameters: int
    """Trained weights."""
    bytes: int
    """Size of the draft's weights on disk."""
    acceptance_nodes: int
    """Tree nodes that a head's acceptance predictor was fitted to; 0 where they were too few."""
    speeds: tuple[Speed, ...]

    def as_json(self) -> dict[str, Any]:
        data = asdict(self)
        for plain, speed in zip(data["speeds"], self.speeds, strict=True):
            plain["tokens_per_second"] = speed.tokens_per_second
        return data


def measure(
    teacher: Teacher,
    prompts: Sequence[dict[str, Any]],
    drafts: Sequence[tuple[str, Any]],
    longest: int,
) -> tuple[Speed, ...]:
    """Decode prompts greedily without and with each of ``drafts``.

    Texts have at most ``longest`` tokens, and at most 128. Every decoder decodes every prompt, in
    rotating order, after a warm-up that is not counted.
    """
    decoders = [("none", teacher.decoder(None, "autoregressive"))]
    decoders += [(name, teacher.decoder(draft)) for name, draft in drafts]
    totals = {name: [0.0, 0.0, 0.0, 0.0] for name, _ in decoders}
    for number, prompt in enumerate([*prompts[:1], *prompts]):
        turn = number % len(decoders)
        for name, decoder in [*decoders[turn:], *decoders[:turn]]:
            output = decoder.generate(**prompt, max_new_tokens=min(longest, _TOKENS))
            if number == 0:  # calibrates costs too
                continue
            stats, total = output.stats, totals[name]
            total[0] += stats.new_tokens - 1
            total[1] += stats.decode_seconds
            total[2] += stats.accepted
            total[3] += stats.steps
    return tuple(
        Speed(name, decoder.settings.policy.name, int(tokens), seconds, accepted / max(1.0, steps))
        for (name, decoder), (tokens, seconds, accepted, steps) in zip(
            decoders, totals.values(), strict=True
        )
    )
