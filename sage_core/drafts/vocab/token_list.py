"""The tokens that a draft computes logits of: a list ranked by frequency. No torch.

With a large vocabulary most of a small draft's pass is its output head, and most tokens are rare.
`reduced_head` limits the draft to a `DraftVocab` (FR-Spec, arXiv 2502.14856); the target keeps its
whole vocabulary, so the text does not change.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from sage_core.checks import as_integer
from sage_core.errors import InputError, ModelError, OptionError
from sage_core.files.reading import as_shape, read_json

FILE_NAME = "draft_vocab.json"
"""The file of a model's list, in the folder of its checkpoint."""
_FORMAT = "sage draft vocabulary 1"

END_FIELDS = ("eos_token_id", "forced_eos_token_id", "forced_bos_token_id")
"""Fields of a configuration whose ids are always in a list."""


@dataclass(frozen=True)
class DraftVocab:
    """Tokens that a draft computes logits of.

    ``ids`` were counted, the most frequent first; ``always`` are in whatever their counts, such as
    end tokens. ``tokenizer`` is the model whose tokenizer they are of and ``fingerprint`` its
    `fingerprint`; both empty: unknown. ``counted`` is the number of tokens counted, ``covered``
    the share of them that is in the list.

    Raises:
        OptionError: no ids, an id twice, or ids that are not integers from 0.
    """

    ids: tuple[int, ...]
    always: tuple[int, ...] = ()
    tokenizer: str = ""
    fingerprint: str = ""
    counted: int = 0
    covered: float = 0.0

    def __post_init__(self) -> None:
        ids = (*self.always, *self.ids)
        if not ids:
            raise OptionError("a draft vocabulary needs at least one token id")
        if any(type(i) is not int or i < 0 for i in ids):
            raise OptionError("the ids of a draft vocabulary must be integers from 0")
        if len(set(ids)) < len(ids):
            raise OptionError("a draft vocabulary holds the same id twice: name each once")

    def __len__(self) -> int:
        return len(self.always) + len(self.ids)

    def first(self, count: int) -> DraftVocab:
        """The ``count`` most frequent tokens, ``always`` included.

        Raises:
            OptionError: the list is shorter.
        """
        if count > len(self):
            raise OptionError(
                f"the draft vocabulary of {self.tokenizer or 'this model'} holds {len(self):,} "
                f"tokens, not {count:,}: ask for no more, or count more text with "
                "sage draft-vocab"
            )
        ids = self.ids[: max(0, count - len(self.always))]
        return DraftVocab(ids, self.always, self.tokenizer, self.fingerprint)

    @classmethod
    def of(cls, given: DraftVocab | Sequence[int]) -> DraftVocab:
        """A list as it is, or ids as a list. Raises as the class."""
        if isinstance(given, DraftVocab):
            return given
        try:
            return cls(tuple(map(operator.index, given)))
        except TypeError as error:
            raise OptionError(f"a draft vocabulary is a list of ids, not {given!r}") from error

    @classmethod
    def counted_from(
        cls, counts: Mapping[int, int], always: Sequence[int], size: int, **names: str
    ) -> DraftVocab:
        """The ``size`` most frequent tokens of ``counts``, lower ids first among equals.

        ``names`` are ``tokenizer`` and ``fingerprint``.
        """
        kept = tuple(dict.fromkeys(always))
        ranked = sorted(counts.keys() - set(kept), key=lambda token: (-counts[token], token))
        ids = tuple(ranked[: max(0, size - len(kept))])
        total = sum(counts.values())
        inside = sum(counts.get(token, 0) for token in (*kept, *ids))
        return cls(ids, kept, counted=total, covered=inside / total if total else 0.0, **names)

    def as_json(self) -> str:
        """The file that `read` reads."""
        return json.dumps({"format": _FORMAT, **asdict(self)}) + "\n"

    def check(self, name: str, tokenizer: Any) -> None:
        """Refuse a list of another tokenizer than model ``name``'s.

        Raises:
            ModelError: names both.
        """
        if self.fingerprint and self.fingerprint != fingerprint(tokenizer):
            raise ModelError(
                f"the draft vocabulary is of the tokenizer of {self.tokenizer or 'another model'}, "
                f"which is not that of {name}: make one with sage draft-vocab --model {name}"
            )


def read(file: str | Path) -> DraftVocab:
    """The list that ``sage draft-vocab`` has written to ``file``.

    Raises:
        InputError: it cannot be read, or is not such a list.
    """
    data = read_json(Path(file).expanduser())
    if not isinstance(data, dict) or data.pop("format", None) != _FORMAT:
        raise InputError(f"{file}: not a draft vocabulary: make one with sage draft-vocab")
    vocab: DraftVocab = as_shape(data, f"{file}: damaged draft vocabulary", DraftVocab)
    return vocab


def fingerprint(tokenizer: Any) -> str:
    """SHA-256 of all tokens with their ids."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1]):
        digest.update(f"{index}\t{token!r}\n".encode())
    return digest.hexdigest()


def flatten_ids(values: Iterable[Any]) -> Iterator[int]:
    """The ids in values of `END_FIELDS`, each of which is an id, a list of ids, or None."""
    for value in values:
        if value is not None:
            yield from value if isinstance(value, list | tuple) else [int(value)]


Asked = int | str | Path | DraftVocab | Sequence[int] | None
"""A draft vocabulary as requested: a number of tokens of the model's own list (also as text), a
file, a list or its ids; None: the whole vocabulary."""


def as_asked(asked: Asked) -> int | str | Path | DraftVocab | None:
    """``asked`` with text of digits as a number and ids as a list.

    Raises:
        OptionError: none of the forms of `Asked`.
    """
    if isinstance(asked, str):
        return as_asked(int(asked)) if asked.isdecimal() else asked
    if isinstance(asked, int | Integral):
        return as_integer("draft_vocab", asked, 1)
    if asked is None or isinstance(asked, Path | DraftVocab):
        return asked
    return DraftVocab.of(asked)


def resolve(asked: Asked, name: str, folder: Path | None, tokenizer: Any) -> DraftVocab | None:
    """The requested list, checked against the target's tokenizer.

    Args:
        asked: see `Asked`.
        name: of the target.
        folder: of its checkpoint.
        tokenizer: its tokenizer.

    Raises:
        OptionError: a number of tokens, and the model has no list or a shorter one.
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
    else:
        vocab = asked if isinstance(asked, DraftVocab) else read(asked)
    vocab.check(name, tokenizer)
    return vocab.first(asked) if isinstance(asked, int) else vocab
