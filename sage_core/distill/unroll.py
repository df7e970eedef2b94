"""Several draft steps of a head in training, with the features and the mask that drafting has.

The L tokens of an answer are numbered from 0; position j predicts the feature at token j. Step 1
reads the target's features everywhere. Step k reads, at position j, the feature that step k - 1
predicted for the token before. It attends to what a branch of k - 1 drafted tokens attends to: the
text up to the branch's root, as step 1 read it, and one position of each later step (HASS, arXiv
2408.15766; EAGLE-3, arXiv 2503.01840).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sage_core.distill.teacher import Example
from sage_core.drafts.head.module import Head


def step_mask(step: int, before: int, answer: int) -> Tensor:
    """bool (answer - step + 1, keys): which keys the queries of a step attend to.

    Keys are those of step 1, ``before`` + ``answer``, then those of each later step m in turn,
    ``answer - m + 1``. Query q of step k is position q + k - 1 of a branch rooted at position q.
    """
    queries = answer - step + 1
    keys = torch.arange(before + answer)
    text = keys[None] <= before + torch.arange(queries)[:, None]
    own = [torch.eye(queries, answer - m + 1, dtype=torch.bool) for m in range(2, step + 1)]
    return torch.cat([text, *own], dim=1)


def unroll(head: Head, example: Example, depths: int, *, training: bool = True) -> list[Tensor]:
    """Predicted features by step: (L - k + 1, size) for k = 1..min(depths, L).

    Row q of step k is the feature at the answer's token q + k - 1.
    """
    from transformers import DynamicCache

    p, total = example.prompt_tokens, example.tokens
    answer = total - p
    question = torch.arange(1, total, device=example.visual.device) < p
    dtype = head.fuse.weight.dtype  # the target may be in another than what is trained
    features, embeds = example.features.to(dtype), example.embeds.to(dtype)
    prompt = head.build_prompt(
        features[:, :-1],
        embeds[:, 1:],
        example.visual[1:],
        example.positions[..., 1:],
        training=training,
        question=question,
    )
    before = prompt.inputs.shape[1] - answer
    # Step 1 of every position at once: the causal mask.
    inputs, positions = prompt.inputs, prompt.positions
    seen = torch.ones(inputs.shape[1], inputs.shape[1], dtype=torch.bool).tril()
    cache = DynamicCache()
    steps: list[Tensor] = []
    for step in range(1, min(depths, answer) + 1):
        if step > 1:
            own = slice(p + step - 1, total)
            inputs = head.inputs(steps[-1][None, :-1], embeds[:, own], prompt.global_feature)
            positions = example.positions[..., own]
            seen = step_mask(step, before, answer)
        predicted = head.decoder(
            inputs_embeds=inputs,
            position_ids=positions,
            attention_mask=_additive(seen, inputs),
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[0]
        steps.append(predicted[before:] if step == 1 else predicted)
    return steps


def _additive(seen: Tensor, like: Tensor) -> Tensor:
    """(1, 1, queries, keys): 0 where attended, else the lowest value, in the dtype of ``like``."""
    mask = torch.zeros(seen.shape, dtype=like.dtype)
    # bfloat16's lowest value is finite in every dtype that autocast may turn the mask into.
    mask.masked_fill_(~seen, max(torch.finfo(torch.bfloat16).min, torch.finfo(like.dtype).min))
    return mask[None, None].to(like.device)
