"""A decoder that is kept gives `generate`'s text with the model as it is now."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.engine.prefix_reuse import PrefixReuse
from sage_core.runtime.backend import Backend
from sage_core.runtime.cpu.executor import CpuBackend
from sage_core.runtime.cpu.weight_layouts import by_columns, by_onednn
from sage_core.runtime.cuda.executor import CudaGraphBackend
from sage_core.runtime.model_state import checksum, module_state
from tests.tiny.pairs import build_pair

GIVEN = {"max_new_tokens": 12, "eos_token_id": None, "pad_token_id": 0}
PROMPT = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])}


class Scaled(nn.Module):
    """A linear layer with an addition that attributes switch and scale, as adapters have."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.active = ["first"]
        self.scaling = {"first": 2.0, "second": -3.0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.base(x)
        for name in self.active:
            out = out + out * self.scaling[name]
        return out


def _write(model: Any, layer: Scaled) -> None:
    generator = torch.Generator().manual_seed(3)
    for weight in model.get_decoder().layers.parameters():
        weight.data.add_(torch.randn(weight.shape, generator=generator) * 0.5)


def _rows(model: Any, layer: Scaled) -> None:
    for part in model.get_decoder().layers:
        part.mlp.down_proj.weight.data.copy_(part.mlp.down_proj.weight.data.flip(0))


def _storage(model: Any, layer: Scaled) -> None:
    for weight in model.get_decoder().layers.parameters():
        weight.data = weight.data.flip(-1).contiguous() * 1.5


def _switched(model: Any, layer: Scaled) -> None:
    layer.active[0] = "second"


def _scaled(model: Any, layer: Scaled) -> None:
    layer.scaling["first"] = -4.0


CHANGES: dict[str, Callable[[Any, Scaled], None]] = {
    "written through .data": _write,
    "rows exchanged": _rows,
    "other storage": _storage,
    "another adapter": _switched,
    "another scale": _scaled,
}
BACKENDS: dict[str, Callable[[], Backend]] = {
    "oneDNN": lambda: CpuBackend(choose=lambda _: by_onednn),
    "columns": lambda: CpuBackend(choose=lambda _: by_columns),
    "static": CudaGraphBackend,
}


def changing() -> tuple[Any, Any, Scaled]:
    built = copy.deepcopy(build_pair("qwen2"))
    attention = built.target.get_decoder().layers[0].self_attn
    attention.o_proj = layer = Scaled(attention.o_proj)
    return built.target, built.draft, layer


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_next_text_follows_a_changed_model(change: str, backend: str) -> None:
    target, draft, layer = changing()
    decoder = SpeculativeDecoder(target, draft, "static", backend=BACKENDS[backend]())
    texts = []
    for turn in range(2):
        if turn:
            CHANGES[change](target, layer)
        wanted = target.generate(**PROMPT, **GIVEN, do_sample=False).tolist()
        for _ in range(2):
            assert decoder.generate(**PROMPT, **GIVEN).sequences.tolist() == wanted
        texts.append(wanted)
    assert texts[0] != texts[1]


@pytest.mark.parametrize("change", CHANGES)
def test_caches_of_a_conversation_follow_a_changed_model(change: str) -> None:
    target, draft, layer = changing()
    decoder, reuse = SpeculativeDecoder(target, draft, "static"), PrefixReuse()
    decoder.generate(**PROMPT, **GIVEN, reuse=reuse)
    decoder.generate(**PROMPT, **GIVEN, reuse=reuse)
    assert reuse.reused > 0
    CHANGES[change](target, layer)
    wanted = target.generate(**PROMPT, **GIVEN, do_sample=False).tolist()
    assert decoder.generate(**PROMPT, **GIVEN, reuse=reuse).sequences.tolist() == wanted
    assert reuse.reused == 0


@pytest.mark.parametrize("change", ["merge_adapter", "set_adapter"])
def test_adapters_of_peft(change: str) -> None:
    peft = pytest.importorskip("peft")
    built = copy.deepcopy(build_pair("qwen2"))
    options = {"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
    torch.manual_seed(0)
    model = peft.get_peft_model(built.target, peft.LoraConfig(**options))
    model.add_adapter("other", peft.LoraConfig(**options))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data.normal_(0, 0.5)
    model.eval()
    backend = CpuBackend(choose=lambda _: by_columns)
    decoder = SpeculativeDecoder(model, built.draft, "static", backend=backend)
    for turn in range(2):
        if turn:
            getattr(model, change)(*["other"] * (change == "set_adapter"))
        wanted = model.generate(**PROMPT, **GIVEN, do_sample=False).tolist()
        for _ in range(2):
            assert decoder.generate(**PROMPT, **GIVEN).sequences.tolist() == wanted


@pytest.mark.parametrize("shape", [(6, 8), (5, 7), (9,), (), (2, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_a_checksum_sees_every_element_and_exchange(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    count = int(torch.tensor(shape).prod()) if shape else 1
    weight = torch.arange(1, count + 1).reshape(shape).to(dtype)
    before = checksum(weight)
    assert checksum(weight.clone()) == before
    flat = weight.view(-1)
    for i in range(count):
        changed = weight.clone()
        changed.view(-1)[i] = 111
        assert checksum(changed) != before
        for j in range(i):
            exchanged = weight.clone()
            exchanged.view(-1)[[i, j]] = flat[[j, i]]
            assert checksum(exchanged) != before


def test_tensors_that_passes_leave_on_modules_change_no_state() -> None:
    module = Scaled(nn.Linear(2, 2))
    module.latest = torch.zeros(1)
    before = module_state([module])
    module.latest = torch.ones(1)
    assert module_state([module]) == before
    module.base.train(False)
    assert module_state([module]) != before
