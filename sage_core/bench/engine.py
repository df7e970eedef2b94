"""The loaded pair as a measurement uses it: inputs, methods, explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from sage_core.bench import calibration
from sage_core.bench.calibration import FixedTree
from sage_core.bench.decoders import ByEngine, ByTransformers
from sage_core.bench.items import Request
from sage_core.bench.measure import Input, Method, Stopwatch
from sage_core.bench.methods import (
    Assisted,
    AssistedBest,
    BestStaticTree,
    Lookup,
    Ngrams,
    Spec,
    parse,
    spec,
)
from sage_core.bench.modifiers import Extended, ViSkip, Vocab
from sage_core.bench.oracle import first_mismatch
from sage_core.drafts.head.module import Head
from sage_core.drafts.ngram import Ngram
from sage_core.drafts.vocab.token_list import FILE_NAME
from sage_core.errors import OptionError, SageError
from sage_core.media import Clip
from sage_core.models.checkpoint import load_model
from sage_core.models.detokenize import Detokenizer
from sage_core.models.families.base import Turn
from sage_core.models.inputs import IMAGE_PROMPT, VIDEO_PROMPT, cast
from sage_core.options import Options
from sage_core.pair_loading import LoadedPair
from sage_core.stream import Decoders
from sage_core.trees.policies import Policy, optimal_static
from sage_core.trees.policies.eagle2 import Eagle2

__all__ = ["PairEngine"]


class PairEngine:
    """A loaded pair, and how texts are to be decoded.

    ``options`` are those of the pipeline; their policy is not looked at.
    """

    def __init__(self, pair: LoadedPair, options: Options) -> None:
        self._pair = pair
        self._decoders = Decoders(pair)
        self._vocab = self._decoders.reduced(options.draft_vocab)
        self._options = options
        self._lookup = pair.lookup or (Ngram() if options.draft_lookup else None)
        self.target_id = pair.target_id
        self.draft_id = pair.draft_id
        self.device = pair.device
        self.dtype = pair.dtype
        self._ends = _end_tokens(pair.target)

    def prepare(self, request: Request) -> Input:
        """Open the media, render the conversation, and put the tensors where they are needed."""
        started = perf_counter()
        family = self._pair.family
        media = request.source.open(self._options.sampling(family.sampling))
        prompt = request.prompt
        if prompt is None:
            clip = any(isinstance(one, Clip) for one in media)
            prompt = VIDEO_PROMPT if clip else IMAGE_PROMPT
        said = [*request.history, (prompt, None)]
        for text, _ in said:
            family.refuse_placeholders(text)
        turns = [
            Turn(media if index == 0 else (), text, answer)
            for index, (text, answer) in enumerate(said)
        ]
        inputs = family.build_inputs(family.render(turns), media, family.process_media(media))
        target = self._pair.target
        inputs = {
            name: cast(value, target).to(target.device)
            if isinstance(value, torch.Tensor)
            else value
            for name, value in inputs.items()
        }
        limit = self._options.max_new_tokens
        sampling_params = self._options.sampling_params().generation_fields()
        settings = {**self._options.generation, **sampling_params, "max_new_tokens": limit}
        return Input(
            request.id,
            request.category,
            inputs,
            settings,
            limit,
            self._ends,
            int(inputs["input_ids"].shape[1]),
            perf_counter() - started,
            self._options.seed if sampling_params.get("do_sample") else None,
        )

    @cached_property
    def _assistant(self) -> Any:
        """The model that assists `generate`: the draft or, where that is a head, the small one."""
        draft, small = self._pair.draft, self._pair.small
        if not isinstance(draft, Head) or small is None:
            return draft
        return load_model(small, self.device, self.dtype)

    def check(self, name: str) -> None:
        """Refuse a method that this pair cannot run.

        Raises:
            OptionError: unknown, or it needs a draft, or one of another kind.
        """
        wanted, draft = parse(name), self._pair.draft
        looks = self._lookup is not None and isinstance(wanted, Policy)
        if isinstance(wanted, Extended):
            looks = not _needs_model(wanted)
        if wanted.drafts and draft is None and not looks:
            raise OptionError(f"{name} needs a draft model: give --draft, or leave it out")
        alone = isinstance(draft, Head) and self._pair.small is None
        if isinstance(wanted, Assisted | AssistedBest) and alone:
            raise OptionError(
                f"{name} needs a draft that is a model, and a head is none: leave it out of "
                "--compare"
            )

    def method(self, name: str, setting: Mapping[str, Any] | None = None) -> Method:
        """The method of a spec; ``setting`` is what `calibrate` chose for it.

        Raises:
            OptionError: see `check`, and what the engine refuses.
        """
        self.check(name)
        wanted = parse(name)
        pair = self._pair
        common = (pair, self._decoders.backend)
        pruning = self._options.pruning()
        also: dict[str, Any] = {
            "viskip": self._options.viskip,
            "lossy": self._options.lossy,
            "vocab": self._vocab,
        }
        if isinstance(wanted, Policy):
            return ByEngine(name, *common, wanted, pruning, self._lookup, **also)
        if isinstance(wanted, Extended):
            return self._extended(name, wanted)
        if isinstance(wanted, Ngrams):
            options = wanted.options()
            limit = Eagle2(nodes=options.nodes)  # of a policy only the node limit counts here
            return ByEngine(name, *common, limit, pruning, options, alone=True, **also)
        if isinstance(wanted, BestStaticTree):
            paths = tuple(tuple(path) for path in (setting or {})["tree"])
            return ByEngine(name, *common, FixedTree(paths), pruning, **also)
        if isinstance(wanted, AssistedBest):
            wanted = parse((setting or {})["setting"])
        if isinstance(wanted, Assisted):
            return ByTransformers(name, pair, draft=self._assistant, settings=wanted.settings())
        if isinstance(wanted, Lookup):
            arguments = {
                "prompt_lookup_num_tokens": wanted.tokens,
                "max_matching_ngram_size": wanted.ngram,
            }
            return ByTransformers(name, pair, arguments)
        return ByTransformers(name, pair)

    def _extended(self, name: str, wanted: Extended) -> Method:
        """A policy with what its row adds, in the place of what the flags say of it."""
        options, reduced = self._options, self._vocab
        vocab, viskip = wanted.get(Vocab), wanted.get(ViSkip)
        if vocab is not None:
            reduced = self._decoders.reduced(vocab.list or self._own_list(name))
        return ByEngine(
            name,
            self._pair,
            self._decoders.backend,
            wanted.policy,
            options.pruning(),
            wanted.get(Ngram) or self._lookup,
            viskip=options.viskip if viskip is None else viskip.share,
            lossy=wanted.lossy or options.lossy,
            candidates=wanted.candidates,
            vocab=reduced,
        )

    def _own_list(self, name: str) -> Path:
        """The target's own draft vocabulary."""
        folder = self._pair.folder
        if folder is None or not (folder / FILE_NAME).is_file():
            raise OptionError(
                f"{name}: there is no {FILE_NAME} beside {self.target_id}: name a file, as in "
                "sage+vocab:list=FILE, made with sage draft-vocab"
            )
        return folder / FILE_NAME

    def calibrate(self, method: Spec, items: Sequence[Input]) -> dict[str, Any]:
        """What a method that calibrates chooses on ``items``, as plain data.

        Raises:
            SageError: the items say nothing, for instance because their texts are too short.
        """
        if isinstance(method, AssistedBest):
            return self._best_assisted(items)
        if isinstance(method, BestStaticTree):
            return self._best_static(method.nodes, items)
        raise ValueError(f"{spec(method)} chooses nothing")

    def _best_assisted(self, items: Sequence[Input]) -> dict[str, Any]:
        methods = [
            ByTransformers(name, self._pair, draft=self._assistant, settings=setting.settings())
            for name, setting in calibration.grid()
        ]
        best, rates = calibration.fastest(methods, items, self.stopwatch)
        return {"setting": best.name, "tokens_per_second": rates}

    def _best_static(self, nodes: int, items: Sequence[Input]) -> dict[str, Any]:
        probe = self._tree("probe", optimal_static.PROBE)
        steps = [step for item in items for step in probe.decode(item, self.stopwatch()).steps]
        accepted = optimal_static.acceptance_rates(steps)
        if not accepted:
            raise SageError("the calibration items' texts are too short to say what is accepted")
        trees = {
            f"depth {depth}": optimal_static.best_tree(accepted, nodes, depth)
            for depth in calibration.DEPTHS
        }
        # Each with all its nodes. Where no deeper level is worth one, two limits give one tree.
        different = {paths: name for name, paths in reversed(trees.items()) if len(paths) == nodes}
        methods = [self._tree(name, paths) for paths, name in different.items()]
        best, rates = calibration.fastest(methods, items, self.stopwatch)
        return {
            "tree": [list(path) for path in trees[best.name]],
            "depth": max(len(path) for path in trees[best.name]),
            "tokens_per_second": rates,
            "acceptance": optimal_static.rates_to_json(accepted),
        }

    def _tree(self, name: str, paths: tuple[tuple[int, ...], ...]) -> ByEngine:
        return ByEngine(
            name, self._pair, self._decoders.backend, FixedTree(paths), self._options.pruning()
        )

    def explain(self, item: Input, expected: Sequence[int], got: Sequence[int]) -> tuple[Any, ...]:
        """(position, expected id, other id, margin, near tie) of the first difference."""
        prompt = item.inputs["input_ids"]

        def whole(tokens: Sequence[int]) -> torch.Tensor:
            new = torch.tensor([list(tokens)], dtype=prompt.dtype, device=prompt.device)
            return torch.cat([prompt, new], dim=1)

        inputs, options = dict(item.inputs), dict(item.options)
        found = first_mismatch(
            self._pair.target, inputs, whole(expected), whole(got), item.seed, **options
        )
        if found is None:
            raise ValueError("the texts are equal")
        return found.position, found.expected, found.got, found.margin, found.near_tie

    def text(self, tokens: Sequence[int]) -> str:
        """Ids as text, without special tokens."""
        detokenizer = Detokenizer(self._pair.family.tokenizer)
        detokenizer.push(tuple(tokens))
        detokenizer.finish()
        return detokenizer.text

    def words(self) -> Callable[[int], str]:
        """One token as text, for drawing trees."""
        return Detokenizer(self._pair.family.tokenizer).token_text

    def stopwatch(self) -> Stopwatch:
        """Start the clock of one decoding; it waits for the device."""
        return Stopwatch(wait=self._wait)

    def _wait(self) -> None:
        if self._pair.target.device.type == "cuda":
            torch.cuda.synchronize(self._pair.target.device)


def _needs_model(method: Extended) -> bool:
    """Whether a draft that is no model, a lookup, cannot do what the row adds."""
    return method.get(Ngram) is None or any(method.get(kind) for kind in (ViSkip, Vocab))


def _end_tokens(target: Any) -> frozenset[int]:
    ends = target.generation_config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)
