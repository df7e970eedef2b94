"""Randomly damaged files give an image, a clip or an error of one line; nothing is printed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_core.errors import InputError
from sage_core.media import Clip, Picture, Sampling, open_media
from tests.core.damage import DAMAGES, damaged
from tests.core.media_files import encoded, write_clip

ROUNDS = 4


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3)).astype(np.uint8)
    picture = Image.fromarray(noise)
    whole = {kind: encoded(picture, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")}
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.webm", "libvpx-vp9")):
        whole[name] = write_clip(folder / name, codec=codec).read_bytes()
    return whole


@pytest.mark.parametrize("how", DAMAGES)
def test_random_damage_never_crashes(
    how: str, sources: dict[str, bytes], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    dice = random.Random(how)
    path = tmp_path / "input"
    refused = 0
    for name, data in sources.items():
        for turn in range(ROUNDS):
            broken = damaged(data, how, dice)
            path.write_bytes(broken)
            try:
                opened = open_media(path if turn % 2 else broken, Sampling(frame_pixels=64 * 64))
            except InputError as error:
                refused += 1
                assert "\n" not in str(error), name
                assert len(str(error)) < 250, name
            else:
                assert isinstance(opened, Picture | Clip)
    assert refused > 0
    assert capfd.readouterr() == ("", "")
