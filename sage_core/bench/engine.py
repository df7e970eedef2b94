"""The loaded pair as a measurement uses it: inputs, methods, and explanations of differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from sage_core.bench import calibration
from sage_core.bench.calibration import FixedTree
from sage_core.bench.decoders import ByEngine, ByTransformers, MethodCosts
from sage_core.bench.items import Request
from sage_core.bench.measure import Input, Method, Stopwatch
from sage_core.bench.methods import (
    AssistedBest,
    BestStaticTree,
    Generate,
    MethodSpec,
    NgramDrafts,
    parse,
    spec,
)
from sage_core.bench.modifiers import ModifiedPolicy
from sage_core.bench.oracle import mismatch
from sage_core.bench.records import Mismatch
from sage_core.drafts.head.module import Head
from sage_core.drafts.pruning.options import Pruning
from sage_core.drafts.vocab.token_list import FILE_NAME
from sage_core.engine import extensions
from sage_core.engine.decoder import SpeculativeDecoder
from sage_core.errors import OptionError, SageError
from sage_core.media import Clip, Opener, open_media
from sage_core.models.checkpoint import load_model
from sage_core.models.detokenize import Detokenizer
from sage_core.models.families.base import Turn
from sage_core.models.inputs import IMAGE_PROMPT, VIDEO_PROMPT, cast, on_device
from sage_core.options import Options
from sage_core.pair_loading import LoadedPair
from sage_core.stream import Decoders
from sage_core.trees.policies import Policy, optimal_static
from sage_core.trees.policies.eagle2 import Eagle2
from sage_core.trees.policies.static import Static

__all__ = ["PairEngine"]


class PairEngine:
    """A loaded pair with the options of a run.

    Args:
        pair: the loaded models.
        options: how inputs are made and texts are decoded; ``policy`` is not used.
        opener: opens the files.
    """

    def __init__(self, pair: LoadedPair, options: Options, opener: Opener = open_media) -> None:
        self._pair = pair
        self._opener = opener
        self._options = options
        self._decoders = Decoders(pair)
        self._extensions = options.extensions
        self._extensions["draft_vocab"] = self._decoders.reduced(options.draft_vocab)
        if pair.lookup is not None:
            self._extensions["lookup"] = pair.lookup
        self.target_id = pair.target_id
        self.draft_id = pair.draft_id
        self.device = pair.device
        self.dtype = pair.dtype
        self._ends = _end_tokens(pair.target)

    def prepare(self, request: Request) -> Input:
        """Open the media, apply the chat template, and move the tensors to the target's device."""
        started = perf_counter()
        family, target = self._pair.family, self._pair.target
        media = request.source.open(self._options.sampling(family.sampling), self._opener)
        prompt = request.prompt
        if prompt is None:
            video = any(isinstance(one, Clip) for one in media)
            prompt = VIDEO_PROMPT if video else IMAGE_PROMPT
        said = [*request.history, (prompt, None)]
        for text, _ in said:
            family.check_text(text)
        for _, answer in request.history:
            family.check_text(answer, "an earlier answer")
        turns = [
            Turn(media if index == 0 else (), text, answer)
            for index, (text, answer) in enumerate(said)
        ]
        rendered = family.render(turns)
        with family.input_errors(media):
            inputs = family.build_inputs(rendered, media, family.process_media(media))
        inputs = on_device({k: cast(v, target) for k, v in inputs.items()}, target.device)
        limit = self._options.max_new_tokens
        sampling = self._options.sampling_params().generation_fields()
        return Input(
            request.id,
            request.category,
            inputs,
            {**self._options.generation, **sampling, "max_new_tokens": limit},
            limit,
            self._ends,
            int(inputs["input_ids"].shape[1]),
            perf_counter() - started,
            self._options.seed if sampling.get("do_sample") else None,
        )

    @cached_property
    def _assistant(self) -> Any:
        """The assistant model of `generate`: the draft, or the small model if that is a head."""
        draft, small = self._pair.draft, self._pair.small
        if not isinstance(draft, Head) or small is None:
            return draft
        return load_model(small, self.device, self.dtype)

    def check(self, name: str) -> None:
        """Refuse a method that this pair cannot run.

        Raises:
            OptionError: an unknown method, or one that needs a draft, or another kind of draft.
        """
        method, draft = parse(name), self._pair.draft
        looks_up = isinstance(method, Policy) and bool(self._extensions["lookup"])
        if isinstance(method, ModifiedPolicy):
            looks_up = "lookup" in method.options and not _needs_model(method.options)
        if method.drafts and draft is None and not looks_up:
            raise OptionError(f"{name} needs a draft model: give --draft, or leave it out")
        head_only = isinstance(draft, Head) and self._pair.small is None
        if isinstance(method, Generate) and method.drafts and head_only:
            raise OptionError(
                f"{name} needs a draft model, and the draft is a head: leave it out of --compare"
            )

    def method(self, name: str, setting: Mapping[str, Any] | None = None) -> Method:
        """The method of a spec; ``setting`` is what `calibrate` chose for it.

        Raises:
            OptionError: see `check` and `SpeculativeDecoder`.
        """
        self.check(name)
        method = parse(name)
        if isinstance(method, Policy):
            return self.by_engine(name, method, **self._run_options(method))
        if isinstance(method, ModifiedPolicy):
            return self._modified(name, method)
        if isinstance(method, NgramDrafts):
            limit = Eagle2(nodes=method.nodes)  # only its node limit is used
            options = {**self._run_options(limit, model=False), "lookup": method}
            return self.by_engine(name, limit, model=False, **options)
        if isinstance(method, BestStaticTree):
            tree = FixedTree(tuple(tuple(path) for path in (setting or {})["tree"]))
            return self.by_engine(name, tree, **{**self._run_options(tree), "lookup": None})
        if isinstance(method, AssistedBest):
            method = parse((setting or {})["setting"])
        assert isinstance(method, Generate)
        return self._by_generate(name, method)

    def _by_generate(self, name: str, method: Generate) -> ByTransformers:
        draft = self._assistant if method.drafts else None
        return ByTransformers(name, self._pair, method, draft)

    def by_engine(
        self,
        name: str,
        policy: Policy,
        pruning: Pruning | None = None,
        *,
        model: bool = True,
        candidates: str = "topk",
        **options: Any,
    ) -> ByEngine:
        """A method of `SpeculativeDecoder` with a cost store of its own.

        Args:
            name: of the method.
            policy: the tree policy.
            pruning: what the draft reads of the visual tokens; None: as the run's options say.
            model: whether the pair's draft is used.
            candidates: how candidates of sampled text are chosen.
            options: options that change drafting or acceptance.
        """
        decoder = SpeculativeDecoder(
            self._pair.target,
            self._pair.draft if model else None,
            policy,
            pruning or self._options.pruning(),
            MethodCosts(),
            candidates,
            self._decoders.backend,
            checks=self._decoders.checks,
            phase_times=True,
            **options,
        )
        return ByEngine(name, decoder)

    def _run_options(self, policy: Policy, *, model: bool = True) -> dict[str, Any]:
        """The run's options that change drafting or acceptance, as far as they concern a policy.

        ``model``: whether a draft model or head drafts.
        """
        if not policy.drafts:
            return {}
        model = model and self._pair.draft is not None
        values = self._extensions.items()
        return {name: v for name, v in values if model or not _needs_model({name: v})}

    def _modified(self, name: str, method: ModifiedPolicy) -> ByEngine:
        """A policy with modifiers, which have precedence over the run's options."""
        options = {**self._run_options(method.policy), **method.options}
        if (vocab := method.get("draft_vocab")) is not None:
            options["draft_vocab"] = self._decoders.reduced(vocab.list or self._own_list(name))
        return self.by_engine(name, method.policy, candidates=method.candidates, **options)

    def _own_list(self, name: str) -> Path:
        """The draft vocabulary beside the target."""
        folder = self._pair.folder
        if folder is None or not (folder / FILE_NAME).is_file():
            raise OptionError(
                f"{name}: there is no {FILE_NAME} beside {self.target_id}: name a file, as in "
                "sage+vocab:list=FILE, made with sage draft-vocab"
            )
        return folder / FILE_NAME

    def calibrate(self, method: MethodSpec, items: Sequence[Input]) -> dict[str, Any]:
        """The setting that is chosen for a method on ``items``, as plain data.

        Raises:
            SageError: nothing can be chosen, for instance because the texts are too short.
        """
        if isinstance(method, AssistedBest):
            return self._best_assisted(items)
        if isinstance(method, BestStaticTree):
            return self._best_static(method.nodes, items)
        raise ValueError(f"{spec(method)} has no setting to choose")

    def _best_assisted(self, items: Sequence[Input]) -> dict[str, Any]:
        methods = [self._by_generate(spec(setting), setting) for setting in calibration.GRID]
        best, rates = calibration.fastest(methods, items, self.stopwatch)
        return {"setting": best.name, "tokens_per_second": rates}

    def _best_static(self, nodes: int, items: Sequence[Input]) -> dict[str, Any]:
        probe = self.by_engine("probe", FixedTree(optimal_static.PROBE))
        steps = [step for item in items for step in probe.decode(item, self.stopwatch()).steps]
        accepted = optimal_static.acceptance_rates(steps)
        if not accepted:
            raise SageError("the calibration items' texts are too short to measure acceptance")
        trees = {
            f"depth {depth}": optimal_static.best_tree(accepted, nodes, depth)
            for depth in calibration.DEPTHS
        }
        # Each tree once, and only with all its nodes: two depth limits may give the same tree.
        different = {paths: name for name, paths in reversed(trees.items()) if len(paths) == nodes}
        methods = [self.by_engine(name, FixedTree(paths)) for paths, name in different.items()]
        best, rates = calibration.fastest(methods, items, self.stopwatch)
        return {
            "tree": [list(path) for path in trees[best.name]],
            "depth": max(len(path) for path in trees[best.name]),
            "tokens_per_second": rates,
            "acceptance": optimal_static.rates_to_json(accepted),
        }

    def explain(self, item: Input, expected: Sequence[int], got: Sequence[int]) -> Mismatch:
        """The first difference of two texts, with its margin in the target's scores."""
        return mismatch(self._pair.target, item.inputs, expected, got, item.seed, item.options)

    def text(self, tokens: Sequence[int]) -> str:
        """Token ids as text, without special tokens."""
        detokenizer = Detokenizer(self._pair.family.tokenizer)
        detokenizer.push(tuple(tokens))
        detokenizer.finish()
        return detokenizer.text

    def words(self) -> Callable[[int], str]:
        """Converts one token to text, for drawing trees."""
        return Detokenizer(self._pair.family.tokenizer).token_text

    def stopwatch(self) -> Stopwatch:
        """Start timing one decoding; on CUDA each reading synchronizes the device."""
        return Stopwatch(wait=self._wait)

    def _wait(self) -> None:
        if self._pair.target.device.type == "cuda":
            torch.cuda.synchronize(self._pair.target.device)


def _needs_model(options: Mapping[str, Any]) -> bool:
    """Whether one of the options goes with a draft model or head, but not without one."""

    def refused(extension: extensions.DecodingExtension, draft: bool) -> bool:
        try:
            extension.check(Static(), "topk", draft=draft)
        except OptionError:
            return True
        return False

    found = extensions.parse(options)
    return any(refused(one, draft=False) and not refused(one, draft=True) for one in found)


def _end_tokens(target: Any) -> frozenset[int]:
    ends = target.generation_config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)
