"""Which texts a run makes: keys, what is done already, parts, copies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sage_cli.jobs.inputs import STDIN, Source
from sage_cli.jobs.request import Request
from sage_cli.options.caption import CaptionOptions
from sage_core.captioning.keys import FileState, digest, key_of, shard_of
from sage_core.captioning.prompts import PromptTemplate
from sage_core.errors import InputError

__all__ = ["Plan"]


class Plan:
    """The requests of a run over ``sources``, without those that are done.

    Args:
        sources: the files, in order.
        template: of their prompts; None: the default one.
        options: of the command.
        sidecars: paths of the files' sidecars, by name; empty without ``--sidecar``.
        done: keys of results that an earlier run has written.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        template: PromptTemplate | None,
        options: CaptionOptions,
        sidecars: Mapping[str, Path],
        done: set[str],
    ) -> None:
        self._options = options
        self._template = template
        self._sidecars = sidecars
        self._done = done
        self._asked = _asked(options)
        self.skipped: Counter[str] = Counter()
        """Numbers of files that are left out, by reason."""
        self.without_sidecar: set[str] = set()
        """Keys of results whose sidecars were not written before the earlier run ended."""
        found = [request for pair in enumerate(sources, 1) for request in self._of(*pair)]
        if (
            options.limit is not None
            and (rest := len(found) - options.limit * options.captions) > 0
        ):
            found = found[:-rest]
            self.skipped["beyond --limit"] += rest // options.captions
        self.requests = self._without_copies(found) if options.bulk else found

    def _of(self, number: int, source: Source) -> Sequence[Request]:
        """The requests of one file."""
        options = self._options
        if options.shard is not None:
            part, parts = map(int, options.shard.split("/"))
            if shard_of(source.relative, parts) != part - 1:
                self.skipped["in other shards"] += 1
                return ()
        if self._has_sidecar(source):
            self.skipped["with a sidecar"] += 1
            return ()
        prompt, template = None, self._template
        try:
            if template is not None:
                prompt = template.fill(source.name, number)
        except InputError as error:  # of its sidecar: the others have their own
            source = replace(source, refusal=source.refusal or str(error))
        filled = template is not None and template.per_file
        plain = Request((source,), prompt, filled=filled)
        several = options.captions > 1
        seeds: list[Mapping[str, Any]] = [{}]
        if several:
            seeds = [{"seed": options.seed + i} for i in range(options.captions)]
            if options.sample is None:
                seeds = [{**seed, "sample": True} for seed in seeds]
        requests = [
            replace(plain, options=seed, caption=number if several else None)
            for number, seed in enumerate(seeds)
        ]
        if not options.bulk and not options.export:
            return requests
        return self._not_done(source, requests)

    def _has_sidecar(self, source: Source) -> bool:
        """Whether a file is skipped. With ``--resume`` its key says whether it is done."""
        options = self._options
        skips = options.existing == "skip" and not options.resume
        return skips and source.name in self._sidecars and self._sidecars[source.name].exists()

    def _not_done(self, source: Source, requests: Sequence[Request]) -> Sequence[Request]:
        state: FileState | None = None
        identity: FileState | str | None = None
        with suppress(InputError):  # reported when it is opened
            if source.table is not None:
                table = FileState.of(source.table.path)
                identity = replace(table, path=f"{table.path}#{source.row}")
            elif source.name != STDIN:
                state = FileState.of(source.name)
                identity = digest(source.name) if self._options.content_keys else state
        keyed = []
        for request in requests:
            key = key_of(
                identity or source.name, request.prompt, {**self._asked, **request.options}
            )
            keyed.append(replace(request, key=key, state=state))
        left = [request for request in keyed if request.key not in self._done]
        path = self._sidecars.get(source.name)
        if len(left) < len(keyed):
            if not left:
                self.skipped["finished by an earlier run"] += 1
            if path is not None and (left or not path.exists()):
                self.without_sidecar |= {str(request.key) for request in keyed} & self._done
        self._done.update(str(request.key) for request in left if self._options.resume)
        return left

    def _without_copies(self, requests: Sequence[Request]) -> list[Request]:
        """The requests, those of files with the same content as ``copies`` of the first one."""
        sizes: dict[int, list[Request]] = defaultdict(list)
        for request in requests:
            if request.state is not None:
                sizes[request.state.size].append(request)
        copied: dict[int, list[Request]] = defaultdict(list)
        dropped: set[int] = set()
        for group in sizes.values():
            if len({request.names for request in group}) < 2:
                continue
            first: dict[Any, Request] = {}
            contents = {name: _content(name) for name in {one.names[0] for one in group}}
            for request in group:
                content = contents[request.names[0]]
                if content is None:
                    continue
                same = (content, request.prompt, tuple(request.options.items()))
                if first.setdefault(same, request) is not request:
                    copied[id(first[same])].append(request)
                    dropped.add(id(request))
        left = [request for request in requests if id(request) not in dropped]
        return [replace(one, copies=tuple(copied.get(id(one), ()))) for one in left]


def _asked(options: CaptionOptions) -> dict[str, Any]:
    """The options that keys depend on."""
    asked = {**options.loading(), **options.decoding()}
    if options.segment is not None:
        asked |= {"segment": options.segment, "summary": options.summary}
    return asked


def _content(name: str) -> str | None:
    try:
        return digest(name)
    except InputError:  # reported when it is opened
        return None
