"""Who drafts a text and who shapes its trees: what a decoder's options and a prompt come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sage_core.drafts.drafter import Drafter, NoDrafter, TreeDrafter
from sage_core.drafts.head.drafter import HeadDrafter
from sage_core.drafts.head.module import Head
from sage_core.drafts.model_drafter import ModelDrafter
from sage_core.drafts.ngram import BREAK, NgramDrafter
from sage_core.drafts.ngram_hybrid import OwnPart, Payoff, WithLookup
from sage_core.drafts.pruning.draft_prompt import Sight, visual_mask
from sage_core.drafts.pruning.options import Pruning
from sage_core.engine.prefix_reuse import Reading
from sage_core.generation.json_schema import ForcedDrafter, JsonGrammar
from sage_core.generation.prepare import Prepared
from sage_core.models.shared_vision import SharedVision
from sage_core.runtime.runner import Runner
from sage_core.trees.policies import Shaper
from sage_core.trees.policies.autoregressive import Autoregressive

if TYPE_CHECKING:
    from sage_core.engine.decoder import SpeculativeDecoder


def seen_by_draft(decoder: SpeculativeDecoder, prepared: Prepared) -> Sight:
    """What the draft will see of the prompt's pictures."""
    pruning, draft = decoder.pruning, decoder.draft
    # A head compresses pictures by itself, if at all, unless it is told more.
    if draft is None or (isinstance(draft, Head) and pruning.ratio is None):
        pruning = Pruning(method="none")
    return Sight(pruning, decoder.target.config, prepared)


def drafting_model(
    decoder: SpeculativeDecoder,
    target: Runner,
    inputs: dict[str, Any],
    prepared: Prepared,
    room: int,
    vision: SharedVision,
    sight: Sight,
) -> TreeDrafter | None:
    """The drafter that runs the decoder's draft; None if it has none.

    ``inputs`` is the prompt as the processor returned it, ``room`` the cache slots to reserve
    behind it.
    """
    draft = decoder.draft
    if draft is None:
        return None
    if isinstance(draft, Head):
        return HeadDrafter(draft, target, prepared, room, sight, decoder.reduced, decoder.runner)
    runner = decoder.runner(draft)
    return ModelDrafter(runner, inputs, target.vocab_size, room, vision, sight, decoder.reduced)


def drafting(
    decoder: SpeculativeDecoder,
    reading: Reading,
    target: Runner,
    prepared: Prepared,
    model: TreeDrafter | None,
) -> tuple[Drafter, Shaper]:
    """The drafter, with lookups and grammars around the ``model``, and the shaper of its trees."""
    policy, lookup = decoder.policy, decoder.lookup
    if lookup is None:
        drafter: Drafter = model or NoDrafter()
        for grammar in [p for p in prepared.processors if isinstance(p, JsonGrammar)]:
            drafter = ForcedDrafter(drafter, grammar)
        return drafter, policy.shaper()
    limit = policy.max_nodes if model is None else lookup.nodes
    words = NgramDrafter(lookup, _words(decoder, target, prepared), limit)
    if model is None:  # nothing is grown: all that the policy says is its node limit
        return words, Autoregressive().shaper()
    payoff = reading.payoff = reading.payoff or Payoff(lookup.price)
    both = WithLookup(model, words, payoff)
    return both, OwnPart(policy.shaper(), both)


def _words(decoder: SpeculativeDecoder, target: Runner, prepared: Prepared) -> list[int]:
    """The prompt's ids, with breaks for pictures and for ids that the target cannot embed."""
    ids = prepared.input_ids[0]
    no_words = visual_mask(decoder.target.config, ids) | (ids >= target.vocab_size)
    words: list[int] = ids.masked_fill(no_words, BREAK).tolist()
    return words
