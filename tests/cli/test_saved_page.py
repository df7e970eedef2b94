"""The saved page: its data, the media in it, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sage_cli.render import page as saved_page
from sage_cli.render.previews import preview
from sage_core.media import Clip, Picture, Sampling
from tests.cli.fake import Script, scripted, word


class Scripts(HTMLParser):
    """Collects scripts and every address that a page names."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.addresses: list[str] = []
        self._inside = False

    def handle_starttag(self, tag, attrs):
        self._inside = tag == "script"
        self.addresses += [v for k, v in attrs if k in ("src", "href")]
        if tag == "link":
            self.addresses.append("link")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.scripts.append(data)


def page(path: str) -> tuple[dict, Scripts]:
    parser = Scripts()
    parser.feed(Path(path).read_text(encoding="utf-8"))
    data = re.search(r"^const run = (.*);$", parser.scripts[0], re.MULTILINE)
    assert data is not None
    return json.loads(data[1]), parser


def test_page_of_the_whole_run(sage):
    assert sage("caption", "a.png", "--save-view", "view.html", "--quiet").exit_code == 0
    data, parser = page("view.html")
    steps = scripted()
    assert [step["index"] for step in data["steps"]] == [0, 1, 2, 3]
    assert [step["accepted"] for step in data["steps"]] == [list(s.accepted) for s in steps]
    assert data["steps"][1]["words"] == [word(t) for t in steps[1].tree.tokens]
    text = "".join(step["text"] for step in data["steps"])
    assert text.startswith("A large red circle") and all(step["kept"] for step in data["steps"])
    assert data["models"] == "fake-target with fake-draft"
    assert parser.addresses == []
    assert len(parser.scripts) == 1


def test_no_token_can_break_out_of_the_page(sage, pipeline, monkeypatch):
    monkeypatch.setattr("tests.cli.fake.WORDS", ["</script><script>alert(1)</script>"])
    sage("caption", "a.png", "--save-view", "view.html")
    data, parser = page("view.html")
    assert data["steps"][0]["tokens"] == [" </script><script>alert(1)</script>"]
    assert len(parser.scripts) == 1


def test_an_interrupted_run_still_leaves_its_view(sage, pipeline):
    pipeline.enqueue(Script(error=KeyboardInterrupt()))
    assert sage("caption", "a.png", "--save-view", "view.html").exit_code == 130
    assert len(page("view.html")[0]["steps"]) == 4


def decoded(frame: dict) -> Image.Image:
    """The picture in a preview's data URL."""
    head, data = frame["src"].split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def noise(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), np.uint8)


def clip_of(frames: np.ndarray) -> Clip:
    return Clip(frames, np.arange(len(frames)) / 2, 2.0, len(frames) / 2, "clip.mp4")


def test_a_picture_is_shown_small_and_stays_as_it_is():
    image = Image.new("RGB", (3000, 1000), (200, 30, 30))
    shown = preview(Picture(image, "a\n.png"))
    assert (shown["name"], shown["clip"], shown["count"]) == ("a\\n.png", False, 1)
    (frame,) = shown["frames"]
    small = decoded(frame)
    assert small.size == (frame["width"], frame["height"]) == (1108, 369)
    assert np.allclose(small.getpixel((500, 100)), (200, 30, 30), atol=4)
    assert image.size == (3000, 1000)


def test_frames_are_spread_over_the_clip_with_their_times():
    frames = np.zeros((100, 8, 8, 3), np.uint8)
    frames[:, :, :, 0] = 2 * np.arange(100)[:, None, None]
    shown = preview(clip_of(frames))
    times = [frame["time"] for frame in shown["frames"]]
    assert (shown["count"], len(times), times[0], times[-1]) == (100, 24, 0.0, 49.5)
    for frame in shown["frames"]:
        assert decoded(frame).getpixel((4, 4))[0] == pytest.approx(4 * frame["time"], abs=4)


@pytest.mark.parametrize("files", [1, 3, 40])
def test_what_is_shown_is_bounded_whatever_the_files(files):
    clip, picture = (
        clip_of(noise(64, 300, 400)),
        Picture(Image.fromarray(noise(1, 900, 900)[0]), ""),
    )
    shown = [preview(media, files) for media in [clip, picture, *[clip] * 38][:files]]
    assert all(one["frames"] for one in shown)
    assert len(json.dumps(shown)) < 1.5 * 2**20


def test_a_thin_picture_is_shown():
    (frame,) = preview(Picture(Image.new("RGB", (1, 70_000)), "thin.png"))["frames"]
    assert decoded(frame).size == (1, 4096)


@pytest.mark.parametrize(("view", "shown"), [("run.html", True), ("run.svg", False)])
def test_a_page_shows_what_the_other_process_opened(
    sage, loads, pipeline, monkeypatch, view, shown
):
    stream, name = pipeline.stream, str(Path(__file__).parents[2] / "examples" / "moving.mp4")

    def opening(files, *more, **options):
        for file in files:
            loads.calls[0]["opener"](file, Sampling(frames=4))
        return stream(files, *more, **options)

    made = []
    monkeypatch.setattr(pipeline, "stream", opening)
    monkeypatch.setattr(
        "sage_cli.jobs.media.preview", lambda *a: made.append(preview(*a)) or made[-1]
    )
    assert sage("caption", name, "--save-view", view, "--quiet").exit_code == 0
    assert [len(one["frames"]) for one in made] == [4] * shown
    if shown:
        data, parser = page(view)
        assert data["media"] == made
        assert parser.addresses == [], "pictures are set by the script"
        red = np.asarray(decoded(made[0]["frames"][0]))[..., 0]
        assert red.min() < 120 < 200 < red.max()


def test_texts_are_kept_once_however_long_the_run():
    texts = ["a", "a b", "a 赤", "a 赤い 🟥", "a 赤い 🟥 c"]
    steps = saved_page.compact([{"text": text} for text in texts])
    assert [step["text"] for step in steps] == ["a", " b", "a 赤", "い 🟥", " c"]
    whole, read = "", []
    for step in steps:
        whole = (whole if step["kept"] else "") + step["text"]
        read.append(whole)
    assert read == texts


PROBE = """<script>
const said = [], where = () => document.getElementById("where").textContent;
const press = (key, more = {}) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
const bars = document.getElementById("strip").children, tree = document.getElementById("tree");
said.push(where(), bars.length);
press("Home"); said.push(where());
press("ArrowRight"); said.push(where());
press("ArrowRight", { altKey: true }); said.push(where());
bars[2].click(); bars[2].focus(); press("ArrowRight");
said.push(where(), document.activeElement === bars[3]);
said.push(tree.scrollWidth <= tree.clientWidth && document.body.scrollWidth <= innerWidth);
said.push(document.getElementById("text").textContent);
said.push(document.querySelectorAll("#media img").length);
document.body.dataset.said = JSON.stringify(said);
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the browser chromium")
def test_a_browser_opens_the_page_at_the_step_that_accepted_most(tmp_path):
    picture = preview(Picture(Image.new("RGB", (40, 30)), "a.png"))
    words = ["naïve", "赤い円", "🟥", "<b>", "w" * 90]
    steps, text = [], ""
    for step in scripted((1, 0, 4, 25, 2)):
        text += f" {step.index}"
        steps.append(saved_page.step_data(step, text, lambda t: words[t % 5] if t >= 0 else ""))
    data = {"title": "a", "policy": "p", "models": "m", "media": [picture]}
    html = saved_page.page({**data, "steps": saved_page.compact(steps)})
    path = tmp_path / "page.html"
    path.write_text(html.replace("</body>", PROBE), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'user'}"]
    for width in (500, 1280):
        command = ["chromium", *flags, f"--window-size={width},900", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
        found = re.search(r'data-said="(.*?)"', done.stdout)
        assert found is not None, done.stderr
        assert json.loads(found[1].replace("&quot;", '"')) == [
            "step 4 of 5", 6, "step 0 of 5", "step 1 of 5", "step 1 of 5", "step 3 of 5", True,
            True, " 0 1 2 3 4 5", 1,
        ]  # fmt: skip
