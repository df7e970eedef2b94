"""A pair for videos of many frames: `python -m training.long_clips target --out OUT`, then `draft`.

The bundled pair was trained on at most ten frames. Copies of its target and of its small draft are
trained further on videos of 16 to 48 frames whose texts name things in order
(`training.world.parade`); the vision tower is frozen. Both stages are counted in steps and resume
from what is in the folder, in which `load_pair` then finds `target/` and `draft/`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlavaOnevisionForConditionalGeneration

from training.auxiliary import CELLS, AuxiliaryHead
from training.batches import Batch, BatchConfig, Row, pack
from training.common import Log, factor, mean_values, to_device
from training.distil import Example, draft_loss, make_example
from training.optim import Optimizer, Rates
from training.pair import PairConfig, save_model, wrap_tokenizer
from training.tokens import fact_weights, name_tokens, talk_ids, visual_count
from training.train import Heads, TargetConfig, target_loss
from training.world.dialogue import VIDEO_PROMPT
from training.world.dialogue import Turn as Said
from training.world.parade import MOST, parade, parade_caption
from training.world.phrases import VIDEO_PROMPTS
from training.world.render import placed_at
from training.world.scenes import COLORS, SHAPES, Clip, choose

BUNDLED = Path(__file__).parents[1] / "sage_core" / "assets" / "sage-tiny"
FEWEST, FIRST, LONGEST = 16, 20, 48
"""Frames: the fewest, the most at the beginning, the most at the end."""
LABELS = {"number": MOST + 1, "color before": len(COLORS), "shape before": len(SHAPES)}
"""Labels at the visual token of a thing: its number, and the thing before it."""
ROWS, TEXT, CAPTIONS = 4, 232, 4
PASSES, KEPT, TRUTH = 3, 12, 0.1
EVERY, SAVED = 20, 50
Model = LlavaOnevisionForConditionalGeneration


def frames_at(rng: np.random.Generator, done: float) -> int:
    """Frames of a step's videos; the most from half of the steps on."""
    most = FIRST + (LONGEST - FIRST) * min(1.0, 0.1 + 2 * done)
    return int(rng.integers(FEWEST, int(most) + 1))


def before(clip: Clip, frames: int) -> np.ndarray:
    """(visual tokens, labels) at the tokens of visible things; -1 elsewhere."""
    out = np.full((frames, CELLS, len(LABELS)), -1, np.int64)
    for frame in range(frames):
        for thing, _, _ in placed_at(clip, frame / (frames - 1)):
            who = clip.things.index(thing)
            last = clip.things[who - 1] if who else None
            color = COLORS.index(last.color) if last else -1
            out[frame, thing.cell] = who, color, SHAPES.index(last.shape) if last else -1
    gap = np.full((1, len(LABELS)), -1, np.int64)  # the newline behind the last frame
    return np.concatenate([out.reshape(-1, len(LABELS)), gap])


def make_batch(seed: int, step: int, steps: int, tokenizer: Tokenizer) -> Batch:
    """The batch of a step: videos of one number of frames, each with several captions."""
    rng = np.random.default_rng([seed, 43, step])
    frames = frames_at(rng, step / steps)
    rows = []
    for _ in range(ROWS):
        clip = parade(rng, frames)
        talks = []
        for _ in range(CAPTIONS):
            prompt = VIDEO_PROMPT if rng.random() < 0.6 else choose(rng, VIDEO_PROMPTS)
            talks.append(talk_ids(tokenizer, (Said(prompt, parade_caption(rng, clip)),)))
        rows.append(Row(clip, frames, talks, before(clip, frames)))
    length = len(tokenizer.encode("user ").ids) + visual_count(rows[0].scene, frames) + TEXT
    return pack(rows, tokenizer, BatchConfig(length=length))


def load(folder: Path) -> Model:
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.set_attn_implementation("eager")  # faster in the backward pass on a CPU
    model.model.vision_tower.requires_grad_(False)
    return model


def deepen(model: Model, layers: int) -> Model:
    """The model with more layers at the end, initialized to change nothing."""
    config = model.config.__class__.from_dict(model.config.to_dict())
    config.text_config.num_hidden_layers = layers
    config.text_config.layer_types = ["full_attention"] * layers
    out = LlavaOnevisionForConditionalGeneration(config)
    own = model.config.text_config.num_hidden_layers
    out.load_state_dict(model.state_dict(), strict=layers == own)
    for layer in out.model.language_model.layers[own:]:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    out.set_attn_implementation("eager")
    out.model.vision_tower.requires_grad_(False)
    return out


class Stage:
    """A run over numbered steps; its state is in ``out / NAME.pt``."""

    def __init__(self, name: str, out: Path, trained: torch.nn.Module, rates: Rates) -> None:
        self.name, self.out, self.trained = name, out, trained
        self.log = Log(out)
        self.optimizer = Optimizer([(1.0, list(trained.named_parameters()))], rates)
        self.step, self.spent, self.tokens = 0, 0.0, 0
        self._path = out / f"{name}.pt"
        if self._path.exists():
            state = torch.load(self._path, weights_only=True)
            trained.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.spent, self.tokens = state["step"], state["spent"], state["tokens"]
            self.log.line(f"{name} resumed step={self.step}")

    def run(
        self, steps: int, loss_at: Callable[[int], tuple[torch.Tensor, dict[str, float]]]
    ) -> None:
        history: list[dict[str, float]] = []
        begin = time.time() - self.spent
        while self.step < steps:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss, shown = loss_at(self.step)
            loss.backward()
            self.optimizer.step(factor(self.step / steps))
            self.step += 1
            self.tokens += int(shown.pop("tokens"))
            history.append(shown)
            self.spent = time.time() - begin
            if self.step % EVERY == 0 or self.step == steps:
                self.log.row(self.name, self.step, self.spent, self.tokens, mean_values(history))
                history.clear()
            if self.step % SAVED == 0 or self.step == steps:
                self.save()

    def save(self) -> None:
        state = {"model": self.trained.state_dict(), "optimizer": self.optimizer.state_dict()}
        numbers = {"step": self.step, "spent": self.spent, "tokens": self.tokens}
        scratch = self._path.with_suffix(".new")
        torch.save(state | numbers, scratch)
        scratch.rename(self._path)


def words() -> Tokenizer:
    return Tokenizer.from_file(str(BUNDLED / "target" / "tokenizer.json"))


def keep(model: Model, folder: Path) -> None:
    save_model(model, wrap_tokenizer(words(), PairConfig()), folder)


def train_target(out: Path, steps: int, seed: int) -> None:
    """Train all but the tower on answers, with auxiliary labels of what comes after what."""
    torch.manual_seed(seed)
    tokenizer, model, heads = words(), load(BUNDLED / "target"), Heads(PairConfig())
    heads.auxiliary = AuxiliaryHead(PairConfig().hidden, LABELS, "color before")
    heads.patches.requires_grad_(False)
    model.train()
    stage = Stage("target", out, torch.nn.ModuleList([model, heads]), Rates(0.8e-3, 0.6e-3))
    config = TargetConfig(0.0, patches=0.0, auxiliary=0.3)
    facts = torch.from_numpy(fact_weights(tokenizer, config.facts))
    names = {name: torch.from_numpy(ids) for name, ids in name_tokens(tokenizer).items()}

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        data = to_device(make_batch(seed, step, steps, tokenizer), torch.device("cpu"))
        loss, shown = target_loss(model, heads, data, facts, names, config)
        reported = {"loss", "right", "facts", "facts_right", "auxiliary", "auxiliary_did"}
        return loss, {k: v for k, v in shown.items() if k in reported} | {
            "tokens": data.ids.numel()
        }

    stage.run(steps, loss_at)
    keep(model, out / "target")


def train_draft(out: Path, steps: int, seed: int, layers: int) -> None:
    """Distil from the target on texts of the same kind; an example is used in several steps."""
    torch.manual_seed(seed)
    tokenizer, target = words(), load(out / "target")
    target.eval().requires_grad_(False)
    draft = deepen(load(BUNDLED / "draft"), layers)
    draft.model.vision_tower.load_state_dict(target.model.vision_tower.state_dict())
    draft.train()
    stage = Stage("draft", out, draft, Rates(2e-3, 1.2e-3))
    kept: list[Example] = []

    def loss_at(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        if step % PASSES == 0 or not kept:
            batch = make_batch(seed + 1, step, steps, tokenizer)
            kept.append(make_example(target, to_device(batch, torch.device("cpu"))))
            del kept[:-KEPT]
            item = kept[-1]
        else:
            item = kept[int(np.random.default_rng([seed, 47, step]).integers(len(kept)))]
        loss, shown = draft_loss(draft, item, TRUTH)
        return loss, shown | {"tokens": item.data.ids.numel()}

    stage.run(steps, loss_at)
    keep(draft, out / "draft")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("stage", choices=["target", "draft"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, help="default: 345, of the draft 480")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=2, help="of the draft; the bundled has one")
    chosen: dict[str, Any] = vars(parser.parse_args(argv))
    if chosen["stage"] == "target":
        train_target(chosen["out"], chosen["steps"] or 345, chosen["seed"])
    else:
        train_draft(chosen["out"], chosen["steps"] or 480, chosen["seed"], chosen["layers"])


if __name__ == "__main__":
    main()
