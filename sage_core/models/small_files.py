"""The small files of a checkpoint, checked before transformers reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from sage_core.errors import ModelError
from sage_core.files.reading import as_shape, read_json

_OBJECTS = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.json"),
)
"""Files that hold one JSON object each, if they exist."""

_Id = Annotated[int, msgspec.Meta(ge=-1, lt=2**31)]
_Ids = _Id | list[_Id] | None


class _GenerationFields(msgspec.Struct):
    """Types of fields of a ``generation_config.json``, of which transformers takes any."""

    bos_token_id: _Ids = None
    eos_token_id: _Ids = None
    pad_token_id: _Ids = None
    decoder_start_token_id: _Ids = None
    forced_bos_token_id: _Ids = None
    forced_eos_token_id: _Ids = None
    suppress_tokens: list[_Id] | None = None
    begin_suppress_tokens: list[_Id] | None = None
    bad_words_ids: list[list[_Id]] | None = None
    do_sample: bool | None = None
    use_cache: bool | None = None
    renormalize_logits: bool | None = None
    remove_invalid_values: bool | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    no_repeat_ngram_size: int | None = None
    encoder_no_repeat_ngram_size: int | None = None
    top_k: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_h: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    max_time: float | None = None
    repetition_penalty: float | None = None
    encoder_repetition_penalty: float | None = None
    length_penalty: float | None = None
    guidance_scale: float | None = None
    stop_strings: str | list[str] | None = None


def check_small_files(folder: Path) -> None:
    """Refuse a checkpoint whose small files are damaged.

    Raises:
        ModelError: names the file, and the field if one is wrong.
    """
    for name in _OBJECTS:
        path = folder / name
        if not path.is_file():
            continue
        content: dict[str, Any] = read_json(path, dict, error=ModelError, any_number=True)
        if name == "generation_config.json":
            as_shape(content, path, _GenerationFields, error=ModelError)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder}: holds an adapter (adapter_config.json): merge it into its model and give "
            "the folder of the merged one"
        )
