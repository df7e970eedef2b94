"""The hub and its cache: what is there is used, what is out of reach is said within seconds."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sage_core
from sage_core.errors import ModelError
from sage_core.models import catalog, hub
from sage_core.models.known_pairs import drafts_for
from sage_core.models.progress import gib
from tests.core.fake_hub import FakeHub, serving
from tests.core.saved_pair import save_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair"))


HUB = """
import socket, sys, time
from sage_core.errors import ModelError
from sage_core.models import hub
started = time.monotonic()
try:
    hub.find("owner/name")
except ModelError as error:
    print(error)
sys.exit(time.monotonic() - started > 40)  # an answer, not a hang
"""


@pytest.mark.parametrize("how", ["closed port", "silent server", "asked to stay offline"])
def test_an_unreachable_hub_answers_within_seconds(how: str, tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its settings once."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if how == "silent server":
            server.listen(16)  # connections succeed, and nothing ever comes
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "1" if how == "asked to stay offline" else "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", HUB],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    reach = "the hub cannot be reached: connect once"
    if how == "asked to stay offline":
        reach = "HF_HUB_OFFLINE forbids network access: unset it once"
    assert done.stdout == (
        f"owner/name: not in the local cache, and {reach}, or give the path of a local copy\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with nothing in it, an empty cache, and no token."""
    from huggingface_hub import constants

    with serving(FakeHub()) as hub:
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint
            + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.mark.parametrize(
    ("status", "code", "token", "says"),
    [
        (404, "RepoNotFound", "", "not on the hub, or private"),
        (401, "", "", "the hub denies access: run: hf auth login (no token is set)"),
        (
            401,
            "GatedRepo",
            "",
            "a gated model: accept its terms on the hub, then run: hf auth login (no",
        ),
        (
            403,
            "GatedRepo",
            "hf_x",
            "a gated model: accept its terms on the hub, then set another token",
        ),
        (403, "", "hf_x", "the hub denies access: set another token"),
        (500, "", "", "refused the download (HTTP 500): try again later"),
    ],
)
def test_what_the_hub_answers_is_said(
    status: int, code: str, token: str, says: str, fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    fake.refusals["owner/name"] = (status, code)
    with pytest.raises(ModelError) as caught:
        hub.find("owner/name")
    assert str(caught.value).startswith("owner/name: ")
    assert says in str(caught.value)


def test_a_pair_comes_from_the_hub_small_files_first(
    pair: Path, fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.add("owner/target", pair / "target")
    fake.add("owner/draft", pair / "draft")
    heard: list[tuple[str, float]] = []
    loaded = sage_core.load(
        "owner/target", "owner/draft", progress=lambda *said: heard.append(said)
    )
    assert (loaded.target_id, loaded.draft_id) == ("owner/target", "owner/draft")
    first = fake.asked.index(fake.weights_asked()[0])
    assert {line.split()[1] for line in fake.asked[:first]} == {"owner/target", "owner/draft"}
    # Bytes are told of downloads and of loading, and the whole only ever grows.
    size = gib((pair / "target" / "model.safetensors").stat().st_size)
    assert f"downloading owner/target: {size} of {size}" in [message for message, _ in heard]
    assert any(message.startswith("loading owner/draft: ") for message, _ in heard)
    assert [share for _, share in heard] == sorted(share for _, share in heard)
    # Once it is cached nothing is asked any more.
    asked = len(fake.asked)
    fake.repos.clear()
    sage_core.load("owner/target", "owner/draft")
    assert len(fake.asked) == asked
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tokenizer.json": b"zebra"}, "token 40 is "),
        (
            {"config.json": b"placeholder"},
            r"image_token_\w+ is 3 for the target and 4 for the draft",
        ),
        ({"config.json": b"tiles"}, "different tokens: image_size is 32 for the target and 64"),
    ],
    ids=["tokenizer", "placeholder", "tiles"],
)
def test_a_draft_that_does_not_fit_is_refused_without_fetching_weights(
    changed: dict[str, bytes], says: str, pair: Path, fake: FakeHub
) -> None:
    fake.add("owner/target", pair / "target")
    (name, how), *_ = changed.items()
    data = json.loads((pair / "draft" / name).read_text())
    if how == b"zebra":
        vocabulary = data["model"]["vocab"]
        token = next(token for token, index in vocabulary.items() if index == 40)
        vocabulary["zebra"] = vocabulary.pop(token)
    elif how == b"placeholder":
        data |= {"image_token_id": 4, "video_token_id": 3}
    else:
        data["vision_config"]["image_size"] = 64
    fake.add("owner/draft", pair / "draft", **{name: json.dumps(data).encode()})
    with pytest.raises(ModelError, match=says):
        sage_core.load("owner/target", "owner/draft")
    assert fake.weights_asked() == []


def test_a_revision_is_pinned(pair: Path, fake: FakeHub) -> None:
    fake.add("owner/name", pair / "target")
    fake.add("owner/name", pair / "draft", revision="v1")
    newest = hub.find("owner/name")
    for pinned in (hub.find("owner/name", "v1"), hub.find("owner/name@v1")):
        assert pinned.revision == fake.commit("owner/name", "v1") != newest.revision
        assert (pinned.name, pinned.repo) == ("owner/name", "owner/name")
    whole = hub.fetch(pinned)
    assert whole.folder == pinned.folder
    assert whole.bytes == (pair / "draft" / "model.safetensors").stat().st_size == pinned.bytes
    assert hub.find("owner/name@v1").repo is None  # cached: nothing is left to fetch
    with pytest.raises(ModelError, match="no such revision"):
        hub.find("owner/name", "v2")
    with pytest.raises(ModelError, match="one revision and --revision v2 another"):
        hub.find("owner/name@v1", "v2")
    with pytest.raises(ModelError, match="is a folder, which has no revisions"):
        hub.find(pair / "target", "v1")


def test_only_safetensors_are_fetched(pair: Path, fake: FakeHub) -> None:
    fake.add("owner/both", pair / "target", **{"pytorch_model.bin": b"x", "evil.py": b"x"})
    hub.fetch(hub.find("owner/both"))
    assert not [line for line in fake.asked if line.endswith((".bin", ".py"))]
    fake.add("owner/pickles", pair / "target", **{"pytorch_model.bin": b"x"})
    del fake.repos["owner/pickles"]["main"]["model.safetensors"]
    with pytest.raises(ModelError, match="only pickled weights"):
        hub.find("owner/pickles")
    hub.find("owner/both", "main", code=True)


def test_a_known_draft_that_cannot_be_had_is_no_failure(pair: Path, fake: FakeHub) -> None:
    """The text would be the same with it."""
    repo = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    fake.add(repo, pair / "target")
    loaded = sage_core.load(repo)
    assert loaded.draft_id is None
    assert f"decoding without a draft ({drafts_for(repo)[0]}: not on the hub" in loaded.note
    with pytest.raises(ModelError, match="not on the hub"):
        sage_core.load(repo, drafts_for(repo)[0])


def cached(root: Path, repo: str, source: Path) -> Path:
    """Lay a checkpoint out as the hub's cache does."""
    base = root / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(source, snapshot)
    (base / "blobs").mkdir()
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text("0" * 40)
    return snapshot


def test_cached_models_are_used_and_listed_without_a_network(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    repo = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    (draft,) = drafts_for(repo)
    snapshot = cached(tmp_path, repo, pair / "target")
    cached(tmp_path, draft, pair / "draft")
    cached(tmp_path, "someone/broken", pair / "draft").joinpath("model.safetensors").unlink()
    assert hub.find(repo).folder == snapshot
    pipeline = sage_core.load(repo)
    assert (pipeline.target_id, pipeline.draft_id) == (repo, draft)
    entries = [entry for entry in catalog.list_models() if entry.kind == "cached"]
    assert [entry.id for entry in entries] == sorted([repo, draft])
    assert {entry.id: entry.draft for entry in entries} == {repo: draft, draft: None}
    with pytest.raises(
        ModelError, match="someone/broken: only in part in the local cache, and the"
    ):
        hub.find("someone/broken")
