"""Captions of a clip's segments: the texts that the parts have alone, read ahead; the summary."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import sage_core
from sage_core.captioning.film import Segment, caption_film, film_segments
from sage_core.captioning.records import film_record
from sage_core.captioning.subtitles import Cue
from sage_core.captioning.summary import summarize
from sage_core.engine.results import Stats
from sage_core.errors import InputError, OptionError
from sage_core.media import Sampling
from sage_core.media.segments import InProcess
from sage_core.pipeline import Pipeline
from tests.core.media_files import card, encoded, write_clip
from tests.core.saved_pair import save_pair

OPTIONS: dict[str, Any] = {"max_new_tokens": 8, "frames": 3}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return sage_core.load(save_pair(tmp_path_factory.mktemp("pair")), device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=20))


class Logged(InProcess):
    """A reader that says what is asked of it, and fails for parts that begin at ``bad``."""

    def __init__(self, *bad: float) -> None:
        super().__init__()
        self.bad = bad
        self.log: list[tuple[str, float | None]] = []

    def begin(self, path: str, sampling: Sampling, name: str | None = None) -> None:
        self.log.append(("begin", sampling.start))

    def open(self, source: Any, sampling: Sampling, name: str) -> Any:
        self.log.append(("open", sampling.start))
        if sampling.start in self.bad:
            raise InputError(f"{name}: is damaged there")
        return super().open(source, sampling, name)


@pytest.mark.parametrize("batch", [1, 2, 3, "auto"])
def test_segments_have_the_texts_that_they_have_alone(
    pipeline: Pipeline, clip: str, batch: Any
) -> None:
    found = list(film_segments(pipeline, clip, "1:0.25", "What?", batch=batch, **OPTIONS))
    assert [(one.start, one.end) for one in found] == [(0, 1), (0.75, 1.75), (1.5, 2.5)]
    for one in found:
        alone = pipeline.ask(clip, "What?", start=one.start, end=one.end, **OPTIONS)
        assert one.result is not None
        assert one.result.tokens == alone.tokens and one.result.files == (clip,)
        assert one.seconds.keys() == {"read", "encode", "prefill", "decode"}
        assert min(one.seconds.values()) > 0


def test_the_next_segment_is_begun_before_one_is_described(pipeline: Pipeline, clip: str) -> None:
    reader = Logged()
    list(film_segments(pipeline, clip, "1", reader=reader, batch=1, **OPTIONS))
    assert reader.log == [
        *[("open", 0.0), ("begin", 1.0)],
        *[("open", 1.0), ("begin", 2.0)],
        ("open", 2.0),
    ]


@pytest.mark.parametrize("bad", [(0.0,), (1.0,), (2.0,), (0.0, 1.0), (1.0, 2.0)])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_error_of_one_segment_is_its_own(
    pipeline: Pipeline, clip: str, bad: tuple[float, ...], batch: int
) -> None:
    reader = Logged(*bad)
    found = list(film_segments(pipeline, clip, "1", reader=reader, batch=batch, **OPTIONS))
    assert [one.start for one in found] == [0, 1, 2]
    for one in found:
        assert (one.error is not None) is (one.start in bad)
        assert (one.result is None) is (one.start in bad)


def test_a_clip_of_which_nothing_can_be_described(pipeline: Pipeline, clip: str) -> None:
    with pytest.raises(InputError, match="is damaged there"):
        caption_film(pipeline, clip, "1", reader=Logged(0.0, 1.0, 2.0), **OPTIONS)


def test_options_that_fit_no_segment_end_the_film(pipeline: Pipeline, clip: str) -> None:
    with pytest.raises(OptionError):
        caption_film(pipeline, clip, "1", generation={"num_beams": 3}, **OPTIONS)
    with pytest.raises(OptionError, match="unknown option 'fames'"):
        caption_film(pipeline, clip, "1", fames=3)
    with pytest.raises(OptionError, match=r"lacks \{captions\}"):
        caption_film(pipeline, clip, "1", summary="Sum up.", **OPTIONS)


def test_a_picture_is_no_clip(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(card(), "PNG"))
    assert list(film_segments(pipeline, str(tmp_path / "a.png"), "1")) == []
    with pytest.raises(InputError, match=r"a\.png: is not a clip"):
        caption_film(pipeline, str(tmp_path / "a.png"), "1")


def test_a_part_of_a_clip_in_segments(pipeline: Pipeline, clip: str) -> None:
    found = list(film_segments(pipeline, clip, "0.5", start=0.5, end=1.5, **OPTIONS))
    assert [(one.start, one.end) for one in found] == [(0.5, 1), (1, 1.5)]


def test_totals_and_the_record(pipeline: Pipeline, clip: str) -> None:
    done: list[Segment] = []
    film = caption_film(pipeline, clip, "1", summary=True, on_segment=done.append, **OPTIONS)
    assert tuple(done) == film.segments and film.summary is not None
    parts = [one.result.stats for one in film.segments if one.result] + [film.summary.stats]
    for field in fields(Stats):
        if field.type == "int":
            combine = max if field.name == "peak_memory" else sum
            assert getattr(film.stats, field.name) == combine(
                getattr(one, field.name) for one in parts
            )
    assert sum(film.stats.accepted_histogram.values()) == film.stats.steps
    assert film.stats.seconds.verify == pytest.approx(sum(one.seconds.verify for one in parts))
    record = film_record(film, files=[clip], pipeline=pipeline, seed=0, key="k")
    assert record["summary"] == film.summary.text and record["key"] == "k"
    assert record["text"].endswith(film.summary.text.strip())
    assert record["finish_reason"] == "length"
    assert record["stats"]["new_tokens"] == 32
    assert [one["start"] for one in record["segments"]] == [0, 1, 2]
    assert record["segments"][0].keys() == {
        *("start", "end", "text", "finish_reason", "new_tokens", "tokens", "seconds")
    }


def test_the_record_of_a_segment_with_an_error(pipeline: Pipeline, clip: str) -> None:
    film = caption_film(pipeline, clip, "1", reader=Logged(1.0), **OPTIONS)
    record = film_record(film, files=[clip], pipeline=pipeline, seed=0)
    assert record["segments"][1] == {
        **{"start": 1.0, "end": 2.0},
        "error": {"kind": "input", "message": f"{clip}: is damaged there"},
    }
    assert "summary" not in record and len(record["text"].splitlines()) == 2


def cues(count: int, length: int) -> list[Cue]:
    return [Cue(at, at + 1, f"<{at}>".ljust(length, "x")) for at in range(count)]


@pytest.fixture
def asked(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts of a summary, which is the beginning of its captions instead of a text."""
    prompts: list[str] = []
    real = pipeline.ask

    def ask(files: Any, question: str, **options: Any) -> Any:
        assert files == []
        prompts.append(question)
        return real(files, question, **options)

    monkeypatch.setattr(pipeline, "ask", ask)
    return prompts


@pytest.mark.parametrize(
    ("count", "length", "rounds"),
    [
        (1, 10, [1]),
        (20, 10, [20]),
        (40, 200, [17, 17, 6, 3]),
        (3, 9000, [2, 1, 2]),
    ],
)
def test_captions_beyond_the_context_are_summed_up_in_groups(
    pipeline: Pipeline, asked: list[str], count: int, length: int, rounds: list[int]
) -> None:
    found = summarize(pipeline, cues(count, length), max_new_tokens=4)
    assert len(found) == len(asked) == len(rounds)
    assert [prompt.count(" - 00:") for prompt in asked] == rounds
    seen = [at for at in range(count) if any(f"<{at}>" in prompt for prompt in asked)]
    assert seen == list(range(count))
    assert "[00:00:00.0 - " in asked[-1] and f"- 00:00:{count:02}.0]" in asked[-1]
    context = pipeline.context
    assert context is not None
    for prompt in asked:
        assert pipeline.prompt_tokens(prompt) + 4 <= context


def test_a_model_without_a_limit_reads_all_at_once(
    pipeline: Pipeline, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pipeline, "context", None)
    summarize(pipeline, cues(5, 5), max_new_tokens=2)
    assert len(asked) == 1


def test_no_room_for_captions(pipeline: Pipeline) -> None:
    with pytest.raises(OptionError, match="leaves no room for captions in the model"):
        summarize(pipeline, cues(2, 5), max_new_tokens=4000)
