"""A head in a folder: saved and loaded whole, or refused with its target's name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import sage_core
from sage_core.bench.engine import PairEngine
from sage_core.drafts.head import checkpoint
from sage_core.drafts.head import saved as heads
from sage_core.drafts.head.checkpoint import load_head, save_head
from sage_core.drafts.head.config import is_head
from sage_core.drafts.head.fingerprint import fingerprint
from sage_core.drafts.head.init import new_head
from sage_core.drafts.vocab.token_list import DraftVocab
from sage_core.errors import ModelError, OptionError
from sage_core.models import catalog
from sage_core.models.memory_needs import measure
from sage_core.options import Options
from tests.core.saved_families import picture
from tests.core.saved_pair import make_config, make_model, make_tokenizer, save, save_pair
from tests.tiny import FAMILIES, build_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def target(pair: Path) -> Any:
    return sage_core.load(pair, None)._pair.target


@pytest.fixture
def folder(target: Any, tmp_path: Path) -> Path:
    head = new_head(target, name="some/target", revision="abc", kind="specvlm", mode="concat")
    save_head(head, tmp_path / "head")
    return tmp_path / "head"


@pytest.mark.parametrize("kind", ["head", "specvlm", "vispec"])
def test_saved_heads_load(target: Any, tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    head = new_head(target, name="some/target", kind=kind)
    for weight in head.parameters():
        weight.data.normal_()
    save_head(head, tmp_path)
    save_head(head, tmp_path)  # over an older one
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "head.safetensors"]
    again = load_head(tmp_path, target)
    assert again.config == head.config and not again.training
    assert again.state_dict().keys() == head.state_dict().keys()
    for name, weight in head.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)
    assert not any(weight.requires_grad for weight in again.parameters())


def test_loaded_with_its_target_it_drafts(pair: Path, folder: Path) -> None:
    pipeline = sage_core.load(pair, folder)
    plain = sage_core.load(pair, None)
    assert pipeline.draft_id == str(folder)
    result = pipeline.caption(picture(), policy="static", max_new_tokens=12)
    wanted = plain.caption(picture(), max_new_tokens=12)
    assert result.tokens == wanted.tokens
    assert result.stats.draft_passes > 0
    assert 0 < result.stats.draft_visual_tokens <= result.stats.visual_tokens
    part = tuple(range(20, 200))
    few = pipeline.caption(picture(), policy="static", max_new_tokens=12, draft_vocab=part)
    assert few.tokens == wanted.tokens
    drafted = {token for step in few.steps for token in step.tree.tokens}
    assert drafted and drafted <= {*part, 0, 2}, "a head scores by its target's rows"


def test_with_a_reduced_vocabulary(pair: Path, folder: Path) -> None:
    pipeline, plain = sage_core.load(pair, folder), sage_core.load(pair, None)
    vocab = DraftVocab.of(range(5, 120))
    result = pipeline.caption(picture(), policy="static", max_new_tokens=12, draft_vocab=vocab)
    assert result.tokens == plain.caption(picture(), max_new_tokens=12).tokens
    drafted = {token for step in result.steps for token in step.tree.tokens}
    assert drafted and max(drafted) < 120


def test_in_another_dtype(pair: Path, folder: Path) -> None:
    """Trained in one, used in another: the fingerprint is the same and the head follows."""
    pipeline = sage_core.load(pair, folder, dtype="bfloat16")
    assert pipeline._pair.draft.dtype == torch.bfloat16
    assert pipeline.caption(picture(), policy="static", max_new_tokens=4).tokens


def test_a_conversation_with_a_head(pair: Path, folder: Path) -> None:
    """Turns go on from one another, and the template writes the end of each anew."""
    ours, plain = sage_core.load(pair, folder), sage_core.load(pair, None)
    letters = sorted(set(range(264)) - set(range(70, 96)))
    generation = {"suppress_tokens": letters}
    talks = [
        one.chat([picture()], max_new_tokens=6, generation=generation, policy=policy)
        for one, policy in ((ours, "static"), (plain, "autoregressive"))
    ]
    for question in ("What is this?", "And then?", "Why?"):
        answers = [talk.ask(question) for talk in talks]
        assert answers[0].tokens == answers[1].tokens
        assert answers[0].stats.draft_passes > 0
    assert talks[0].reused > 4


@pytest.mark.parametrize("family", FAMILIES)
def test_fingerprints(family: str) -> None:
    ours, other = build_pair(family).target, build_pair(family, 1).target
    assert fingerprint(ours) == fingerprint(ours) != fingerprint(other)
    assert fingerprint(ours) != fingerprint(build_pair(family).draft)


def test_another_target_is_refused(pair: Path, folder: Path, tmp_path: Path) -> None:
    """Of another size before any weights are read, of other weights before anything is decoded."""
    tokenizer = make_tokenizer()
    save(tmp_path / "weights", make_model(make_config(2), 7), tokenizer)
    save(tmp_path / "size", make_model(make_config(2, 280), 0), tokenizer)
    (tmp_path / "size" / "model.safetensors").write_bytes(b"not read")
    for name in ("weights", "size"):
        with pytest.raises(ModelError, match="some/target@abc, which this target is not"):
            sage_core.load(tmp_path / name, folder)


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def cut(folder: Path) -> None:
    file = folder / "head.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def other_kind(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"concat"', '"select"').replace("specvlm", "vispec"))


def edit(**changes: object) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return act


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no weights": (drop("head.safetensors"), "has no head.safetensors"),
    "no configuration": (drop("config.json"), "no such file"),
    "garbage for weights": (write("head.safetensors", b"garbage"), "weights are damaged"),
    "weights cut short": (cut, "weights are damaged"),
    "weights of another kind": (other_kind, "weights are damaged"),
    "garbage for a configuration": (write("config.json", b"\xff\xfe{"), "not UTF-8"),
    "half a configuration": (write("config.json", b'{"sage_head": 1, "ki'), "not valid JSON"),
    "a size that would fill the memory": (edit(kind="vispec", queries=10**12), "damaged"),
    "a ratio of another type": (edit(ratio="x"), "ratio: expected `float`"),
    "an unknown field": (edit(colour=1), "unknown field colour"),
    "a later version": (write("config.json", b'{"sage_head": 9}'), "version 1"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder(name: str, pair: Path, folder: Path) -> None:
    act, message = DAMAGE[name]
    act(folder)
    assert is_head(folder)
    with pytest.raises(ModelError, match=message) as caught:
        sage_core.load(pair, folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_invalid_requests_for_a_head(pair: Path, folder: Path) -> None:
    with pytest.raises(OptionError, match="leave --draft-device out"):
        heads.find_saved_head(folder, make_config(2), device="cuda:0", draft_device="cuda:1")
    with pytest.raises(ModelError, match="no revisions"):
        sage_core.load(pair, folder, draft_revision="main")
    engine = PairEngine(sage_core.load(pair, folder)._pair, Options())
    for name in ("transformers-assisted", "transformers-assisted-best"):
        with pytest.raises(OptionError, match="the draft is a head"):
            engine.method(name)
    for name in ("static+ngram", "sage+viskip", "static+drawn"):
        assert engine.method(name).name == name
    assert heads.find_saved_head(pair / "draft", make_config(2)) is None
    assert (
        heads.find_saved_head("some/model", make_config(2)) is None
        and heads.find_saved_head(None, None) is None
    )


def test_it_counts_as_part_of_its_target_s_size(folder: Path, target: Any) -> None:
    saved = heads.find_saved_head(folder, make_config(2))
    assert saved is not None
    head = load_head(folder, target)
    assert saved.parameters == sum(weight.numel() for weight in head.parameters())
    alone = measure("t", make_config(2))
    whole = saved.beside(alone, 2)
    more = whole.need("float32").total - alone.need("float32").total
    assert more == 4 * (saved.parameters + whole.context * alone.cache_values // 2)


def test_a_failed_write_keeps_the_old_file(
    folder: Path, target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    head = load_head(folder, target)
    head.fuse.weight.data.zero_()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_head(head, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_on_the_command_line(
    pair: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from sage_cli.app import app

    Image.new("RGB", (40, 24), "red").save(tmp_path / "p.png")
    words = ["caption", str(tmp_path / "p.png"), "--model", str(pair), "--max-new-tokens", "6"]
    run = CliRunner().invoke(app, [*words, "--draft", str(folder), "--json"])
    assert run.exit_code == 0, run.output
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    told = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(told | {"fingerprint": "0" * 32}))
    run = CliRunner().invoke(app, [*words, "--draft", str(other)])
    assert run.exit_code == 4 and "some/target@abc" in run.output


def test_the_bundled_head_has_a_name(pair: Path) -> None:
    own, other = sage_core.load(), sage_core.load(draft=catalog.BUNDLED_HEAD)
    one, two = (each.caption("examples/shapes.png", max_new_tokens=48) for each in (own, other))
    assert one.text == two.text
    assert two.stats.mean_accepted > 1.5, "it has been trained"
    with pytest.raises(ModelError, match="which this target is not"):
        sage_core.load(pair, catalog.BUNDLED_HEAD)
