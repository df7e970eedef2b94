"""Errors of one text of a batch, or of all: raised to the caller, and cleaned up."""

from __future__ import annotations

import signal
import threading
from functools import partial
from typing import Any

import pytest
import torch
import transformers as tf

from sage_core.engine.batching.scheduler import BatchScheduler, Outcome
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.engine.results import DecodeOutput
from sage_core.errors import InputError, OptionError, UnsupportedError
from sage_core.runtime import ragged_batch
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.runtime.passes import Passes
from tests.core.test_batch import assert_each_is_exact, rows
from tests.tiny import build_pair


class Fails(tf.StoppingCriteria):
    """Raises at a length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        if input_ids.shape[1] >= self.length:
            raise InputError("this text fails")
        return torch.zeros(1, dtype=torch.bool)


FAILING: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "before its first step": ({"num_beams": 2}, UnsupportedError),
    "in the middle": ({"stopping_criteria": tf.StoppingCriteriaList([Fails(20)])}, InputError),
}


@pytest.mark.parametrize("name", FAILING)
def test_an_error_of_one_text_is_its_own(name: str) -> None:
    target, draft = build_pair("qwen2_5_vl")
    options, kind = FAILING[name]
    given = rows(target, "qwen2_5_vl")
    given[2] |= options
    decoder = SpeculativeDecoder(target, draft, "static")
    with pytest.raises(kind):
        decoder.generate_batch(given, 4)
    scheduler = BatchScheduler(target, 3)
    joined = decoder.attached(scheduler)
    jobs = (lambda g=g: joined.stream(**g).passes() for g in given)
    found = {o.number: o for o in scheduler.run(jobs)}
    assert isinstance(found.pop(2).error, kind)
    others = [given[number] for number in sorted(found)]
    assert_each_is_exact(target, [found[n].get() for n in sorted(found)], others)


class Broken:
    """A joint pass that raises at its n-th call."""

    def __init__(self, error: BaseException, call: int) -> None:
        self._joint, self._error, self._left = ragged_batch.ragged_pass, error, call

    def __call__(self, *arguments: Any) -> torch.Tensor:
        self._left -= 1
        if not self._left:
            raise self._error
        return self._joint(*arguments)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken")], ids=repr)
@pytest.mark.parametrize("call", [1, 7])
def test_a_shared_pass_that_fails_reaches_the_caller(
    error: BaseException, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, draft = build_pair("qwen2_vl")
    given = rows(target, "qwen2_vl")
    decoder = SpeculativeDecoder(target, draft, "static")
    with monkeypatch.context() as patched:
        patched.setattr(ragged_batch, "ragged_pass", Broken(error, call))
        with pytest.raises(type(error)):
            decoder.generate_batch(given, 3)
    assert_each_is_exact(target, decoder.generate_batch(given, 3), given)


class Interrupts(tf.StoppingCriteria):
    """Presses Ctrl-C at a length, and counts the tokens."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.asked = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.asked += 1
        if input_ids.shape[1] == self.length:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return torch.zeros(1, dtype=torch.bool)


def test_an_interruption_stops_the_running_text() -> None:
    target, draft = build_pair("qwen2")
    presses = Interrupts(20)
    given = [{**inputs, "max_new_tokens": 200} for inputs in rows(target, "qwen2")]
    given[2]["stopping_criteria"] = tf.StoppingCriteriaList([presses])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            SpeculativeDecoder(target, draft, "chain").generate_batch(given, 3)
    finally:
        signal.signal(signal.SIGINT, before)
    assert presses.asked < 60


def test_jobs_end_when_the_caller_closes() -> None:
    target, draft = build_pair("qwen2")
    scheduler = BatchScheduler(target, 4)
    joined = SpeculativeDecoder(target, draft, "chain").attached(scheduler)
    ended: list[int] = []

    def job(number: int, inputs: dict[str, Any]) -> Passes[DecodeOutput]:
        try:
            return (yield from joined.stream(**inputs).passes())
        finally:
            ended.append(number)

    jobs = (partial(job, number, one) for number, one in enumerate(rows(target, "qwen2")))
    run = scheduler.run(jobs)
    assert isinstance(next(run), Outcome)
    begun = len(ended)
    run.close()
    assert begun < len(ended) == 4, "one has ended, three were under way, one had not begun"


@pytest.mark.parametrize("width", [0, -1, 1.5, True, "many"])
def test_invalid_widths_are_refused(width: Any) -> None:
    target, draft = build_pair("qwen2")
    with pytest.raises(OptionError, match="at least 1"):
        SpeculativeDecoder(target, draft, "chain").generate_batch(rows(target, "qwen2"), width)


def test_arguments_of_single_texts_are_refused() -> None:
    target, draft = build_pair("qwen2")
    given = rows(target, "qwen2")
    with pytest.raises(OptionError, match="reuse"):
        SpeculativeDecoder(target, draft).generate_batch(given, reuse=PrefixReuse())
    captured = SpeculativeDecoder(target, draft, backend=CudaGraphBackend())
    with pytest.raises(UnsupportedError, match="not supported by this backend"):
        captured.generate_batch(given)
    with pytest.raises(UnsupportedError, match="viskip"):
        SpeculativeDecoder(target, draft, viskip=0.35).generate_batch(given)
    assert SpeculativeDecoder(target, draft).generate_batch([]) == []
