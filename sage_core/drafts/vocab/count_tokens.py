"""Counts the tokens of texts, or of sage's own output, for a draft vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from sage_core.drafts.vocab.token_list import END_FIELDS, DraftVocab, fingerprint, flatten_ids
from sage_core.errors import InputError, ModelError
from sage_core.files.reading import as_shape, decode, parse_json, split_lines
from sage_core.models import hub
from sage_core.models.catalog import read_config, reading_json
from sage_core.models.checkpoint import load_config, load_tokenizer
from sage_core.models.checkpoint_errors import checkpoint_errors
from sage_core.models.families import find_family
from sage_core.models.pair_names import find_pair

SIZE = 32_768
"""Default length of a list: what FR-Spec keeps of 128k tokens."""
_BLOCK = 1 << 16
"""Characters of a text that are tokenized at once."""


@dataclass(frozen=True)
class CountedText:
    """A text, with its token ids if ``model`` wrote it."""

    text: str
    tokens: tuple[int, ...] = ()
    model: str = ""


def count_vocab(
    sources: Iterable[tuple[str, bytes]],
    model: str | Path | None = None,
    size: int = SIZE,
    *,
    revision: str | None = None,
    code: bool = False,
) -> DraftVocab:
    """The most frequent tokens of texts, and all end tokens and special tokens.

    No weights are read.

    Args:
        sources: names and contents of files: UTF-8 text, or output of sage with ``--jsonl`` or
            ``--json``. Ids that the same model wrote are counted as they are; other text is
            tokenized.
        model: as `sage_core.load`'s target.
        size: most tokens to keep.
        revision: of a model on the hub.
        code: allow code that comes with the checkpoint.

    Raises:
        InputError: a file is not text, or all are empty.
        ModelError: the model cannot be found.
    """
    names = find_pair(model, None)
    checkpoint = hub.find(names.target, revision, code=code)
    config = load_config(checkpoint.folder, code=code)
    tokenizer = load_tokenizer(checkpoint.folder, code=code)
    most = int(config.get_text_config(decoder=True).vocab_size)
    counts: Counter[int] = Counter()
    for name, content in sources:
        for one in read_texts(content, name):
            own = one.model == names.target_id and one.tokens
            ids = one.tokens if own else tokenizer.encode(one.text, add_special_tokens=False)
            counts.update(index for index in ids if index < most)
    if not counts:
        raise InputError("there is no text in these files: give some that the model might write")
    with checkpoint_errors(checkpoint.folder, "config.json", "preprocessor_config.json"):
        family = find_family(config)(checkpoint.folder, config, tokenizer)
    placeholders = set(tokenizer.convert_tokens_to_ids(list(family.placeholders)))
    special = [index for index in tokenizer.all_special_ids if index not in placeholders]
    always = sorted({i for i in (*_ends(checkpoint.folder), *special) if i < most})
    return DraftVocab.counted_from(
        counts, always, size, tokenizer=names.target_id, fingerprint=fingerprint(tokenizer)
    )


def read_texts(content: bytes, name: str) -> Iterator[CountedText]:
    """The texts in a file: of sage's records, or the file itself in blocks of lines.

    Raises:
        InputError: not UTF-8 text, or only its first lines are records of sage.
    """
    text = decode(content, name)
    if "\0" in text:
        raise InputError(f"{name}: not a text file: give text, or output of --jsonl")
    records = _records(text, name)
    if records is None:
        yield from map(CountedText, _blocks(text))
        return
    for record in records:
        if record.text is not None:  # the others are failures
            yield CountedText(record.text, record.tokens, str(record.models.get("target", "")))


class _Record(msgspec.Struct):
    """What is read of a record of sage's JSON output."""

    text: str | None = None
    tokens: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    models: dict[str, Any] = {}


def _records(text: str, name: str) -> list[_Record] | None:
    """The records in output of ``--jsonl`` or ``--json``; None if the text is anything else."""
    lines = [(number, line) for number, line in enumerate(split_lines(text), 1) if line.strip()]
    if not lines or lines[0][1].lstrip()[0] not in "[{":
        return None
    if not _is_record(_parsed(lines[0][1])):
        whole = _parsed(text)
        found = whole if isinstance(whole, list) else [whole]
        if not found or not all(map(_is_record, found)):
            return None
        return [as_shape(one, name, _Record) for one in found]
    records: list[_Record] = []
    for number, line in lines:
        record = _parsed(line)
        if not _is_record(record):
            raise InputError(f"{name}: line {number} is not a record of sage's JSON output")
        records.append(as_shape(record, f"{name}:{number}", _Record))
    return records


def _parsed(text: str) -> Any:
    try:
        return parse_json(text, "", any_number=True)
    except InputError:
        return None


def _is_record(data: Any) -> bool:
    return isinstance(data, dict) and "schema" in data and ("text" in data or "error" in data)


def _blocks(text: str) -> Iterator[str]:
    """Blocks of whole lines, because tokenizing a long text at once is slow."""
    block: list[str] = []
    length = 0
    for line in split_lines(text, keepends=True):
        block.append(line)
        length += len(line)
        if length >= _BLOCK:
            yield "".join(block)
            block, length = [], 0
    yield "".join(block)


def _ends(folder: Path) -> list[int]:
    """End tokens and forced tokens of a checkpoint's configurations."""
    holders = [read_config(folder)]
    holders += [part for part in holders[0].values() if isinstance(part, dict)]
    generation = folder / "generation_config.json"
    if generation.is_file():
        with reading_json(generation) as content:
            holders.append(content)
    try:
        return list(flatten_ids(h.get(field) for h in holders for field in END_FIELDS))
    except TypeError as error:
        raise ModelError(f"{folder}: damaged ids of end tokens: get a whole copy") from error
