"""Train the pair: `python -m training.train --out DIR --minutes 95 --seed 0`."""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration

from sage_core.models.inputs import visual_mask
from training.auxiliary import AuxiliaryHead
from training.batches import BatchConfig, batches
from training.common import Log, Tensors, factor, hidden_states, mean_values, to_device
from training.distil import DraftConfig, train_draft
from training.optim import Optimizer, Rates
from training.pair import (
    PairConfig,
    build_draft,
    build_target,
    save_model,
    tower_features,
    wrap_tokenizer,
)
from training.parallel import Group
from training.tokens import fact_weights, name_tokens, train_tokenizer
from training.vision import PatchHead, VisionConfig, align_loss, train_vision

SHARES = {"vision": 0.105, "target": 0.79, "draft": 0.092}


@dataclass(frozen=True)
class TargetConfig:
    """How the target is trained: weights of the auxiliary losses, learning rates, duration."""

    minutes: float
    batch: BatchConfig = field(default_factory=BatchConfig)
    rates: Rates = field(default_factory=lambda: Rates(0.8e-3, 0.6e-3))
    tower_scale: float = 0.1
    facts: float = 2.0
    patches: float = 0.1
    aligned: float = 0.1
    auxiliary: float = 0.1
    easy_steps: int = 80
    save_minutes: float = 4.0


def target_loss(
    model: LlavaOnevisionForConditionalGeneration,
    heads: Heads,
    data: Tensors,
    weights: torch.Tensor,
    names: dict[str, torch.Tensor],
    config: TargetConfig,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Weighted cross-entropy on answers plus auxiliary losses; and values to log."""
    features = tower_features(model, data.pixels)
    inside = features[: len(features) - data.extra]
    layers = hidden_states(model, data, inside)
    hidden, middle = layers[-1], layers[len(layers) // 2]
    known = data.labels >= 0
    wanted = data.labels[known]
    logits = model.lm_head(hidden[known]).float()
    each = F.cross_entropy(logits, wanted, reduction="none")
    weight = weights[wanted] * data.weights[known]
    loss = (each * weight).sum() / weight.sum()
    patches = heads.patches.loss(features, data.targets)
    auxiliary, seen = heads.auxiliary.loss(
        middle[visual_mask(model.config, data.ids)], data.token_labels
    )
    aligned = align_loss(model, features, data.targets, names)
    total = (
        loss + config.patches * patches + config.aligned * aligned + config.auxiliary * auxiliary
    )
    with torch.no_grad():
        right = (logits.argmax(-1) == wanted).float()
        facts = weights[wanted] > 1
        shown = {"patches": float(patches.detach()), "aligned": float(aligned.detach())}
        shown |= {"auxiliary": float(auxiliary.detach()), "auxiliary_did": seen}
        shown |= {"loss": float(each.mean()), "right": float(right.mean())}
        if facts.any():
            shown |= {"facts": float(each[facts].mean()), "facts_right": float(right[facts].mean())}
    return total, shown


class Heads(torch.nn.Module):
    """Heads of the auxiliary losses, which are not saved with the pair."""

    def __init__(self, sizes: PairConfig) -> None:
        super().__init__()
        self.patches = PatchHead(sizes.vision_hidden)
        self.auxiliary = AuxiliaryHead(sizes.hidden)


def train_target(
    model: LlavaOnevisionForConditionalGeneration,
    heads: Heads,
    tokenizer: Tokenizer,
    config: TargetConfig,
    seed: int,
    device: torch.device,
    out: Path,
    log: Log,
    group: Group,
) -> None:
    """Train for a time; resumes from OUT/target.pt, which is written every few minutes."""
    tower = [*model.model.vision_tower.named_parameters(), *heads.patches.named_parameters()]
    inside = {id(p) for _, p in tower}
    both = [*model.named_parameters(), *heads.auxiliary.named_parameters()]
    rest = [(name, p) for name, p in both if id(p) not in inside]
    optimizer = Optimizer([(1.0, rest), (config.tower_scale, tower)], config.rates, group)
    spent, step, tokens = 0.0, 0, 0
    state_path = out / "target.pt"
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        moments = out / f"moments{group.rank}.pt"
        if moments.exists():
            optimizer.load_state_dict(torch.load(moments, map_location=device, weights_only=True))
        spent, step, tokens = state["spent"], state["step"], state["tokens"]
        log.line(f"target resumed step={step} time={spent:.0f}")
    facts = torch.from_numpy(fact_weights(tokenizer, config.facts)).to(device)
    names = {name: torch.from_numpy(ids).to(device) for name, ids in name_tokens(tokenizer).items()}
    begin, saved = time.time() - spent, time.time()
    history: list[dict[str, float]] = []
    stream = batches(tokenizer, config.batch, [seed, 13, group.rank, step], config.easy_steps)
    model.train()
    while (done := group.agree((time.time() - begin) / (60 * config.minutes))) < 1:
        data = to_device(next(stream), device)
        weights = facts if done < 0.97 else torch.ones_like(facts).where(facts == 1, 1.25)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss, shown = target_loss(model, heads, data, weights, names, config)
        loss.backward()
        optimizer.step(factor(done))
        history.append(shown)
        step, tokens = step + 1, tokens + data.ids.numel() * group.size
        if step % 20 == 0:
            log.row("target", step, time.time() - begin, tokens, mean_values(history))
            history.clear()
        if group.agree(time.time() - saved) > 60 * config.save_minutes:
            torch.save(optimizer.state_dict(), out / f"moments{group.rank}.pt")
            if group.first:
                _save_state(state_path, model, heads, time.time() - begin, step, tokens)
            saved = time.time()
    stream.close()  # type: ignore[attr-defined]
    if group.first:
        _save_state(state_path, model, heads, time.time() - begin, step, tokens)


def _save_state(
    path: Path,
    model: LlavaOnevisionForConditionalGeneration,
    heads: Heads,
    spent: float,
    step: int,
    tokens: int,
) -> None:
    """Write to another file, then rename it: a crash leaves the last state."""
    state = {
        "model": model.state_dict(),
        "heads": heads.state_dict(),
        "spent": spent,
        "step": step,
        "tokens": tokens,
    }
    scratch = path.with_suffix(".new")
    torch.save(state, scratch)
    scratch.rename(path)


def prepare(arguments: argparse.Namespace) -> None:
    """Stage 1, in one process: tokenizer and vision tower; each is skipped if it exists."""
    out: Path = arguments.out
    log = Log(out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes, minutes, seed = PairConfig(), arguments.minutes, arguments.seed
    tokenizer_path, vision_path = out / "tokenizer.json", out / "vision.pt"
    out.mkdir(parents=True, exist_ok=True)
    if arguments.start and not tokenizer_path.exists():
        shutil.copy(arguments.start / "target" / "tokenizer.json", tokenizer_path)
    if not tokenizer_path.exists():
        train_tokenizer(seed).save(str(tokenizer_path))
    if vision_path.exists():
        return
    size = Tokenizer.from_file(str(tokenizer_path)).get_vocab_size()
    target = build_target(sizes, size, seed)
    head = PatchHead(sizes.vision_hidden)
    for module in (target, head):
        torch.nn.Module.to(module, device)
    if arguments.start:
        _load_start(target, arguments.start / "target")
    else:
        config = VisionConfig(minutes=minutes * SHARES["vision"])
        train_vision(target, head, config, seed, device, log.text)
    state = {"tower": target.model.vision_tower.state_dict(), "head": head.state_dict()}
    torch.save(state, vision_path)


def _load_start(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> None:
    """Load the weights of a saved model."""
    saved = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(saved.state_dict())


def stages(rank: int, arguments: argparse.Namespace) -> None:
    """Stages 2 and 3 in one of the processes."""
    out: Path = arguments.out
    group = Group.join(rank, arguments.processes, out.resolve() / "meeting")
    log = Log(out, quiet=not group.first)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes, minutes, seed = PairConfig(), arguments.minutes, arguments.seed
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    wrapped, size = wrap_tokenizer(tokenizer, sizes), tokenizer.get_vocab_size()
    target = build_target(sizes, size, seed)
    draft = build_draft(sizes, size, seed)
    heads = Heads(sizes)
    for module in (target, draft, heads):
        torch.nn.Module.to(module, device)
    if device.type == "cpu":  # faster on a CPU, above all in the backward pass
        for model in (target, draft):
            model.set_attn_implementation("eager")
    state = torch.load(out / "vision.pt", map_location=device, weights_only=True)
    target.model.vision_tower.load_state_dict(state["tower"])
    heads.patches.load_state_dict(state["head"])
    if arguments.start:
        _load_start(target, arguments.start / "target")
        _load_start(draft, arguments.start / "draft")
    config = TargetConfig(minutes * SHARES["target"])
    train_target(target, heads, tokenizer, config, seed, device, out, log, group)
    if group.first:
        save_model(target, wrapped, out / "pair" / "target")
    drafting = DraftConfig(minutes * SHARES["draft"])
    train_draft(target, draft, tokenizer, drafting, seed, device, out, log, group)
    if group.first:
        save_model(draft, wrapped, out / "pair" / "draft")


def run(arguments: argparse.Namespace) -> None:
    """All stages; each is skipped or resumed if its result is in the folder."""
    prepare(arguments)
    (arguments.out.resolve() / "meeting").unlink(missing_ok=True)
    if arguments.processes == 1:
        stages(0, arguments)
        return
    torch.multiprocessing.spawn(stages, (arguments,), nprocs=arguments.processes, daemon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for states and the pair")
    parser.add_argument("--minutes", type=float, default=95.0, help="wall-clock time of all stages")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="2 on a CPU of two cores")
    parser.add_argument("--start", type=Path, help="continue from this pair instead of nothing")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
