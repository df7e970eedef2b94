"""A pipeline that plays scripted steps: fast, and able to fail at any point."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any

from sage_core.engine.results import Stats
from sage_core.errors import InputError
from sage_core.media import Sampling
from sage_core.trees.steps import PhaseSeconds, Shape, Step
from sage_core.trees.tree import TokenTree

SENTENCE = (
    "A large red circle stands beside two small blue triangles and one green square ; "
    "the picture is otherwise empty ."
)
WORDS = ["<end>", *SENTENCE.split()]


def word(token: int) -> str:
    return " " + WORDS[token % len(WORDS)]


def bushy(first: int, depth: int) -> TokenTree:
    """A chain of ``depth`` likely tokens with one unlikely sibling at each level."""
    tokens: list[int] = []
    parents: list[int] = []
    above = -1
    for level in range(depth):
        tokens += [first + level, first + level + 7]
        parents += [above, above]
        above = len(tokens) - 2
    return TokenTree(tuple(tokens), tuple(parents), (0.75, 0.2) * depth, (0, 1) * depth)


def scripted(lengths: Sequence[int] = (2, 0, 3)) -> list[Step]:
    """The prefill, then a step for each accepted length."""
    steps = [Step(0, -1, TokenTree(), (), (1,), seconds=PhaseSeconds(prefill_target=0.02))]
    token = 1
    for index, length in enumerate(lengths, 1):
        tree = bushy(token + 1, length + 1)
        accepted = tuple(range(0, 2 * length, 2))
        tokens = tuple(range(token + 1, token + length + 2))
        shape = Shape(depth=length + 1, width=2.0 + index / 10, alpha=0.1 + 0.8 * (index % 10) / 10)
        seconds = PhaseSeconds(draft=0.002, verify=0.004)
        finished = index == len(lengths)
        steps.append(
            Step(index, token, tree, accepted, tokens, shape, length + 1, seconds, finished)
        )
        token += length + 1
    return steps


@dataclass
class Script:
    """One text: its steps, and what to raise when they have been played (or None)."""

    steps: list[Step] = field(default_factory=scripted)
    error: BaseException | None = None
    pause: float = 0.0
    on_step: Callable[[int], None] | None = None
    lossy: str | None = None
    context_reached: int | None = None


@dataclass(frozen=True)
class FakeResult:
    text: str
    tokens: tuple[int, ...]
    stats: Stats
    steps: tuple[Step, ...]
    files: tuple[str, ...]
    prompt: str
    finish_reason: str = "eos"
    sampling: dict[str, Any] | None = None
    lossy: str | None = None
    policy: str = "sage"
    context_reached: int | None = None
    reproducible: bool = True
    edits: dict[str, Any] | None = None


class FakeStream(Iterator[Step]):
    def __init__(
        self, script: Script, files: tuple[str, ...], prompt: str, policy: str = "sage"
    ) -> None:
        self.policy = policy
        self._script = script
        self._left = deque(script.steps)
        self._done: list[Step] = []
        self._files = files
        self._prompt = prompt
        self.closed = False

    @property
    def text(self) -> str:
        return "".join(word(t) for step in self._done for t in step.tokens).strip()

    def token_text(self, token_id: int) -> str:
        return word(token_id)

    def __next__(self) -> Step:
        if self.closed:
            raise StopIteration
        if not self._left:
            if self._script.error is not None:
                raise self._script.error
            raise StopIteration
        if self._script.pause:
            sleep(self._script.pause)
        if self._script.on_step is not None:
            self._script.on_step(len(self._done))
        self._done.append(self._left.popleft())
        return self._done[-1]

    def result(self) -> FakeResult:
        for _ in self:
            pass
        tokens = tuple(t for step in self._done for t in step.tokens)
        stats = Stats.from_steps(self._done, prompt_tokens=12, wall_seconds=0.5, peak_memory=2**28)
        return FakeResult(
            self.text,
            tokens,
            stats,
            tuple(self._done),
            self._files,
            self._prompt,
            lossy=self._script.lossy,
            policy=self.policy,
            context_reached=self._script.context_reached,
        )

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class FakeOutcome:
    number: int
    result: FakeResult | None = None
    error: Exception | None = None

    def get(self) -> FakeResult | None:
        if self.error is not None:
            raise self.error
        return self.result


def _several(files: Any) -> Any:
    return files if isinstance(files, list | tuple) else [files]


class FakePipeline:
    """Plays one script per call of `stream`, in order; then the default one for ever."""

    target_id = "fake-target"
    draft_id = "fake-draft"
    device = "cpu"
    dtype = "float32"
    note = "no GPU found: running on the CPU in float32"
    pays = 1

    def __init__(self) -> None:
        self.scripts: deque[Script | BaseException] = deque()
        self.calls: list[dict[str, Any]] = []
        self.streams: list[FakeStream] = []

    def enqueue(self, *scripts: Script | BaseException) -> None:
        """What the next calls do; an exception is raised by `stream` itself."""
        self.scripts.extend(scripts)

    def stream(self, files: Any, prompt: str | None = None, **options: Any) -> FakeStream:
        self.calls.append({"files": files, "prompt": prompt, **options})
        script = self.scripts.popleft() if self.scripts else Script()
        if isinstance(script, BaseException):
            raise script
        names = tuple(file if isinstance(file, str) else "<bytes>" for file in files)
        policy = options.get("policy", "sage")
        self.streams.append(FakeStream(script, names, prompt or "Describe this.", policy))
        return self.streams[-1]

    context = None

    def sampling(self, options: Any) -> Sampling:
        return Sampling(frames=2)

    def ask(self, files: Any, question: str, **options: Any) -> FakeResult:
        return self.stream(files, question, **options).result()

    def outcomes(self, requests: Any, *, batch: int, **options: Any) -> Iterator[FakeOutcome]:
        """One after another, given in pairs in reverse order: 1, 0, 3, 2..."""
        held: list[FakeOutcome] = []
        for number, one in enumerate(requests):
            try:
                chosen = {"batch": batch, **options, **one.options}
                result = self.stream(_several(one.files), one.prompt, **chosen).result()
                held.append(FakeOutcome(number, result))
            except Exception as error:
                held.append(FakeOutcome(number, error=error))
            if number % 2:
                yield from reversed(held)
                held.clear()
        yield from held

    def chat(self, files: Any, **options: Any) -> FakeConversation:
        self.calls.append({"chat": list(files), **options})
        return FakeConversation(self, [str(file) for file in files])


class FakeConversation:
    """Plays the pipeline's scripts; a file called ``none.png`` cannot be added."""

    def __init__(self, pipeline: FakePipeline, files: list[str]) -> None:
        self._pipeline = pipeline
        self.files = files
        self.note = ""

    def add(self, files: list[str]) -> None:
        if "none.png" in files:
            raise InputError("none.png: no such file: check the path")
        self.files += files
        self.note = "new files: read again"

    def reset(self) -> None:
        self._pipeline.calls.append({"reset": True})

    def stream(self, question: str) -> FakeStream:
        return self._pipeline.stream(list(self.files), question)


def as_program() -> None:
    """``sage`` with the fake pipeline; FAKE_STEPS and FAKE_PAUSE shape its texts."""
    import sage_core
    from sage_cli.app import main

    pipeline = FakePipeline()
    lengths = [(i * 3) % 5 for i in range(int(os.environ.get("FAKE_STEPS", "3")))]
    script = Script(scripted(lengths), pause=float(os.environ.get("FAKE_PAUSE", "0")))
    pipeline.enqueue(*[script] * 50)

    def load(*_: Any, progress: Any = None, **__: Any) -> FakePipeline:
        progress("loading the target", 0.5)
        return pipeline

    vars(sage_core)["load"] = load
    main()


if __name__ == "__main__":
    as_program()
