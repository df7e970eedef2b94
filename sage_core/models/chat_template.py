"""Renders a checkpoint's chat template, which anyone may have written, within limits."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from sage_core.errors import ModelError, SageError
from sage_core.models.checkpoint_errors import reason

SECONDS = 1.0
"""Processor time of one rendering; a usual template takes a millisecond."""
CHARACTERS = 16 * 1024**2
"""Of a rendered prompt."""
_BYTES = 1024**3  # of memory that one rendering may take
_NUMBER = 1_000_000  # largest whole number in a template
_EVERY = 64  # calls of other functions per look at the clock
_PAUSE = 0.01  # seconds between two looks at the memory
_ADVICE = "use a copy of the model with another chat template"


def render(tokenizer: Any, template: str, messages: Sequence[dict[str, Any]], name: str) -> str:
    """``messages`` in a chat template, up to the beginning of the next answer.

    ``name`` is the checkpoint in messages. The library renders in a sandbox that keeps a template
    from files and other code; time and memory are limited here.

    Raises:
        ModelError: the template is no text, does not parse, raises, or goes over a limit.
    """
    from transformers.utils import chat_template_utils

    # Kept by the library, and several times slower under a tracing function.
    compile_template = getattr(chat_template_utils, "_compile_jinja_template", None)
    try:
        if compile_template is not None:
            compile_template(template)
        with _limited():
            rendered = tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=True
            )
    except SageError as error:
        raise ModelError(f"{name}: its chat template {error}: {_ADVICE}") from error
    except (Exception, MemoryError) as error:  # code that nests too deeply is a MemoryError too
        raise ModelError(f"{name}: its chat template fails ({reason(error)}): {_ADVICE}") from error
    if len(rendered) > CHARACTERS:
        raise ModelError(f"{name}: its chat template writes {len(rendered)} characters: {_ADVICE}")
    return str(rendered)


def check_template(template: str, name: str) -> None:
    """Refuse powers and large numbers: one operation with them may run for hours in C code, where
    nothing can end it.

    Raises:
        ModelError: one of these, or not a template.
    """
    from jinja2 import Environment, TemplateSyntaxError

    try:
        tokens = list(Environment().lex(template))
    except TemplateSyntaxError as error:
        raise ModelError(f"{name}: its chat template fails ({reason(error)}): {_ADVICE}") from error
    for _, kind, text in tokens:
        if kind == "operator" and text == "**":
            raise ModelError(f"{name}: its chat template computes powers (**): {_ADVICE}")
        if kind == "integer" and (len(text) > 20 or int(text.replace("_", ""), 0) > _NUMBER):
            raise ModelError(f"{name}: its chat template holds the number {text[:20]}: {_ADVICE}")


class _Watch:
    """A tracing function that raises `ModelError` where a limit is passed; no template catches it.

    It is called for each function that the code calls and for each line of a template.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._start = self._looked = time.thread_time()
        self._memory: int | None = None

    def __call__(self, frame: FrameType, event: str, value: Any) -> Any:
        line = frame.f_code.co_filename == "<template>"
        self._calls += 1
        if line or self._calls % _EVERY == 0:
            self._look()
        return self if line else None

    def _look(self) -> None:
        now = time.thread_time()
        if now - self._start > SECONDS:
            raise ModelError(f"does not end within {SECONDS:g} s")
        if now - self._looked > _PAUSE:
            from psutil import Process

            self._looked = now
            memory = Process().memory_info().rss
            self._memory = self._memory or memory
            if memory - self._memory > _BYTES:
                raise ModelError("takes more than 1 GiB of memory")


@contextmanager
def _limited() -> Iterator[None]:
    """Limit the processor time and memory of Python code within the context, on any thread."""
    before = sys.gettrace()
    sys.settrace(_Watch())
    try:
        yield
    finally:
        sys.settrace(before)
