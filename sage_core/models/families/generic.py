"""Any other model of pictures and text, through its own processor, if a tree pass fits it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_core.errors import ModelError
from sage_core.media.types import Sampling
from sage_core.models.catalog import reading_json
from sage_core.models.families.base import Family, Media, Turn, images_of, load_image_processor
from sage_core.models.quiet import quiet

TEXT_INPUTS = ("input_ids", "attention_mask")
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
"""Names that some processors give to a further input: 1 where a token is an image placeholder."""


class Generic(Family):
    """Image-text-to-text models that transformers knows and no other family prepares inputs for.

    The checkpoint's processor does the work, with its image processor in the Pillow form; a clip
    is its frames, as pictures. Whether a tree pass is exact is not known in advance, so
    `needs_tree_probe` asks for a trial before anything is decoded.

    Raises:
        ModelError: the checkpoint's processor is missing, or needs more than pictures and text.
    """

    needs_tree_probe = True

    @classmethod
    def matches(cls, config: Any) -> bool:
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

        return hasattr(config, "vision_config") and (
            type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        )

    def __init__(self, folder: Path, config: Any, tokenizer: Any) -> None:
        super().__init__(folder, config, tokenizer)
        self.processor = _load_processor(folder, config, tokenizer)
        self.image_token = str(getattr(self.processor, "image_token", ""))
        if not self.image_token:
            raise ModelError(
                f"{folder}: models of type {config.model_type} are not supported: their processor "
                "names no token for pictures"
            )

    @property
    def sampling(self) -> Sampling:
        return Sampling(frames=4)

    @property
    def placeholders(self) -> tuple[str, ...]:
        return (self.image_token,)

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        images = images_of(media)
        if not images:
            return {}
        # What stands for a picture in the text is the template's affair.
        batch = self._process(self.render([Turn(tuple(media), "")]), images)
        return {name: batch[name] for name in batch if name not in TEXT_INPUTS + TOKEN_TYPES}

    def content(self, text: str, media: Sequence[Media] = ()) -> Any:
        return [*({"type": "image"} for _ in images_of(media)), {"type": "text", "text": text}]

    def build_inputs(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """The processor repeats the placeholders, as it knows how many tokens a picture has."""
        batch = self._process(text, images_of(media))
        return self.add_token_types({name: batch[name] for name in TEXT_INPUTS} | media_inputs)

    def add_token_types(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs["input_ids"]
        pictures = (ids == self.tokenizer.convert_tokens_to_ids(self.image_token)).long()
        wanted = [name for name in TOKEN_TYPES if name in self.processor.model_input_names]
        return inputs | dict.fromkeys(wanted, pictures)

    def _process(self, text: str, images: Sequence[Any]) -> dict[str, Any]:
        bos = self.tokenizer.bos_token
        begins = bool(self.chat_template) and bool(bos) and text.startswith(bos)
        try:
            with quiet():
                batch = self.processor(
                    text=[text],
                    images=list(images) or None,
                    add_special_tokens=not begins,
                    return_tensors="pt",
                )
        except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            raise ModelError(
                f"the processor of {self.config.model_type} models cannot prepare this "
                f"({' '.join(str(error).split())[:120]}): choose a model of another family"
            ) from error
        return dict(batch)


def _load_processor(folder: Path, config: Any, tokenizer: Any) -> Any:
    """The checkpoint's processor around its Pillow image processor, without a video processor.

    Made here and not by `AutoProcessor`, which asks for torchvision wherever video is known.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    settings: dict[str, Any] = {}
    file = folder / "processor_config.json"
    if file.is_file():
        with reading_json(file):
            settings = json.loads(file.read_text(encoding="utf-8"))
    name = settings.get("processor_class") or PROCESSOR_MAPPING_NAMES.get(config.model_type)
    kind = getattr(transformers, str(name), None)
    unsupported = f"{folder}: models of type {config.model_type} are not supported"
    if kind is None:
        raise ModelError(f"{unsupported}: transformers has no processor for them")
    if hasattr(kind, "_backends"):  # what transformers has in place of a class it cannot import
        missing = ", ".join(kind._backends)
        raise ModelError(f"{unsupported} here: their {name} needs {missing}")
    takes = set(inspect.signature(kind.__init__).parameters)
    if not takes >= {"image_processor", "tokenizer"}:
        raise ModelError(f"{unsupported}: their {name} takes more than pictures and text")

    class WithoutVideo(kind):  # type: ignore[misc, valid-type]
        """The processor with the parts that need no torchvision."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(argument)

    WithoutVideo.__name__ = kind.__name__
    parts = ("image_processor", "video_processor", "tokenizer", "chat_template")
    options = {key: value for key, value in settings.items() if key in takes and key not in parts}
    images = load_image_processor(folder)
    try:
        with quiet():
            return WithoutVideo(image_processor=images, tokenizer=tokenizer, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{unsupported}: their {name} cannot be made ({reason})") from error
