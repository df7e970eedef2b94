"""The configuration of a draft head: its kind, image compression, and its target."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sage_core.errors import ModelError, OptionError
from sage_core.files.reading import as_shape, parse_json, read_text

KINDS = ("head", "specvlm", "vispec")
BRANCHES = ("prune", "pool", "convolution", "resampler", "text")
MODES = ("weighted", "concat", "select", *BRANCHES)
FORMAT = 1
"""The version of a saved head, under the key ``sage_head``."""

CONFIG, WEIGHTS = "config.json", "head.safetensors"
"""Files of a saved head."""
_MAX_WEIGHTED_RATIO = 5.0


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Options and target of a head.

    Raises:
        OptionError: an unknown kind or mode, or a number out of its range.
    """

    kind: str = "head"
    """``head`` reads all visual tokens (EAGLE), ``specvlm`` compressed ones (arXiv 2509.11815),
    ``vispec`` the outputs of a few queries (ViSpec, arXiv 2509.15235)."""
    mode: str = "weighted"
    """Of ``specvlm``: ``weighted``, ``concat``, ``select``, or one branch alone."""
    ratio: float = 3.0
    """Visual tokens per compressed token: of ``weighted`` and of a branch alone."""
    prune_ratio: float = 20.0
    """The same of a branch of ``concat`` and ``select``."""
    pool_ratio: float = 20.0
    convolution_ratio: float = 3.0
    queries: int = 2
    """Learned queries per image, of the resampler and of ``vispec``."""
    hidden_size: int
    """Of the target's decoder."""
    vocab_size: int
    """Rows of the target's output head."""
    target: str
    """The target's name, as it was loaded."""
    revision: str | None = None
    fingerprint: str = ""
    """Of the target's shape and weights (`drafts.head.fingerprint`)."""
    acceptance: bool = False
    """Whether it has an acceptance predictor (`Head.acceptance_predictor`)."""

    def __post_init__(self) -> None:
        sizes = ("queries", "hidden_size", "vocab_size")
        positive = ("ratio", "prune_ratio", "pool_ratio", "convolution_ratio", *sizes)
        checks = [
            (self.kind in KINDS, f"kind must be one of {', '.join(KINDS)}, not {self.kind}"),
            (self.mode in MODES, f"mode must be one of {', '.join(MODES)}, not {self.mode}"),
            *((getattr(self, name) >= 1, f"{name} must be at least 1") for name in positive),
            (
                not (self.compresses and self.mode == "weighted")
                or self.ratio <= _MAX_WEIGHTED_RATIO,
                f"ratio of mode weighted must be at most {_MAX_WEIGHTED_RATIO:g}: {self.ratio:g}",
            ),
            (
                self.ratio_of("convolution").is_integer() or "convolution" not in self.branches,
                "a convolution's ratio must be a whole number",
            ),
        ]
        for holds, message in checks:
            if not holds:
                raise OptionError(f"head: {message}")

    @property
    def compresses(self) -> bool:
        """Whether it has SpecVLM's compressor."""
        return self.kind == "specvlm"

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches of its compressor, in the order of their gate."""
        if not self.compresses:
            return ()
        if self.mode == "weighted":
            return ("prune", "pool", "convolution")
        if self.mode == "concat":
            return ("prune", "pool", "convolution", "resampler")
        return BRANCHES if self.mode == "select" else (self.mode,)

    def ratio_of(self, branch: str) -> float:
        """The ratio of ``prune``, ``pool`` or ``convolution`` in this mode."""
        several = self.mode in ("concat", "select")
        return float(getattr(self, f"{branch}_ratio") if several else self.ratio)

    def refusal(self, what: str) -> str:
        """The error message for another target; ``what`` is what it calls the head."""
        pinned = f"@{self.revision}" if self.revision else ""
        return (
            f"{what} is a draft of {self.target}{pinned}, which this target is not: choose a head "
            "of this target, or another draft"
        )

    def to_json(self) -> str:
        return json.dumps({"sage_head": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> HeadConfig:
        """A saved configuration.

        Raises:
            ModelError: damaged, of another version, or with unknown fields.
        """
        name = f"the head's {CONFIG}"
        values = parse_json(text, name, error=ModelError)
        if not isinstance(values, dict) or values.pop("sage_head", None) != FORMAT:
            raise ModelError(f"{name} is not of version {FORMAT}: save it again, or update sage")
        config: HeadConfig = as_shape(values, f"{name} is damaged", cls, error=ModelError)
        return config


def is_head(folder: str | Path) -> bool:
    """Whether a folder holds a head, whole or damaged."""
    where = Path(folder).expanduser()
    if (where / WEIGHTS).is_file():
        return True
    try:
        return '"sage_head"' in read_text(where / CONFIG, error=ModelError)
    except ModelError:
        return False


def read_config(folder: str | Path) -> HeadConfig:
    """The configuration of a saved head.

    Raises:
        ModelError: missing or damaged.
    """
    text = read_text(Path(folder).expanduser() / CONFIG, error=ModelError)
    try:
        return HeadConfig.from_json(text)
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error


@contextmanager
def weight_errors(folder: str | Path) -> Iterator[None]:
    """Turn errors of reading a head's weights into `ModelError`."""
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: has no {WEIGHTS}: get a whole copy of the head") from error
    except (SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(f"{folder}: its weights are damaged: get a whole copy of it") from error
