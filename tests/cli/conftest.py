"""The command run in this process with a scripted pipeline in place of the models."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sage_core
from sage_cli.app import app
from sage_cli.jobs import bench as bench_job
from sage_core.media import MediaWorker
from tests.cli.bench_engine import Engine as BenchEngine
from tests.cli.fake import FakePipeline

PICTURE = b"\x89PNG\r\n\x1a\na picture, as far as the fake is concerned"


@dataclass
class Loads:
    """Every call of `sage_core.load`, and what it does."""

    pipeline: FakePipeline
    calls: list[dict[str, Any]] = field(default_factory=list)
    error: BaseException | None = None

    def __call__(self, target: Any = None, draft: Any = "auto", **more: Any) -> FakePipeline:
        self.calls.append({"target": target, "draft": draft, **more})
        more["progress"]("loading", 0.5)
        if self.error is not None:
            raise self.error
        return self.pipeline


def pytest_configure() -> None:
    """A run in the background inherits that SIGINT is ignored; what is tested here must not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings of the person who runs the tests; a fresh working folder with two files.

    Afterwards what ``--verbose`` said to this process's loggers is forgotten.
    """
    loggers = [logging.getLogger(name) for name in ("sage_core", "transformers")]
    levels = [logger.level for logger in loggers]
    for name in list(os.environ):
        if name.startswith("SAGE_") and name != "SAGE_COSTS":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "100")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("a.png", "b.png"):
        Path(name).write_bytes(PICTURE)
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def no_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake pipeline opens no file: the process that decodes them need not start."""
    monkeypatch.setattr(MediaWorker, "start", lambda worker: None)


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def loads(pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> Loads:
    loads = Loads(pipeline)
    # Set in the module's dictionary: asking the module for the real one would import torch.
    monkeypatch.setitem(vars(sage_core), "load", loads)
    return loads


@pytest.fixture
def sage(loads: Loads) -> Callable[..., Any]:
    """Run ``sage ARGS`` with the fake pipeline; the result has exit_code, stdout and stderr."""

    def run(*arguments: str, stdin: bytes | str | None = None, **env: str) -> Any:
        return CliRunner().invoke(app, list(arguments), input=stdin, env=env)

    return run


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> BenchEngine:
    engine = BenchEngine()
    monkeypatch.setattr(bench_job, "load_engine", lambda models: engine)
    return engine


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """A list of three items, none of which is opened by the fake."""
    path = Path("mine.jsonl")
    path.write_text("".join(f'{{"id": "{i}", "file": "{i}.png"}}\n' for i in "abc"))
    return path
