"""The hub and its cache: what is there is used, what is out of reach is said within seconds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import sage_core
from sage_core.errors import ModelError
from sage_core.models import catalog, hub
from sage_core.models.pairs import drafts_for
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
    assert done.stdout == (
        "owner/name: not in the local cache, and the hub cannot be reached: connect once, or give "
        "the path of a local copy\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "RepoNotFound", "not on the hub, or private"),
        (401, "GatedRepo", "asks for consent"),
        (500, "", "refused the download"),
    ],
)
def test_what_the_hub_answers_is_said(status: int, code: str, says: str, tmp_path: Path) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", HUB],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        server.shutdown()
    assert says in done.stdout
    assert done.stderr == ""


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
    with pytest.raises(ModelError, match="someone/broken"):
        hub.find("someone/broken")
