"""What every family answers: how pictures, clips and a prompt become the inputs of its models."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sage_core.errors import InputError, ModelError, OptionError
from sage_core.media.types import Clip, Picture, Sampling
from sage_core.models.catalog import reading_json
from sage_core.models.quiet import quiet

Media = Picture | Clip


@dataclass(frozen=True, eq=False)
class Turn:
    """What a user shows and says, and the answer that it got, if it got one."""

    media: tuple[Media, ...]
    text: str
    answer: str | None = None


class Family(ABC):
    """Prepares inputs for the checkpoints of some ``config.model_type``s.

    Args:
        folder: a local checkpoint.
        config: its transformers configuration.
        tokenizer: its tokenizer.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    needs_tree_probe: ClassVar[bool] = False
    """Whether a loaded model must pass `engine.probe.check_tree_pass` before it decodes."""

    def __init__(self, folder: Path, config: Any, tokenizer: Any) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.chat_template = load_chat_template(folder, tokenizer)

    @classmethod
    def matches(cls, config: Any) -> bool:
        """True if this family prepares inputs for models of that configuration."""
        return config.model_type in cls.model_types

    @property
    def sampling(self) -> Sampling:
        """How clips are sampled when the caller does not say."""
        return Sampling(frames=8)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The tokens that stand for pictures and clips in a prompt."""
        return ()

    @abstractmethod
    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        """Media as keyword arguments of the model's forward; empty without media.

        The tensors are on the CPU, pixels in float32.

        Raises:
            InputError: the models of this family cannot look at such media.
        """

    def expand_placeholders(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> str:
        """``text`` with each placeholder as often as its picture or clip has tokens.

        ``media_inputs`` is what `look` gave for ``media``, which come in the order of the placeholders.
        """
        return text

    def add_token_types(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """``inputs`` with what else the model's forward wants to know of their ``input_ids``."""
        return inputs

    def prepare(self, media: Sequence[Media], prompt: str) -> dict[str, Any]:
        """The keyword arguments of the model's forward for one user turn.

        ``media`` is seen in the given order, before ``prompt``. The tensors are on the CPU, with
        a batch of one: ``input_ids`` and ``attention_mask`` int64 of shape (1, prompt tokens),
        and the family's own pixel inputs in float32.

        Raises:
            InputError: the models of this family cannot look at such media.
            OptionError: the prompt holds a placeholder of the family's own.
        """
        self.refuse_placeholders(prompt)
        media_inputs = self.process_media(media)
        return self.build_inputs(self.render([Turn(tuple(media), prompt)]), media, media_inputs)

    def build_inputs(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """The keyword arguments of the model's forward for a rendered text with its media."""
        return self.add_token_types(
            self.encode(self.expand_placeholders(text, media, media_inputs)) | media_inputs
        )

    def render(self, turns: Sequence[Turn]) -> str:
        """The checkpoint's chat template around ``turns``, ready for the next answer."""
        if self.chat_template is None:  # a base model: the text alone
            return "\n".join(turn.text + (turn.answer or "") for turn in turns)
        messages: list[dict[str, Any]] = []
        for turn in turns:
            messages.append({"role": "user", "content": self.content(turn.text, turn.media)})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": self.content(turn.answer)})
        return str(
            self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=True,
            )
        )

    def content(self, text: str, media: Sequence[Media] = ()) -> Any:
        """One message's content as the chat templates of this family take it."""
        kinds = [{"type": "image" if isinstance(m, Picture) else "video"} for m in media]
        return [*kinds, {"type": "text", "text": text}]

    def encode(self, text: str) -> dict[str, Any]:
        """Token ids and mask, int64 of shape (1, tokens); special tokens as the template has them.

        A template that writes the beginning-of-sequence token itself must not get a second one.
        """
        bos = self.tokenizer.bos_token
        plain = self.chat_template is None or not (bos and text.startswith(bos))
        encoded = self.tokenizer(text, return_tensors="pt", add_special_tokens=plain)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def encode_more(self, text: str) -> list[int]:
        """Token ids of a text that stands behind other text.

        Encoded behind a letter, as some tokenizers put a space or a token before what they take
        for a beginning.
        """
        letter = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        ids: list[int] = self.tokenizer("a" + text, add_special_tokens=False)["input_ids"]
        if ids[: len(letter)] == letter:
            return ids[len(letter) :]
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode_more(self, ids: Sequence[int]) -> str:
        """The text of token ids that stand behind other text, its leading space included."""
        letter = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        text = self.tokenizer.decode(
            [*letter, *ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text).removeprefix("a")

    def refuse_placeholders(self, prompt: str) -> None:
        """Refuse a prompt that would be taken for a picture where it only talks about one."""
        for placeholder in self.placeholders:
            if placeholder in prompt:
                raise OptionError(f"the prompt may not contain {placeholder}: write it otherwise")


def expand(text: str, placeholder: str, counts: Sequence[int], what: str) -> str:
    """Repeat each ``placeholder`` in ``text`` as often as its picture has tokens."""
    pieces = text.split(placeholder)
    if len(pieces) != len(counts) + 1:
        raise ModelError(
            f"the model's chat template asks for {len(pieces) - 1} {what}, not {len(counts)}: "
            "use a checkpoint whose template knows them"
        )
    filled = [piece + placeholder * n for piece, n in zip(pieces, counts, strict=False)]
    return "".join(filled) + pieces[-1]


def load_image_processor(folder: Path) -> Any:
    """The checkpoint's image processor in its Pillow form, which needs no torchvision.

    The class is looked up by name, as `AutoImageProcessor` itself asks for torchvision in some
    versions of transformers.

    Raises:
        ModelError: the checkpoint has none, or transformers does not know it.
    """
    import transformers

    name = _image_processor_name(folder)
    kind = getattr(transformers, f"{name}Pil", None)
    if kind is None:
        raise ModelError(f"{folder}: transformers has no image processor {name} for Pillow")
    try:
        with quiet():
            return kind.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise ModelError(
            f"{folder}: its image processor cannot be loaded: check preprocessor_config.json"
        ) from error


def _image_processor_name(folder: Path) -> str:
    """The class that the checkpoint names, without the backend that its name may end in."""
    for file, key in (
        ("preprocessor_config.json", None),
        ("processor_config.json", "image_processor"),
    ):
        path = folder / file
        if not path.is_file():
            continue
        with reading_json(path):
            content = json.loads(path.read_text(encoding="utf-8"))
        found = (content.get(key, {}) if key else content).get("image_processor_type")
        if found:
            return str(found).removesuffix("Fast").removesuffix("Pil")
    raise ModelError(
        f"{folder}: its image processor cannot be loaded: preprocessor_config.json names none"
    )


def load_chat_template(folder: Path, tokenizer: Any) -> str | None:
    """The processor's chat template, else the tokenizer's: older checkpoints keep two."""
    legacy = folder / "chat_template.json"
    if legacy.is_file():
        with reading_json(legacy):
            return str(json.loads(legacy.read_text(encoding="utf-8"))["chat_template"])
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return template


def find_family(config: Any) -> type[Family]:
    """The family that prepares inputs for ``config``: every module beside this one is asked.

    Raises:
        ModelError: none does.
    """
    package = importlib.import_module("sage_core.models.families")
    fallback: list[type[Family]] = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if not issubclass(member, Family) or member.__module__ != module.__name__:
                continue
            if member.model_types and member.matches(config):
                return member
            if member is not Family and not member.model_types and member.matches(config):
                fallback.append(member)
    if fallback:
        return fallback[0]
    raise ModelError(
        f"models of type {config.model_type} are not supported yet: choose one of another family"
    )


def split_media(media: Sequence[Media]) -> tuple[list[Picture], list[Clip]]:
    """Pictures and clips, each in their order."""
    pictures = [item for item in media if isinstance(item, Picture)]
    clips = [item for item in media if isinstance(item, Clip)]
    return pictures, clips


def images_of(media: Sequence[Media]) -> list[Any]:
    """Pictures, and the frames of clips as pictures, in their order."""
    images: list[Any] = []
    for item in media:
        images.extend([item.image] if isinstance(item, Picture) else item.frames)
    return images


def refuse_media(media: Sequence[Media], reason: str) -> None:
    """Refuse what a family cannot look at."""
    if media:
        raise InputError(f"{media[0].name}: {reason}")
