"""The output of decoding, and totals over its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from sage_core.trees.steps import PhaseSeconds, Step

if TYPE_CHECKING:
    from torch import Tensor


_DERIVED = (
    "decode_seconds", "mean_accepted", "mean_acceptance_length", "tokens_per_step",
    "nodes_per_step", "draft_passes_per_step", "tokens_per_second", "end_to_end_tokens_per_second",
)  # fmt: skip
"""Properties of `Stats` that are part of its JSON."""


@dataclass(frozen=True)
class Stats:
    """Totals of one text. Times in seconds, memory in bytes.

    ``decode_seconds`` excludes prefill and media. ``tokens_per_second`` is the number of tokens
    after the prefill's first one over ``decode_seconds``; ``end_to_end_tokens_per_second`` is the
    number of all new tokens over all seconds, media included.
    """

    new_tokens: int = 0
    prompt_tokens: int = 0
    visual_tokens: int = 0
    """Tokens of the prompt that represent images and frames."""
    draft_visual_tokens: int = 0
    """How many of them the draft has read; 0 without a draft."""
    steps: int = 0
    draft_passes: int = 0
    nodes_verified: int = 0
    """Drafted nodes that the target verified; roots are not counted."""
    accepted_histogram: dict[int, int] = field(default_factory=dict)
    """Steps by accepted length; its mean is τ."""
    seconds: PhaseSeconds = field(default_factory=PhaseSeconds)
    media_seconds: float = 0.0
    wall_seconds: float = 0.0
    """Wall-clock seconds from the first use of the models to the last token."""
    peak_memory: int = 0
    """Peak memory in bytes: of the device on CUDA, resident memory of the process otherwise."""

    @classmethod
    def from_steps(cls, steps: Iterable[Step], **others: Any) -> Stats:
        """Totals of ``steps``; ``others`` are the fields that steps do not contain."""
        totals = dict.fromkeys((f.name for f in fields(PhaseSeconds)), 0.0)
        histogram: Counter[int] = Counter()
        new = passes = nodes = 0
        for step in steps:
            new += len(step.tokens)
            for name in totals:
                totals[name] += getattr(step.seconds, name)
            if step.is_prefill:
                continue
            histogram[len(step.accepted)] += 1
            passes += step.draft_passes
            nodes += len(step.tree)
        return cls(
            new_tokens=new,
            steps=sum(histogram.values()),
            draft_passes=passes,
            nodes_verified=nodes,
            accepted_histogram=dict(sorted(histogram.items())),
            seconds=PhaseSeconds(**totals),
            **others,
        )

    @property
    def decode_seconds(self) -> float:
        return self.seconds.decode

    @property
    def accepted(self) -> int:
        """Draft tokens that were accepted."""
        return sum(length * count for length, count in self.accepted_histogram.items())

    @property
    def mean_accepted(self) -> float:
        """τ: mean number of accepted draft tokens per step; the bonus token is not counted."""
        return self.accepted / self.steps if self.steps else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """τ + 1: accepted draft tokens and the bonus token, as in vLLM."""
        return self.mean_accepted + 1 if self.steps else 0.0

    @property
    def tokens_per_step(self) -> float:
        """Tokens committed per step: τ + 1, less accepted tokens after the text's end."""
        return (self.new_tokens - 1) / self.steps if self.steps else 0.0

    @property
    def nodes_per_step(self) -> float:
        return self.nodes_verified / self.steps if self.steps else 0.0

    @property
    def draft_passes_per_step(self) -> float:
        return self.draft_passes / self.steps if self.steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        return (self.new_tokens - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0

    @property
    def end_to_end_tokens_per_second(self) -> float:
        seconds = self.wall_seconds + self.media_seconds
        return self.new_tokens / seconds if seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON: the fields and the derived figures."""
        data = asdict(self)
        data["accepted_histogram"] = {str(k): v for k, v in self.accepted_histogram.items()}
        return data | {name: getattr(self, name) for name in _DERIVED}


@dataclass(frozen=True)
class DecodeOutput:
    """What `SpeculativeDecoder.generate` returns."""

    sequences: Tensor
    """(1, prompt + new tokens) int64, as `generate` returns them."""
    steps: tuple[Step, ...]
    stats: Stats
    finish_reason: str
    """``eos``, ``length`` or ``stop`` (any other stopping criterion)."""
    scores: tuple[Tensor, ...] | None = None
    """With ``output_scores``: (1, vocabulary) float32 processed scores of each new token."""
    logits: tuple[Tensor, ...] | None = None
    """With ``output_logits``: the same before processing."""
    lossy: str | None = None
    """The lossy rule of acceptance, by which the text may differ from the target's; None: exact."""
    context_reached: int | None = None
    """The target's context in tokens, if the text has filled it: what follows is less reliable,
    or cannot follow. None: it has not."""
