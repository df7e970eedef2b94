"""Captioning with Ray Data: an actor per GPU, on one machine or a cluster. Needs the extra ``ray``.

For example, with a column ``path`` or ``bytes``::

    import ray
    from sage_core.captioning.ray_captioner import RayCaptioner
    from sage_core.captioning.settings import CaptionSettings

    settings = CaptionSettings({"target": "Qwen/Qwen3-VL-4B-Instruct"})
    rows = ray.data.read_parquet("s3://bucket/photos").map_batches(
        RayCaptioner, fn_constructor_args=(settings,), batch_size=16, num_gpus=1, concurrency=8
    )
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sage_core.captioning.items import Item
from sage_core.captioning.keys import FileState, key_of
from sage_core.captioning.records import error_of, failure_record
from sage_core.captioning.settings import CaptionSettings
from sage_core.errors import InputError, MemoryExhaustedError, OptionError, SageError

__all__ = ["RayCaptioner", "ray_records"]

_ROWS = 8
"""Rows that an actor gets at once, if no batch size is given. All are repeated if it ends."""
_CORES_EACH = 4
_PATIENCE = 5.0
"""Seconds in which a cluster must accept a connection."""
_NUMBER, _WHOLE_RUN = "number", -1


class RayCaptioner:
    """A class for `ray.data.Dataset.map_batches`: loads the models once per actor.

    Rows have a column ``path``, or ``bytes`` with the content of a file, and may have ``prompt``,
    ``key``, and ``options`` (a JSON object of `sage_core.Options`). They get the columns ``key``,
    ``text``, ``finish_reason``, ``error`` (a message) and ``record`` (JSON, see docs/output.md);
    of ``text`` and ``error`` one is empty.

    Raises:
        SageError: as `sage_core.load`.
    """

    def __init__(self, settings: CaptionSettings | None = None) -> None:
        from sage_core.captioning.captioner import Captioner

        self._settings = settings or CaptionSettings()
        self._captioner = Captioner(self._settings)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch, by column, with the columns that are added."""
        items = [self._item(row) for row in _rows(batch)]
        records: list[dict[str, Any]] = [{}] * len(items)
        for place, record in self._captioner.records(items):
            records[place] = record
        return {**batch, **_columns(items, records)}

    def _item(self, row: Mapping[str, Any]) -> Item:
        path, content = row.get("path"), row.get("bytes")
        if path is None and content is None:
            raise OptionError("rows need a column 'path', or 'bytes' with a file's content")
        name = "row" if path is None else os.fsdecode(path)
        prompt, options = row.get("prompt") or None, json.loads(row.get("options") or "{}")
        key = row.get("key") or self._key(name, content, prompt, options)
        return Item(name, prompt, options, key, content=content)

    def _key(
        self, name: str, content: bytes | None, prompt: str | None, options: Mapping[str, Any]
    ) -> str | None:
        chosen = {**self._settings.loading, **self._settings.options, **options}
        if content is not None:
            import hashlib

            return key_of(hashlib.sha256(content).hexdigest(), prompt, chosen)
        try:
            return key_of(FileState.of(name), prompt, chosen)
        except InputError:  # reported when it is opened
            return None


def _rows(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    length = len(next(iter(batch.values()), ()))
    known = {name: batch[name] for name in _INPUTS if name in batch}
    return [{name: values[i] for name, values in known.items()} for i in range(length)]


_INPUTS = ("path", "bytes", "prompt", "key", "options")


def _columns(items: Sequence[Item], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "key": [item.key or "" for item in items],
        "text": [record.get("text", "") for record in records],
        "finish_reason": [record.get("finish_reason", "") for record in records],
        "error": [record.get("error", {}).get("message", "") for record in records],
        "record": [json.dumps(record) for record in records],
    }


class _Remote:
    """The actor of `ray_records`. What concerns all rows is returned, not raised: Ray would try
    again, and drop the rows.
    """

    def __init__(self, settings: CaptionSettings) -> None:
        self._error: SageError | None = None
        try:
            self._captioner = RayCaptioner(settings)
        except SageError as error:
            self._error = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._error is not None:
                raise self._error
            done = self._captioner(batch)
        except SageError as error:
            record = json.dumps(failure_record(error, files=[]))
            return {_NUMBER: [_WHOLE_RUN], "record": [record]}
        return {_NUMBER: list(batch[_NUMBER]), "record": done["record"]}


def ray_records(
    items: Sequence[Item],
    settings: CaptionSettings,
    *,
    actors: int | None = None,
    address: str | None = None,
) -> Generator[tuple[int, dict[str, Any] | SageError]]:
    """The record of each item as it is done, with the item's place from 0, in any order.

    An actor that ends is replaced, and its rows are done again. Those of a batch at which three
    actors ended are tried once more one by one, and then get an error in place of a record.

    Args:
        actors: their number; None: one per GPU of the cluster, or one for four of its CPUs.
        address: of the cluster; None: a new one on this machine, which ends with this. A cluster
            that this process is connected to already is used, and left.

    Raises:
        OptionError: the package ray is missing, the cluster cannot be reached, or an option that no
            item can be decoded with.
        SageError: as `sage_core.load`.
    """
    done: set[int] = set()
    with _connected(address):
        for rows, tries in ((_rows_at_once(settings), 3), (1, 3)):
            left = [number for number in range(len(items)) if number not in done]
            if not left:
                return
            for number, record in _pass(items, left, settings, actors, rows, tries):
                if number not in done:
                    done.add(number)
                    yield number, record
    for number in range(len(items)):
        if number not in done:
            yield (
                number,
                MemoryExhaustedError(
                    "the actors that described it ended, probably for lack of memory: shrink "
                    "it, or use fewer actors"
                ),
            )


def _rows_at_once(settings: CaptionSettings) -> int:
    return _ROWS if settings.batch == "auto" else int(settings.batch)


def _pass(
    items: Sequence[Item],
    numbers: Sequence[int],
    settings: CaptionSettings,
    actors: int | None,
    rows: int,
    tries: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of the items with these numbers, but for those at which actors ended."""
    import ray

    gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
    on_gpu = gpus > 0 and str(settings.loading.get("device", "auto")) in ("auto", "cuda")
    count = actors or (gpus if on_gpu else max(1, cpus // _CORES_EACH))
    count = min(count, len(numbers))
    rows = min(rows, -(-len(numbers) // count))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.max_errored_blocks = -1
    share = {"num_gpus": min(1, gpus / count)} if on_gpu else {"num_cpus": max(1, cpus // count)}
    data: ray.data.Dataset = ray.data.from_items(
        [_row(number, items[number]) for number in numbers],
        override_num_blocks=-(-len(numbers) // rows),
    )
    with warnings.catch_warnings(action="ignore"):  # there is no other way to limit the retries yet
        data = data.map_batches(
            _Remote,
            fn_constructor_args=(settings,),
            batch_size=rows,
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
            ray_remote_args_fn=lambda: {"max_task_retries": tries - 1},
            **share,
        )
    for row in data.iter_rows():
        record = json.loads(row["record"])
        if row[_NUMBER] == _WHOLE_RUN:
            raise error_of(record)
        yield int(row[_NUMBER]), _checked(items[row[_NUMBER]], record)


def _row(number: int, item: Item) -> dict[str, Any]:
    return {
        _NUMBER: number,
        "path": os.fsencode(item.name),
        "prompt": item.prompt or "",
        "key": item.key or "",
        "options": json.dumps(dict(item.options)),
        **({} if item.content is None else {"bytes": item.content}),
    }


def _checked(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    """The record, or a failure's if the file has changed; its key is the item's, or none."""
    plain = {name: value for name, value in record.items() if name != "key"}
    known = {} if item.key is None else {"key": item.key}
    try:
        item.check()
    except InputError as error:
        return failure_record(error, files=[item.name], key=item.key)
    return {**plain, **known}


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connected to a cluster: without usage reports, a dashboard, or output on standard output."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its warning's own advice
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise OptionError("Ray needs the package ray: pip install 'sage-vlm[ray]'") from error
    if ray.is_initialized():
        yield
        return
    if address is not None:
        _check_reachable(address)
    local: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    with _own_signals():
        try:
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
        except (ConnectionError, ImportError, ValueError, RuntimeError) as error:
            where = "a cluster on this machine" if address is None else address
            raise OptionError(f"Ray cannot use {where}: {' '.join(str(error).split())}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Refuse an address at which nothing listens: Ray would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():  # "auto"
        return
    try:
        socket.create_connection((host, int(port)), _PATIENCE).close()
    except OSError as error:
        raise OptionError(f"Ray cannot use {address}: {error.strerror or error}") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Afterwards signals are handled as before, not as Ray does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    handlers = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
