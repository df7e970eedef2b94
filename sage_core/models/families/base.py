"""The interface of model families: images, videos and a prompt become model inputs."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from sage_core.checks import no_utf8_at
from sage_core.errors import InputError, ModelError, OptionError, SageError
from sage_core.media.types import Clip, Picture, Sampling
from sage_core.models.catalog import reading_json
from sage_core.models.chat_template import check_template, render
from sage_core.models.checkpoint_errors import checkpoint_errors, is_panic, reason
from sage_core.models.quiet import is_memory_error, quiet
from sage_core.models.thinking import THOUGHT_TAGS, opened_thought

Media = Picture | Clip

_NO_SYSTEM = "this model {}: leave the system message out, or put it into the prompt"


@dataclass(frozen=True, eq=False)
class Turn:
    """One turn of a conversation: media and text of the user, and the answer if there is one."""

    media: tuple[Media, ...]
    text: str
    answer: str | None = None


class Family(ABC):
    """Prepares inputs for the checkpoints of some ``config.model_type``s, as in ``folder``."""

    model_types: ClassVar[tuple[str, ...]] = ()
    placeholders: tuple[str, ...] = ()
    """The placeholder tokens of images and videos."""
    needs_tree_probe: ClassVar[bool] = False
    """Whether the look at a loaded model (`engine.model_check`) needs a picture in its prompt."""

    def __init__(self, folder: Path, config: Any, tokenizer: Any) -> None:
        self.folder = folder
        self.config = config
        self.tokenizer = tokenizer
        self.chat_template = load_chat_template(folder, tokenizer)

    @classmethod
    def matches(cls, config: Any) -> bool:
        """Whether this family prepares inputs for models with that configuration."""
        return config.model_type in cls.model_types

    @property
    def sampling(self) -> Sampling:
        """Default sampling of video frames."""
        return Sampling(frames=8)

    @abstractmethod
    def process_media(self, media: Sequence[Media]) -> dict[str, Any]:
        """Pixel inputs of the model's forward; empty without media.

        Tensors are on the CPU, pixels in float32.

        Raises:
            InputError: media that models of this family do not support.
        """

    def expand_placeholders(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> str:
        """``text`` with each placeholder repeated to the token count of its image or video.

        ``media_inputs``: the result of `process_media` for ``media``, in placeholder order.
        """
        return text

    def add_token_types(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """``inputs`` plus token type ids where the model's forward needs them."""
        return inputs

    def prepare(
        self, media: Sequence[Media], prompt: str, *, system: str = "", start_with: str = ""
    ) -> dict[str, Any]:
        """The keyword arguments of the model's forward for one user turn.

        ``media`` come in the given order before ``prompt``, and ``system`` before all of it;
        ``start_with`` is the beginning of the answer. Tensors are on the CPU, with batch size 1:
        ``input_ids`` and ``attention_mask`` int64 (1, prompt tokens), pixels in float32.

        Raises:
            InputError: media that models of this family do not support.
            OptionError: a text contains a placeholder token, or is not Unicode text; a system
                message that the chat template does not take; a beginning of the answer that would
                be within a thought.
            ModelError: the checkpoint's template or processor fails.
        """
        self.check_text(prompt)
        text = self.render([Turn(tuple(media), prompt)], system)
        if start_with:
            text = self._begun(text, start_with)
        with self.input_errors(media):
            return self.build_inputs(text, media, self.process_media(media))

    def _begun(self, text: str, start: str) -> str:
        """A rendered prompt with the beginning of its answer."""
        self.check_text(start, "the start of the answer")
        tag = opened_thought(text)
        if tag and (closing := dict(THOUGHT_TAGS)[tag]) not in start:
            raise OptionError(
                f"this model's answers begin within a thought ({tag}): begin the start of the "
                f"answer with {closing}"
            )
        # Models continue "ASSISTANT:" with a space, which templates leave to them.
        space = text[-1:].isalnum() or text.endswith(":")
        return text + (" " if space and not start[0].isspace() else "") + start

    @contextmanager
    def input_errors(self, media: Sequence[Media]) -> Iterator[None]:
        """Turn an error of preparing inputs for ``media`` into one of a file or of the checkpoint.

        Which of them is found out by preparing an ordinary picture or clip, and then each file
        alone: an `InputError` names the first that fails where that succeeds; else it is a
        `ModelError`.
        """
        try:
            yield
        except (SageError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, RuntimeError) and is_memory_error(error):
                raise
            if self._prepares([_ordinary(item) for item in media]):
                for item in media:
                    if not self._prepares([item]):
                        raise InputError(
                            f"{item.name}: this model's processor cannot use it ({reason(error)}): "
                            "give a file of another size or shape"
                        ) from error
            files = ("config.json", "preprocessor_config.json", "processor_config.json")
            with checkpoint_errors(self.folder, *files):
                raise

    def _prepares(self, media: Sequence[Media]) -> bool:
        """Whether inputs can be prepared for these media."""
        try:
            text = self.render([Turn(tuple(media), "")])
            self.build_inputs(text, media, self.process_media(media))
        except Exception:
            return False
        return True

    def build_inputs(
        self, text: str, media: Sequence[Media], media_inputs: dict[str, Any]
    ) -> dict[str, Any]:
        """The keyword arguments of the model's forward for a rendered text and its media."""
        return self.add_token_types(
            self.encode(self.expand_placeholders(text, media, media_inputs)) | media_inputs
        )

    def render(self, turns: Sequence[Turn], system: str = "") -> str:
        """``turns`` in the checkpoint's chat template, up to the beginning of the next answer.

        Raises:
            OptionError: there is a ``system`` message, and the template takes none.
        """
        if system:
            self.check_text(system, "the system message")
        if self.chat_template is None:  # a base model: the text alone
            if system:
                raise OptionError(_NO_SYSTEM.format("has no chat template"))
            return "\n".join(turn.text + (turn.answer or "") for turn in turns)
        messages: list[dict[str, Any]] = []
        for turn in turns:
            messages.append({"role": "user", "content": self.content(turn.text, turn.media)})
            if turn.answer is not None:
                messages.append({"role": "assistant", "content": self.content(turn.answer)})
        if system:
            return self._with_system(messages, system)
        return render(self.tokenizer, self.chat_template, messages, str(self.folder))

    def _with_system(self, messages: Sequence[dict[str, Any]], system: str) -> str:
        """``messages`` behind a system message, whose content is a list or text by template."""
        template, name = self.chat_template, str(self.folder)
        assert template is not None
        plain = render(self.tokenizer, template, messages, name)
        wanted = plain.count(system.strip()) + 1
        for content in (self.content(system), system):
            message = {"role": "system", "content": content}
            try:
                text = render(self.tokenizer, template, [message, *messages], name)
            except ModelError:  # templates raise to refuse it
                continue
            printed = not isinstance(content, str) and str(content) in text
            if text.count(system.strip()) == wanted and not printed:
                return text
        raise OptionError(_NO_SYSTEM.format("takes no system message in its chat template"))

    def content(self, text: str, media: Sequence[Media] = ()) -> Any:
        """The content of one message, in the form that chat templates of this family take."""
        kinds = [{"type": "image" if isinstance(m, Picture) else "video"} for m in media]
        return [*kinds, {"type": "text", "text": text}]

    def encode(self, text: str) -> dict[str, Any]:
        """Token ids and attention mask, int64 (1, tokens).

        No second beginning-of-sequence token is added if the chat template writes it.
        """
        bos = self.tokenizer.bos_token
        plain = self.chat_template is None or not (bos and text.startswith(bos))
        encoded = self._tokenize(text, return_tensors="pt", add_special_tokens=plain)
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def encode_more(self, text: str) -> list[int]:
        """Token ids of a text that continues other text.

        Encoded after a letter, since some tokenizers add a space or token at the beginning.
        """
        letter, ids = self._plain_ids("a"), self._plain_ids("a" + text)
        return ids[len(letter) :] if ids[: len(letter)] == letter else self._plain_ids(text)

    def decode_more(self, ids: Sequence[int]) -> str:
        """The text of token ids that continue other text, with its leading space."""
        ids = [*self._plain_ids("a"), *ids]
        text = self.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text).removeprefix("a")

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._tokenize(text, add_special_tokens=False)["input_ids"])

    def _tokenize(self, text: str, **options: Any) -> Any:
        try:
            return self.tokenizer(text, **options)
        except BaseException as error:
            if not is_panic(error):
                raise
            raise ModelError(
                f"{self.folder}: its tokenizer cannot encode this text ({reason(error)}): write it "
                "otherwise, or get a complete copy of the model"
            ) from error

    def check_text(self, text: str, what: str = "the prompt") -> None:
        """Refuse text that cannot be in a conversation; ``what`` is what messages call it.

        Raises:
            OptionError: it contains a placeholder token, or half of a surrogate pair: so Python
                keeps bytes that are no UTF-8, and JSON can hold one.
        """
        for placeholder in self.placeholders:
            if placeholder in text:
                raise OptionError(f"{what} may not contain {placeholder}: write it otherwise")
        if (place := no_utf8_at(text)) is not None:
            raise OptionError(f"{what} is not UTF-8 text (at character {place}): write it in UTF-8")


def _ordinary(item: Media) -> Media:
    """A grey square in place of an image, or of each frame of a video."""
    side = 336
    if isinstance(item, Picture):
        return replace(item, image=Image.new("RGB", (side, side), "grey"))
    return replace(item, frames=np.full((len(item.frames), side, side, 3), 128, np.uint8))


def expand(text: str, placeholder: str, counts: Sequence[int], what: str) -> str:
    """Repeat the i-th ``placeholder`` in ``text`` ``counts[i]`` times.

    Raises:
        ModelError: the text has another number of placeholders; ``what`` names them.
    """
    pieces = text.split(placeholder)
    if len(pieces) != len(counts) + 1:
        raise ModelError(
            f"the model's chat template asks for {len(pieces) - 1} {what}, not {len(counts)}: "
            "use a checkpoint whose template knows them"
        )
    filled = [piece + placeholder * n for piece, n in zip(pieces, counts, strict=False)]
    return "".join(filled) + pieces[-1]


def load_image_processor(folder: Path) -> Any:
    """The checkpoint's image processor in its Pillow version, which needs no torchvision.

    The class is looked up by name, since `AutoImageProcessor` requires torchvision in some versions
    of transformers.

    Raises:
        ModelError: the checkpoint names none, or transformers does not have it.
    """
    import transformers

    name = _image_processor_name(folder)
    kind = getattr(transformers, f"{name}Pil", None)
    if kind is None:
        raise ModelError(f"{folder}: transformers has no image processor {name} for Pillow")
    with quiet(), checkpoint_errors(folder, "preprocessor_config.json", "processor_config.json"):
        return kind.from_pretrained(folder, local_files_only=True)


def _image_processor_name(folder: Path) -> str:
    """The class name in the checkpoint, without its backend suffix."""
    for file, key in (
        ("preprocessor_config.json", None),
        ("processor_config.json", "image_processor"),
    ):
        path = folder / file
        if path.is_file():
            with reading_json(path) as content:
                found = (content.get(key, {}) if key else content).get("image_processor_type")
            if found:
                return str(found).removesuffix("Fast").removesuffix("Pil")
    raise ModelError(
        f"{folder}: its image processor cannot be loaded: preprocessor_config.json names none"
    )


def load_chat_template(folder: Path, tokenizer: Any) -> str | None:
    """The processor's chat template, else the tokenizer's (older checkpoints have both)."""
    legacy = folder / "chat_template.json"
    if legacy.is_file():
        with reading_json(legacy) as content:
            template = content["chat_template"]
    else:
        template = tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
    if template is None:
        return None
    if not isinstance(template, str):
        raise ModelError(f"{folder}: its chat template is no text: get a complete copy of it")
    check_template(template, str(folder))
    return template


def find_family(config: Any) -> type[Family]:
    """The family for ``config`` among the modules of this package.

    Families with ``model_types`` come before those without.

    Raises:
        ModelError: there is none.
    """
    package = importlib.import_module("sage_core.models.families")
    found: list[type[Family]] = []
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        classes = [member for member in vars(module).values() if isinstance(member, type)]
        found += [kind for kind in classes if issubclass(kind, Family) and kind.matches(config)]
    if not found:
        raise ModelError(
            f"models of type {config.model_type} are not supported yet: choose one of another "
            "family"
        )
    return max(found, key=lambda kind: bool(kind.model_types))


def split_media(media: Sequence[Media]) -> tuple[list[Picture], list[Clip]]:
    """Images and videos, each in order."""
    images = [item for item in media if isinstance(item, Picture)]
    videos = [item for item in media if isinstance(item, Clip)]
    return images, videos


def images_of(media: Sequence[Media]) -> list[Any]:
    """Images, and video frames as images, in order."""
    return [
        image
        for item in media
        for image in ([item.image] if isinstance(item, Picture) else map(as_image, item.frames))
    ]


def as_image(frame: np.ndarray) -> Image.Image:
    """A frame, uint8 (height, width, 3), as a Pillow image.

    Image processors take the first axis of an array of 1, 3 or 4 rows for its channels.
    """
    return Image.fromarray(frame)


class FramesAsImages(Family):
    """A family whose models take video frames as images."""

    def content(self, text: str, media: Sequence[Media] = ()) -> Any:
        return [*({"type": "image"} for _ in images_of(media)), {"type": "text", "text": text}]
