"""The frames that model families sample from a video: number, positions and pixels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.errors import OptionError
from sage_core.media import FrameRate, Sampling, video_decord, video_pyav
from sage_core.media.frame_sampling import choose_frames
from sage_core.models.families.qwen2_vl import VIDEO_PIXELS, Qwen2VL
from sage_core.pipeline import Options
from tests.core.media_files import decoded_by, write_clip

QWEN2 = FrameRate(fps=2.0, min_frames=4, max_frames=768, multiple_of=2)
QWEN3 = FrameRate(fps=2.0, min_frames=4, max_frames=768, endpoint=True)

COUNTS = [
    (QWEN2, 10.0, 300, 20),
    (QWEN2, 10.3, 309, 20),
    (QWEN2, 0.5, 15, 4),
    (QWEN2, 3600.0, 108_000, 768),
    (QWEN2, 10.0, 7, 6),
    (QWEN2, 1.0, 1, 1),
    (QWEN3, 10.3, 309, 20),
    (QWEN3, 10.6, 318, 21),
    (QWEN3, 0.1, 3, 3),
    (FrameRate(fps=2.0, max_frames=9, multiple_of=2), 60.0, 600, 8),
]


@pytest.mark.parametrize(("rate", "seconds", "frames", "count"), COUNTS, ids=str)
def test_the_number_of_frames(rate: FrameRate, seconds: float, frames: int, count: int) -> None:
    assert rate.count(seconds, frames) == count


def _qwen2_indices(total: int, fps: float) -> list[int]:
    """What transformers' Qwen2VLVideoProcessor.sample_frames does, without torch."""
    most = math.floor(min(768, total) / 2) * 2
    count = math.floor(min(max(total / fps * 2.0, 4), most, total) / 2) * 2
    return [int(i) for i in np.arange(0, total, total / count)][:count]


def _qwen3_indices(total: int, fps: float) -> list[int]:
    """What transformers' Qwen3VLVideoProcessor.sample_frames does."""
    count = min(max(int(total / fps * 2), 4), 768, total)
    return np.linspace(0, total - 1, count).round().astype(int).tolist()


@given(total=st.integers(2, 4000), fps=st.sampled_from([1.0, 8.0, 24.0, 25.0, 30.0, 60.0]))
def test_a_constant_frame_rate_gives_transformers_frames(total: int, fps: float) -> None:
    times = np.arange(total) / fps
    for rate, theirs in ((QWEN2, _qwen2_indices(total, fps)), (QWEN3, _qwen3_indices(total, fps))):
        ours = choose_frames(times, total / fps, Sampling(rate=rate), "x").tolist()
        assert len(ours) == len(theirs)
        # A time exactly between two frames may be rounded to either.
        assert np.abs(np.array(ours) - theirs).max() <= 1
        assert np.mean(np.array(ours) != theirs) <= 0.5


@pytest.mark.parametrize(("total", "fps"), [(300, 30.0), (240, 24.0), (37, 8.0), (7, 25.0)])
def test_common_lengths_give_exactly_transformers_frames(total: int, fps: float) -> None:
    times = np.arange(total) / fps
    for rate, theirs in ((QWEN2, _qwen2_indices(total, fps)), (QWEN3, _qwen3_indices(total, fps))):
        assert choose_frames(times, total / fps, Sampling(rate=rate), "x").tolist() == theirs


def test_a_variable_frame_rate_is_sampled_by_time() -> None:
    """Ten frames in the first second, then one a second: half a second is half a second."""
    times = np.concatenate([np.arange(10) / 10, np.arange(1, 6)])
    chosen = choose_frames(times, 6.0, Sampling(rate=FrameRate(fps=2.0)), "x")
    assert times[chosen].tolist() == [0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_clip_pixels_are_divided_among_the_frames() -> None:
    sampling = Sampling(frame_pixels=1000, clip_pixels=8000)
    assert sampling.largest_frame(4) == 1000
    assert sampling.largest_frame(16) == 500
    assert Sampling(max_pixels=300, clip_pixels=8000).largest_frame(16) == 300
    assert Sampling().largest_frame(16) is None


@pytest.mark.parametrize("decoder", [video_decord, video_pyav])
def test_more_frames_are_decoded_smaller(decoder: object, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", frames=16, size=(160, 120))
    few = decoded_by(decoder, path, Sampling(frames=2, clip_pixels=2 * 4800))
    many = decoded_by(decoder, path, Sampling(frames=8, clip_pixels=2 * 4800))
    assert few.size == (80, 60)
    assert many.size == (40, 30)


def test_options_of_the_caller_override_the_family_s_default() -> None:
    own = Sampling(rate=QWEN2, frame_pixels=Qwen2VL.video_pixels["longest_edge"])
    times = np.arange(300) / 30
    plain = Options().sampling(own)
    assert len(choose_frames(times, 10.0, plain, "x")) == 20
    assert len(choose_frames(times, 10.0, Options(frames=5).sampling(own), "x")) == 5
    assert len(choose_frames(times, 10.0, Options(fps=1.0).sampling(own), "x")) == 10
    assert plain.frame_pixels == own.frame_pixels


def test_qwen2_clip_pixels_are_those_of_qwen_vl_utils() -> None:
    """90% of a context of 128,000 tokens, with a token per 2 x 28 x 28 pixels."""
    assert VIDEO_PIXELS // (2 * 28 * 28) == 115_200


@pytest.mark.parametrize(
    "values",
    [{"fps": 0.0}, {"fps": 1.0, "min_frames": 0}, {"fps": 1.0, "min_frames": 5, "max_frames": 4}],
    ids=str,
)
def test_invalid_frame_rates_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="invalid frame rate"):
        FrameRate(**values)  # type: ignore[arg-type]
