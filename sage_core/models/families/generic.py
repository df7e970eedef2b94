"""Other image-text models, through their own processor, if a tree pass is exact for them."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_core.errors import ModelError
from sage_core.media.types import Sampling
from sage_core.models.catalog import reading_json
from sage_core.models.families.base import (
    FramesAsImages,
    Media,
    Turn,
    images_of,
    load_image_processor,
)
from sage_core.models.quiet import quiet

TEXT_INPUTS = ("input_ids", "attention_mask")
TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
"""Names that some processors give to a further input: 1 where a token is an image placeholder."""


class Generic(FramesAsImages):
    """Image-text-to-text models of transformers without a family of their own.

    Inputs come from the checkpoint's processor with its image processor in the Pillow version;
    video frames are passed as images. A loaded model must pass a trial of one tree.

    Raises:
        ModelError: the checkpoint's processor is missing, or needs more than images and text.
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
                "names no image token"
            )
        self.placeholders = (self.image_token,)

    @property
    def sampling(self) -> Sampling:
        return Sampling(frames=4)

    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        images = images_of(media)
        if not images:
            return {}
        # The chat template writes the image placeholders.
        batch = self._process(self.render([Turn(tuple(media), "")]), images)
        return {name: batch[name] for name in batch if name not in TEXT_INPUTS + TOKEN_TYPES}

    def build_inputs(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """The processor expands the placeholders, since it knows the token count of an image."""
        batch = self._process(text, images_of(media))
        return self.add_token_types({name: batch[name] for name in TEXT_INPUTS} | media_inputs)

    def add_token_types(self, inputs: dict[str, Any]) -> dict[str, Any]:
        ids = inputs["input_ids"]
        is_image = (ids == self.tokenizer.convert_tokens_to_ids(self.image_token)).long()
        wanted = [name for name in TOKEN_TYPES if name in self.processor.model_input_names]
        return inputs | dict.fromkeys(wanted, is_image)

    def _process(self, text: str, images: Sequence[Any]) -> dict[str, Any]:
        bos = self.tokenizer.bos_token
        begins = bool(self.chat_template) and bool(bos) and text.startswith(bos)
        with quiet():
            batch = self.processor(
                text=[text],
                images=list(images) or None,
                add_special_tokens=not begins,
                return_tensors="pt",
            )
        return dict(batch)


def _load_processor(folder: Path, config: Any, tokenizer: Any) -> Any:
    """The checkpoint's processor with its Pillow image processor and without a video processor.

    Not by `AutoProcessor`, which requires torchvision for processors with video.
    """
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    settings: dict[str, Any] = {}
    file = folder / "processor_config.json"
    if file.is_file():
        with reading_json(file) as settings:
            settings = dict(settings)
    name = settings.get("processor_class") or PROCESSOR_MAPPING_NAMES.get(config.model_type)
    kind = getattr(transformers, str(name), None)
    unsupported = f"{folder}: models of type {config.model_type} are not supported"
    if kind is None:
        raise ModelError(f"{unsupported}: transformers has no processor for them")
    if hasattr(kind, "_backends"):  # a placeholder for a class that cannot be imported
        missing = ", ".join(kind._backends)
        raise ModelError(f"{unsupported} here: their {name} needs {missing}")
    takes = set(inspect.signature(kind.__init__).parameters)
    if not takes >= {"image_processor", "tokenizer"}:
        raise ModelError(f"{unsupported}: their {name} takes more than images and text")

    class WithoutVideo(kind):  # type: ignore[misc, valid-type]
        """The processor without the parts that need torchvision."""

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
