"""Threads, streams in turns, and forks."""

from __future__ import annotations

import gc
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from PIL import Image

import sage_core
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import UnsupportedError
from sage_core.models.quiet import quiet
from sage_core.pipeline import Pipeline
from sage_core.runtime.kv_cache import TreeCache
from sage_core.runtime.model_lock import ModelLock
from tests.tiny.pairs import build_pair

COLOURS = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return sage_core.load()


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), colour) for colour in COLOURS]


def texts(pipeline: Pipeline, **options: Any) -> list[tuple[int, ...]]:
    return [r.tokens for r in pipeline.caption(pictures(), max_new_tokens=12, **options)]


@pytest.mark.parametrize("options", [{}, {"batch": 3}], ids=["alone", "batch"])
def test_threads_share_a_pipeline(pipeline: Pipeline, options: dict[str, Any]) -> None:
    wanted = texts(pipeline)
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(texts, pipeline, **options) for _ in range(3)]
    assert [one.result() for one in found] == [wanted] * 3


def test_streams_of_one_thread_take_turns(pipeline: Pipeline) -> None:
    wanted = texts(pipeline)
    streams = [pipeline.stream(one, max_new_tokens=12) for one in pictures()]
    left = list(streams)
    while left:
        left = [stream for stream in left if next(stream, None) is not None]
    assert [stream.tokens for stream in streams] == wanted


def test_an_open_stream_holds_up_no_other_thread(pipeline: Pipeline) -> None:
    stream = pipeline.stream(pictures()[0], max_new_tokens=12)
    batch = pipeline.captions(pictures(), batch=2, max_new_tokens=12)
    next(stream), next(batch)
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(texts, pipeline).result(timeout=60)) == len(COLOURS)
    batch.close()


def test_threads_share_a_conversation(pipeline: Pipeline) -> None:
    chat = pipeline.chat(pictures()[0], max_new_tokens=6)
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(chat.ask, ["What is this?"] * 3))
    assert len(answers) == 3
    assert sorted(answer for _, answer in chat.turns) == sorted(one.text for one in answers)


def test_threads_load_at_once() -> None:
    together = threading.Barrier(3)

    def load(_: int) -> list[tuple[int, ...]]:
        together.wait()
        return texts(sage_core.load())

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(load, range(3))
    assert others == [first] * 2


def test_what_is_silenced_comes_back_whatever_the_order_of_threads() -> None:
    logger = logging.getLogger("transformers")
    before, filters = logger.level, list(warnings.filters)
    first, second = quiet(), quiet()
    first.__enter__(), second.__enter__()
    assert logger.level == logging.CRITICAL
    first.__exit__(None, None, None)
    assert logger.level == logging.CRITICAL
    second.__exit__(None, None, None)
    assert (logger.level, list(warnings.filters)) == (before, filters)


def in_a_fork(call: Callable[[], str]) -> str:
    """What ``call`` returns in a forked process; it has half a minute."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, call().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said: list[bytes] = []
        reader = threading.Thread(target=lambda: said.append(pipe.read()), daemon=True)
        reader.start()
        reader.join(30)
        if not said:
            os.kill(child, 9)
        os.waitpid(child, 0)
    return said[0].decode() if said else "no answer"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize(("threads", "answers"), [(2, False), (1, True)])
def test_a_lock_in_a_fork(threads: int, answers: bool) -> None:
    lock = ModelLock()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)

    def enter() -> str:
        try:
            with lock:
                return "answer"
        except UnsupportedError as error:
            return str(error)

    try:
        with lock:  # as another thread might at the moment of the fork
            said = in_a_fork(enter)
    finally:
        torch.set_num_threads(before)
    assert said == "answer" if answers else "forked" in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_conversation_in_a_fork_is_refused() -> None:
    pipeline = sage_core.load()
    before = torch.get_num_threads()
    torch.set_num_threads(2)

    def chat() -> str:
        try:
            pipeline.chat()
        except UnsupportedError as error:
            return str(error)
        return "a conversation"

    try:
        assert "forked" in in_a_fork(chat)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("many", [False, True])
def test_caches_of_finished_texts_are_freed_without_the_collector(
    many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[Any] = []
    make = TreeCache.__init__

    def noting(self: TreeCache, *args: Any, **options: Any) -> None:
        caches.append(weakref.ref(self))
        make(self, *args, **options)

    monkeypatch.setattr(TreeCache, "__init__", noting)
    pair = build_pair("qwen2")
    decoder = SpeculativeDecoder(pair.target, pair.draft, "static")
    prompts = [{"input_ids": torch.tensor([[5, 6, 7, 8 + n]])} for n in range(3 if many else 1)]
    gc.collect()
    gc.disable()
    try:
        decoder.generate_batch(prompts, max_new_tokens=5)
        assert len(caches) >= 2 and all(cache() is None for cache in caches)
    finally:
        gc.enable()
