"""``sage caption --segment``: segments of videos, subtitles, sidecars, a summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sage_core.errors import InputError
from tests.cli.fake import Script
from tests.cli.test_commands import TEXT
from tests.core.media_files import card, encoded, write_clip

SRT = f"1\n00:00:00,000 --> 00:00:01,000\n{TEXT}\n\n2\n00:00:01,000 --> 00:00:02,000\n{TEXT}\n\n"
LINES = f"[00:00:00.0 - 00:00:01.0] {TEXT}\n[00:00:01.0 - 00:00:02.0] {TEXT}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A clip of two seconds."""
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4").read_bytes()


@pytest.fixture
def clip(data: bytes) -> str:
    Path("clip.mp4").write_bytes(data)
    return "clip.mp4"


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        ((), f"{LINES}\n"),
        (("--format", "text", "--summary"), f"{LINES}\n\n{TEXT}\n"),
        (("--format", "srt"), SRT),
        (
            ("--format", "vtt", "--summary"),
            f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{TEXT}\n\n"
            f"00:00:01.000 --> 00:00:02.000\n{TEXT}\n\nNOTE\n{TEXT}\n\n",
        ),
    ],
)
def test_what_is_printed(sage, pipeline, clip, options, printed):
    result = sage("caption", clip, "--segment", "1", *options)
    assert (result.exit_code, result.stdout) == (0, printed), result.stderr


def test_the_output_file(sage, pipeline, clip):
    result = sage("caption", clip, "--segment", "1", "--format", "srt", "--output", "a.srt")
    assert result.exit_code == 0 and result.stdout == ""
    assert Path("a.srt").read_text() == SRT


@pytest.mark.parametrize("form", ["--json", "--jsonl", "--format=json"])
def test_json(sage, pipeline, clip, form):
    record = json.loads(sage("caption", clip, "--segment", "1", "--summary", form).stdout)
    assert record["summary"] == TEXT and record["text"] == f"{LINES}\n\n{TEXT}"
    assert [(one["start"], one["end"], one["text"]) for one in record["segments"]] == [
        (0, 1, TEXT),
        (1, 2, TEXT),
    ]
    assert set(record["segments"][0]["seconds"]) == {"read", "encode", "prefill", "decode"}


@pytest.mark.parametrize("options", [("srt",), ("txt", "--format", "srt")])
def test_sidecars_of_videos(sage, pipeline, data, options):
    Path("films/sub").mkdir(parents=True)
    Path("films/a.mp4").write_bytes(data)
    Path("films/sub/b.mp4").write_bytes(data + b"\0\0\0\x08free")
    asked = ("caption", "films", "--recursive", "--segment", "1", "--sidecar", *options)
    assert sage(*asked).exit_code == 0
    assert Path("films/a.srt").read_text() == Path("films/sub/b.srt").read_text() == SRT
    calls = len(pipeline.calls)
    again = sage(*asked)
    assert "2 with a sidecar" in again.stderr and len(pipeline.calls) == calls


def test_the_sidecar_of_a_copy(sage, pipeline, data):
    Path("films").mkdir()
    Path("films/a.mp4").write_bytes(data)
    Path("films/b.mp4").write_bytes(data)
    assert sage("caption", "films", "--segment", "1", "--sidecar", "vtt").exit_code == 0
    assert Path("films/a.vtt").read_text() == Path("films/b.vtt").read_text() != ""
    assert len(pipeline.calls) == 2


def test_resume_knows_the_segments(sage, pipeline, clip):
    asked = ("caption", clip, "--jsonl", "--output", "a.jsonl", "--resume", "--segment")
    for split, lines in (("1", 1), ("1", 1), ("2", 2)):
        assert sage(*asked, split).exit_code == 0
        assert len(Path("a.jsonl").read_text().splitlines()) == lines


def test_pictures_are_captioned_as_always(sage, pipeline, clip):
    Path("a.png").write_bytes(encoded(card(), "PNG"))
    result = sage("caption", "a.png", clip, "--segment", "1", "--json")
    picture, film = json.loads(result.stdout)
    assert result.exit_code == 0
    assert "segments" not in picture and picture["text"] == TEXT and len(film["segments"]) == 2


def test_a_picture_has_no_subtitles(sage, pipeline, clip):
    Path("a.png").write_bytes(encoded(card(), "PNG"))
    result = sage("caption", "a.png", clip, "--segment", "1", "--sidecar", "srt")
    assert result.exit_code == 3
    assert "a.png: has no segments for subtitles: give a video" in result.stderr
    assert Path("clip.srt").exists() and not Path("a.srt").exists()


def test_a_segment_that_fails_is_reported_and_left_out(sage, pipeline, clip):
    pipeline.enqueue(InputError("clip.mp4: too long for the context"))
    result = sage("caption", clip, "--segment", "1", "--format", "srt")
    assert result.exit_code == 3
    assert result.stdout == f"1\n00:00:01,000 --> 00:00:02,000\n{TEXT}\n\n"
    assert "clip.mp4 at 00:00:00.000: " in result.stderr


def test_a_video_of_which_all_segments_fail(sage, pipeline, clip):
    pipeline.enqueue(*[InputError("clip.mp4: no")] * 2)
    result = sage("caption", clip, "--segment", "1", "--jsonl", "--failures", "failed.jsonl")
    assert result.exit_code == 3
    assert json.loads(result.stdout)["error"]["message"] == "clip.mp4: no"
    assert len(Path("failed.jsonl").read_text().splitlines()) == 1


def test_the_part_and_the_batch(sage, pipeline, clip):
    options = ("--segment", "0.5", "--start", "0.5", "--end", "1.5", "--batch", "3", "--json")
    record = json.loads(sage("caption", clip, *options).stdout)
    assert [one["start"] for one in record["segments"]] == [0.5, 1.0]
    assert {call["batch"] for call in pipeline.calls} == {3}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--format", "srt"), "srt holds the segments of a video: give --segment"),
        (("--sidecar", "vtt"), "vtt holds the segments of a video: give --segment"),
        (("--summary",), "--summary is over the segments of a video: give --segment"),
        (("--segment", "1", "--live"), "leave out --live and --save-view"),
        (("--segment", "1", "--save-view", "a.html"), "leave out --live and --save-view"),
        (("--segment", "1", "--format", "vtt", "--json"), "excludes --json and --jsonl"),
        (("--segment", "1", "--format", "srt", "b.mp4"), "for several give --sidecar srt"),
        (("--segment", "1", "--format", "srt", "--summary"), "SRT has no place for a summary"),
        (
            ("--segment", "1", "--format", "vtt", "--sidecar", "srt"),
            "give --sidecar vtt, or --output FILE",
        ),
        (("--segment", "1", "--workers", "2"), "leave out --workers and --engine"),
        (("--segment", "parts"), "unknown segments 'parts': choose scenes"),
        (("--segment", "10:9"), "overlap by half of their length"),
    ],
)
def test_options_that_do_not_go_together(sage, loads, clip, options, says):
    result: Any = sage("caption", clip, *options)
    assert result.exit_code == 2 and loads.calls == []
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_a_dry_run_lists_videos_and_captions_none(sage, loads, clip):
    result = sage("caption", clip, "--segment", "1", "--dry-run")
    assert result.stdout == "clip.mp4\n" and loads.calls == []


def test_the_statistics_of_a_video(sage, pipeline, clip):
    result = sage("caption", clip, "--segment", "1", "--stats")
    assert result.exit_code == 0 and "clip.mp4" in result.stderr


@pytest.mark.parametrize(
    ("form", "first"),
    [("text", "[00:00:00.0 - 00:00:00.5]"), ("vtt", "WEBVTT\n\n"), ("srt", "1\n")],
)
def test_what_is_finished_is_kept_when_a_run_ends(sage, pipeline, clip, form, first):
    pipeline.enqueue(*[Script()] * 2, KeyboardInterrupt())
    asked = ("--segment", "0.5", "--batch", "1", "--format", form, "--output", "a.out")
    result = sage("caption", clip, *asked)
    assert result.exit_code == 130
    kept = Path("a.out.partial").read_text()
    assert kept.count(TEXT) == 2 and kept.startswith(first)
    assert not Path("a.out").exists()


def test_segments_of_several_files_as_text(sage, pipeline, data):
    Path("a.mp4").write_bytes(data)
    Path("b.mp4").write_bytes(data + b"\0\0\0\x08free")
    result = sage("caption", "a.mp4", "b.mp4", "--segment", "1")
    assert result.stdout == f"==> a.mp4 <==\n{LINES}\n\n==> b.mp4 <==\n{LINES}\n"


def test_json_sidecars_by_the_format(sage, pipeline, clip):
    asked = ("--segment", "1", "--sidecar", "txt", "--format", "json")
    result = sage("caption", clip, *asked)
    assert result.exit_code == 0 and result.stdout == ""
    assert len(json.loads(Path("clip.json").read_text())["segments"]) == 2
