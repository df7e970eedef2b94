"""Which tokens a draft scores: a list ranked by use, made once for a tokenizer. No torch.

The head of a small draft with a large vocabulary is most of its pass, and most of that vocabulary
is never written. `reduced_head` has a draft score the tokens of a `DraftVocab` only (FR-Spec, arXiv
2502.14856); the target scores them all, so that its text stays what it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sage_core.errors import InputError, ModelError, OptionError

FILE_NAME = "draft_vocab.json"
"""Where the list of a model is looked for, beside its checkpoint."""
_FORMAT = "sage draft vocabulary 1"

ENDS = ("eos_token_id", "forced_eos_token_id", "forced_bos_token_id")
"""Fields of a configuration with ids that a text may hold whatever text is usual."""


@dataclass(frozen=True)
class DraftVocab:
    """Tokens that a draft scores.

    ``ids`` are those that were counted, the most frequent first; ``always`` are in whatever the
    counts say, such as those that end a text. ``tokenizer`` is the name of the model whose
    tokenizer they are of, ``fingerprint`` what `fingerprint` says of it; both empty: unknown.
    ``counted`` is how many tokens were counted, and ``covered`` the share of them that is in the
    list.

    Raises:
        OptionError: no ids, the same id twice, or ids that are no whole numbers from 0.
    """

    ids: tuple[int, ...]
    always: tuple[int, ...] = ()
    tokenizer: str = ""
    fingerprint: str = ""
    counted: int = 0
    covered: float = 0.0

    def __post_init__(self) -> None:
        every = (*self.always, *self.ids)
        if not every:
            raise OptionError("a draft vocabulary needs at least one token id")
        if any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in every):
            raise OptionError("the ids of a draft vocabulary must be whole numbers from 0")
        if len(set(every)) < len(every):
            raise OptionError("a draft vocabulary holds the same id twice: name each once")

    def __len__(self) -> int:
        return len(self.always) + len(self.ids)

    def first(self, count: int) -> DraftVocab:
        """The ``count`` most frequent tokens, those that are always in among them.

        Raises:
            OptionError: it holds fewer.
        """
        if count > len(self):
            raise OptionError(
                f"the draft vocabulary of {self.tokenizer or 'this model'} holds {len(self):,} "
                f"tokens, not {count:,}: ask for at most so many, or count more text with "
                "sage draft-vocab"
            )
        ids = self.ids[: max(0, count - len(self.always))]
        return DraftVocab(ids, self.always, self.tokenizer, self.fingerprint)

    @classmethod
    def of(cls, given: DraftVocab | Sequence[int]) -> DraftVocab:
        """A list as it is, or ids as a list. Raises what the class does."""
        if isinstance(given, DraftVocab):
            return given
        try:
            return cls(tuple(given))
        except TypeError as error:
            raise OptionError(f"a draft vocabulary is a list of ids, not {given!r}") from error

    @classmethod
    def counted_from(
        cls, counts: Mapping[int, int], always: Sequence[int], size: int, **names: str
    ) -> DraftVocab:
        """The ``size`` most frequent tokens of ``counts``; of equally frequent ones the lower ids.

        ``names`` are ``tokenizer`` and ``fingerprint``.
        """
        kept = tuple(dict.fromkeys(always))
        ranked = sorted(counts.keys() - set(kept), key=lambda token: (-counts[token], token))
        ids = tuple(ranked[: max(0, size - len(kept))])
        total = sum(counts.values())
        inside = sum(counts.get(token, 0) for token in (*kept, *ids))
        return cls(ids, kept, counted=total, covered=inside / total if total else 0.0, **names)

    def as_json(self) -> str:
        """What `read` reads."""
        return json.dumps({"format": _FORMAT, **asdict(self)}) + "\n"

    def check(self, name: str, tokenizer: Any) -> None:
        """Refuse the list of another tokenizer than this one, which is that of model ``name``.

        Raises:
            ModelError: naming both.
        """
        if self.fingerprint and self.fingerprint != fingerprint(tokenizer):
            raise ModelError(
                f"the draft vocabulary is of the tokenizer of {self.tokenizer or 'another model'}, "
                f"which is not that of {name}: make one with sage draft-vocab --model {name}"
            )


def read(file: str | Path) -> DraftVocab:
    """The list that ``sage draft-vocab`` has written to ``file``.

    Raises:
        InputError: it cannot be read, or is no such list.
    """
    try:
        data = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{file}: no draft vocabulary: make one with sage draft-vocab") from error
    if not isinstance(data, dict) or data.pop("format", None) != _FORMAT:
        raise InputError(f"{file}: no draft vocabulary: make one with sage draft-vocab")
    try:
        return DraftVocab(**{**data, "ids": tuple(data["ids"]), "always": tuple(data["always"])})
    except (KeyError, TypeError, OptionError) as error:
        raise InputError(f"{file}: a damaged draft vocabulary: make it again") from error


def fingerprint(tokenizer: Any) -> str:
    """A hash of all tokens with their ids: equal for tokenizers whose ids mean the same."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        digest.update(f"{index}\t{token!r}\n".encode())
    return digest.hexdigest()


def whole_numbers(values: Iterable[Any]) -> Iterator[int]:
    """The ids in values of `ENDS`, each of which is an id, several, or None."""
    for value in values:
        if value is not None:
            yield from value if isinstance(value, list | tuple) else [int(value)]


Asked = int | str | Path | DraftVocab | Sequence[int] | None
"""How a draft vocabulary is asked for: how many tokens of the model's own list, the name of a file
(text that is a number counts as one), the list or its ids; None: the whole vocabulary."""


def as_asked(asked: Asked) -> int | str | Path | DraftVocab | None:
    """``asked`` in the form that `resolve` works on, refused if it cannot be meant.

    Raises:
        OptionError: no such thing.
    """
    if isinstance(asked, str):
        return as_asked(int(asked)) if asked.isdecimal() else asked
    if isinstance(asked, bool) or (isinstance(asked, int) and asked < 1):
        raise OptionError(f"draft_vocab must be a number from 1, or a file: {asked!r}")
    if asked is None or isinstance(asked, int | Path | DraftVocab):
        return asked
    return DraftVocab.of(asked)


def resolve(asked: Asked, name: str, folder: Path | None, tokenizer: Any) -> DraftVocab | None:
    """The list that is asked for, of the right tokenizer.

    Args:
        asked: as `Asked` says.
        name: of the target.
        folder: its checkpoint, where its own list is looked for.
        tokenizer: its tokenizer.

    Raises:
        OptionError: a number of tokens of a model that has no list, or too many of them.
        InputError: a file that cannot be read.
        ModelError: a list of another tokenizer.
    """
    asked = as_asked(asked)
    if asked is None:
        return None
    if isinstance(asked, int):
        file = None if folder is None else folder / FILE_NAME
        if file is None or not file.is_file():
            raise OptionError(
                f"no {FILE_NAME} beside {name}: count one with sage draft-vocab FILE... --model "
                f"{name} --output OUT.json, then give its name, or keep it as {FILE_NAME} there"
            )
        vocab = read(file)
        vocab.check(name, tokenizer)
        return vocab.first(asked)
    vocab = asked if isinstance(asked, DraftVocab) else read(asked)
    vocab.check(name, tokenizer)
    return vocab
