"""The options of a request: decoding and video sampling. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sage_core.checks import as_integer, as_seed
from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.vocab.token_list import Asked
from sage_core.engine.extensions import available, parse
from sage_core.errors import OptionError
from sage_core.generation.sampling_params import SamplingParams
from sage_core.generation.text_rules import TextRules
from sage_core.media.types import Sampling


@dataclass(frozen=True)
class Options:
    """Decoding and video sampling of one request.

    ``policy`` None is ``sage`` with a draft and ``autoregressive`` without. ``frames``, ``fps``,
    ``start``, ``end`` and ``max_pixels`` are those of `Sampling`; with neither ``frames`` nor
    ``fps`` the model family's default is used. ``sample``, ``temperature``, ``top_p``, ``top_k``,
    ``min_p`` and ``candidates`` are those of `SamplingParams`; ``seed``, from -2**63 to 2**64 - 1,
    is used for all random numbers. ``draft_pruning`` and ``draft_pruning_method`` are ``ratio`` and
    ``method`` of `Pruning`. ``draft_lookup`` adds branches of an n-gram lookup to the draft's
    trees. ``draft_vocab`` limits the tokens that the draft computes logits of: a number of tokens
    of the model's own list, the file of a list, a list or its ids. ``lossy`` names a rule of
    `generation.lossy`. With ``viskip`` nothing is drafted while at least that share of the
    attention is on visual tokens. ``json_schema``, text or parsed, constrains the answer to JSON
    (with the extra ``grammar``). ``system`` to ``retry`` are those of `TextRules`: with them the
    text is not the model's plain one, and the result names them. ``generation`` holds further
    fields of transformers' `GenerationConfig`. ``phase_times`` times the phases of each step also
    on CUDA. With ``reproducible`` trees follow fixed costs instead of measured ones, see
    `Result.reproducible`.

    Raises:
        OptionError: an invalid value, or an unknown generation field.
    """

    policy: Any = None
    max_new_tokens: int = 256
    frames: int | None = None
    fps: float | None = None
    start: float | None = None
    end: float | None = None
    max_pixels: int | None = None
    sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    candidates: str = "topk"
    seed: int = 0
    draft_pruning: float | None = None
    draft_pruning_method: str = "verifier"
    draft_lookup: bool = False
    draft_vocab: Asked = None
    lossy: str | None = None
    viskip: float | None = None
    json_schema: str | Mapping[str, Any] | None = None
    system: str | None = None
    start_with: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    max_sentences: int | None = None
    end_at_sentence: bool = False
    strip_thinking: bool = False
    stop_repetition: bool = False
    retry: bool = False
    generation: Mapping[str, Any] = field(default_factory=dict)
    phase_times: bool = False
    reproducible: bool = False

    def __post_init__(self) -> None:
        tokens = as_integer("max_new_tokens", self.max_new_tokens, 1)
        object.__setattr__(self, "max_new_tokens", tokens)
        object.__setattr__(self, "seed", as_seed(self.seed))
        self.sampling()
        self.pruning()
        self.sampling_params()
        rules = self.text_rules()
        if self.json_schema is not None:
            rules.refuse_schema()
        object.__setattr__(self, "max_sentences", rules.max_sentences)
        parse(self.extensions)
        if self.generation:
            _check_generation(self.generation)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Options from keyword arguments; unknown names are refused."""
        valid = [f.name for f in fields(cls)]
        for name in given:
            if name not in valid:
                raise OptionError(f"unknown option {name!r}: choose from {', '.join(valid)}")
        return cls(**given)

    @property
    def extensions(self) -> dict[str, Any]:
        """Values of options that change drafting or acceptance, by their extension's name."""
        return {
            name: getattr(self, kind.option or name)
            for name, kind in available().items()
            if hasattr(self, kind.option or name)
        }

    @property
    def single_text(self) -> bool:
        """Whether an extension works with one text only."""
        return any(extension.single_text for extension in parse(self.extensions))

    def sampling_params(self) -> SamplingParams:
        """How each token is chosen."""
        names = [f.name for f in fields(SamplingParams)]
        return SamplingParams(**{name: getattr(self, name) for name in names})

    def text_rules(self) -> TextRules:
        """How the text differs from the model's plain one."""
        return TextRules(**{f.name: getattr(self, f.name) for f in fields(TextRules)})

    def pruning(self) -> Pruning:
        """Pruning of the draft's visual tokens."""
        return Pruning(self.draft_pruning, self.draft_pruning_method, seed=self.seed)

    def sampling(self, defaults: Sampling | None = None) -> Sampling:
        """Video sampling, with a family's ``defaults`` for fields that are not set."""
        defaults = defaults or Sampling()
        chosen = self.frames is not None or self.fps is not None
        return replace(
            defaults,
            frames=self.frames if chosen else defaults.frames,
            fps=self.fps if chosen else defaults.fps,
            start=self.start,
            end=self.end,
            max_pixels=self.max_pixels or defaults.max_pixels,
        )


@dataclass(frozen=True)
class TextRequest:
    """What one text is made from: the files and the prompt, as for `Pipeline.stream`, and options
    in which it differs from the other requests.
    """

    files: Any
    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def _check_generation(given: Mapping[str, Any]) -> None:
    from transformers import GenerationConfig

    known = GenerationConfig()
    for name in given:
        if name == "max_new_tokens" or name.startswith("_") or not hasattr(known, name):
            raise OptionError(f"unknown generation option {name!r}: see GenerationConfig")
