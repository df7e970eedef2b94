"""What a request does to its text besides decoding it: where it begins and ends, what is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sage_core.checks import as_integer, no_utf8_at
from sage_core.errors import OptionError
from sage_core.generation.sentences import sentence_ends
from sage_core.models.thinking import ANSWER_TAGS, THOUGHT_TAGS, without_thoughts

__all__ = ["TextRules", "named_thoughts"]

_TEXTS = ("start_with", "prefix", "suffix", "system")
_SWITCHES = ("end_at_sentence", "strip_thinking", "stop_repetition", "retry")


@dataclass(frozen=True)
class TextRules:
    """How a text differs from the model's plain one.

    The text is ``prefix``, what is left of the answer, ``suffix``. The answer is ``start_with``,
    which the prompt ends with, and the decoded text; of it thoughts are left out
    (``strip_thinking``), then all but the first ``max_sentences``, then an unfinished sentence
    (``end_at_sentence``) if the model has not ended the text itself.

    Raises:
        OptionError: a value that makes no sense, or ``retry`` without ``stop_repetition``.
    """

    start_with: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    max_sentences: int | None = None
    end_at_sentence: bool = False
    strip_thinking: bool = False
    stop_repetition: bool = False
    """End a text that repeats itself, see `text_criteria.Repetition`."""
    retry: bool = False
    """Decode such a text again, once, with a repetition penalty."""
    system: str | None = None
    """A system message."""

    def __post_init__(self) -> None:
        for name in _TEXTS:
            self._check_text(name)
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False: {getattr(self, name)!r}")
        if self.max_sentences is not None:
            least = as_integer("max_sentences", self.max_sentences, 1)
            object.__setattr__(self, "max_sentences", least)
        if self.retry and not self.stop_repetition:
            raise OptionError("retry is about texts that repeat themselves: give stop_repetition")

    def _check_text(self, name: str) -> None:
        text = getattr(self, name)
        if text is None:
            return
        if not isinstance(text, str):
            raise OptionError(f"{name} must be text: {text!r}")
        if no_utf8_at(text) is not None:
            raise OptionError(f"{name} is not UTF-8 text: write it in UTF-8")
        if not (text if name in ("prefix", "suffix") else text.strip()):
            raise OptionError(f"{name} is empty: leave it out")

    @property
    def start(self) -> str:
        """The beginning of the answer as the prompt has it: without spaces at its end, which the
        model's next token has at its beginning."""
        return (self.start_with or "").rstrip(" ")

    @property
    def used(self) -> dict[str, Any]:
        """The rules that are set, for the result."""
        return {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}

    @property
    def changes_text(self) -> bool:
        """Whether the text of a result may differ from what was decoded, or be decoded again."""
        return bool(self.used.keys() - {"stop_repetition", "system"})

    def answer(self, decoded: str, opened: str = "") -> str:
        """The answer so far, before sentences are cut.

        ``opened`` is the tag of a thought that the prompt ended with.
        """
        whole = self.start + decoded
        return without_thoughts(whole, opened) if self.strip_thinking else whole

    def apply(self, decoded: str, opened: str = "", *, ended: bool = False) -> str:
        """The text of a result; ``ended``: the model has ended it itself."""
        text = self.answer(decoded, opened)
        unfinished = self.end_at_sentence and not ended
        if self.max_sentences is not None or unfinished:
            ends = sentence_ends(text)[: self.max_sentences]
            if ends and (unfinished or len(ends) == self.max_sentences):
                text = text[: ends[-1]].rstrip()
        return (self.prefix or "") + text + (self.suffix or "")

    def refuse_schema(self) -> None:
        """Refuse rules under which a text would be no JSON any more.

        Raises:
            OptionError: names the rule.
        """
        wrong = self.used.keys() - {"stop_repetition", "retry", "system"}
        if wrong:
            raise OptionError(
                f"a JSON schema is about the whole text: leave out {', '.join(sorted(wrong))}"
            )


def named_thoughts(tokenizer: Any) -> Mapping[int, str]:
    """The tags of thoughts among a tokenizer's special tokens, which are no text otherwise."""
    special = set(tokenizer.all_special_ids)
    tags = [tag for pair in (*THOUGHT_TAGS, *ANSWER_TAGS) for tag in pair]
    ids = tokenizer.convert_tokens_to_ids(tags)
    unknown = tokenizer.unk_token_id
    pairs = zip(ids, tags, strict=True)
    return {i: tag for i, tag in pairs if i in special and i != unknown}
