"""A target sharded over two processes on the CPU has the texts of the whole one."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing

from sage_core.engine import tensor_parallel as parallel
from sage_core.engine.tensor_parallel import Group
from sage_core.errors import ModelError, OptionError
from tests.tiny import build_pair, make_inputs
from tests.tiny.oracle import check_steps, reference

FAMILY = "qwen2_5_vl"
POLICIES = ("autoregressive", "static", "sage")
NEW = 24


def inputs_of(model: Any) -> dict[str, Any]:
    return {**make_inputs(model, FAMILY, "image", length=9), "repetition_penalty": 1.1}


def one_process(rank: int, folder: str, port: int) -> None:
    """What each of the two processes does; results by rank are left in the folder."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
    )
    torch.set_num_threads(1)
    with parallel.joined() as group:
        assert (group.rank, group.size) == (rank, 2)
        target = parallel.load_target(folder, torch.float32)
        weight = target.get_decoder().layers[0].mlp.up_proj.weight
        draft = build_pair(FAMILY).draft if group.leads else None
        found: dict[str, Any] = {"share": weight.to_local().numel() / weight.numel()}
        for policy in POLICIES:
            leading = draft if policy != "autoregressive" else None
            decoder = group.decoder(target, leading, policy)
            output = decoder.generate(**inputs_of(target), max_new_tokens=NEW)
            prompt = output.stats.prompt_tokens
            check_steps(output.steps, output.sequences[0, prompt:].tolist())
            accepted = [len(step.accepted) for step in output.steps]
            found[policy] = (output.sequences.tolist(), accepted)
        torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.mark.slow
def test_two_processes_write_the_target_s_own_text(tmp_path: Path) -> None:
    target = build_pair(FAMILY).target
    target.save_pretrained(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_process, (str(tmp_path), port), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert first == second and first["share"] == 0.5
    expected = reference(target, inputs_of(target), max_new_tokens=NEW).tolist()
    for policy in POLICIES:
        sequences, accepted = first[policy]
        assert sequences == expected
        assert any(accepted) == (policy != "autoregressive")


def test_only_the_leader_drafts() -> None:
    target, draft = build_pair(FAMILY)
    with pytest.raises(OptionError, match="only process 0 drafts"):
        Group(rank=1, size=2).decoder(target, draft)


def test_processes_come_from_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(OptionError, match="start this with torchrun"), parallel.joined():
        pass


def test_heads_that_cannot_be_shared_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_pair(FAMILY).target.config.save_pretrained(tmp_path)
    monkeypatch.setattr(parallel.dist, "get_world_size", lambda: 3)
    with pytest.raises(ModelError, match="4 attention heads cannot be divided by 3 processes"):
        parallel.load_target(str(tmp_path), torch.float32)
