"""Qwen3-VL and Qwen3.5, dense or not: a video is groups of frames, each after its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from sage_core.media.types import Clip, FrameRate, Sampling
from sage_core.models.families.base import expand
from sage_core.models.families.qwen2_vl import Pixels, Qwen2VL

FRAME_PIXELS = 768 * 32**2


class Qwen3VL(Qwen2VL):
    """Qwen3-VL and Qwen3.5, which have one processor.

    Positions restart with every group of frames; its time is written as text.
    """

    model_types = ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")
    video_pixels: ClassVar[Pixels] = {"shortest_edge": 128 * 32**2, "longest_edge": FRAME_PIXELS}

    @property
    def sampling(self) -> Sampling:
        """Two frames per second including the last; the checkpoint limits the pixels of a video."""
        return Sampling(
            rate=FrameRate(fps=2.0, min_frames=4, max_frames=768, endpoint=True),
            frame_pixels=FRAME_PIXELS,
            clip_pixels=self.clip_pixels["longest_edge"],
        )

    def _expand_videos(self, text: str, videos: Sequence[Clip], inputs: dict[str, Any]) -> str:
        """Each placeholder becomes ``<0.5 seconds>`` and the tokens of a group, for every group.

        As in the processor of transformers, the template's tokens around the placeholder stay
        around the whole video.
        """
        if not videos:
            return expand(text, self.video_token, [], "videos")
        pieces = expand(text, self.video_token, [1] * len(videos), "videos").split(self.video_token)
        names = self.tokenizer.convert_ids_to_tokens(
            [self.config.vision_start_token_id, self.config.vision_end_token_id]
        )
        whole = pieces[0]
        for video, grid, rest in zip(videos, inputs["video_grid_thw"], pieces[1:], strict=True):
            tokens = self.video_token * (self._tokens(grid) // int(grid[0]))
            for seconds in self._times(video, int(grid[0])):
                whole += f"<{seconds:.1f} seconds>{names[0]}{tokens}{names[1]}"
            whole += rest
        return whole

    def _times(self, video: Clip, groups: int) -> list[float]:
        """Seconds of each group: the mean of its first and last frame."""
        times = video.timestamps.tolist()
        times += [times[-1]] * (groups * self.pair - len(times))
        return [(times[i] + times[i + self.pair - 1]) / 2 for i in range(0, len(times), self.pair)]

    def _frame_pixels(self, frames: int) -> Pixels:
        """The limits of Qwen3-VL apply to the whole video: a frame gets an equal share."""
        return {edge: max(1, pixels // frames) for edge, pixels in self.clip_pixels.items()}
