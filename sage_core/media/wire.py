"""Messages between a process and its media worker: JSON with a length in front, over a socket.

Not pickle: the worker reads files from strangers, and unpickling what it sends could run anything.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sage_core.media.types import FrameRate, Sampling

_PREFIX = 4
"""Bytes of the length."""
_LONGEST = 2**22
"""Bytes of a message."""
_DESCRIPTORS = 2


def send(connection: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Send a message and copies of the file descriptors ``files``, at most two."""
    data = json.dumps(message).encode("ascii")
    prefix = len(data).to_bytes(_PREFIX, "big")
    if files:
        socket.send_fds(connection, [prefix], files)
    else:
        connection.sendall(prefix)
    connection.sendall(data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and the descriptors sent with it; None once the other end is closed.

    Raises:
        OSError: the connection is broken, or its timeout is over (`TimeoutError`).
        ValueError: not a message.
    """
    prefix, files, _, _ = socket.recv_fds(connection, _PREFIX, _DESCRIPTORS)
    if not prefix:
        return None
    prefix += _exactly(connection, _PREFIX - len(prefix))
    length = int.from_bytes(prefix, "big")
    if length > _LONGEST:
        raise ValueError(f"a message of {length} bytes")
    message = json.loads(_exactly(connection, length))
    if not isinstance(message, dict):
        raise ValueError(f"not a message: {type(message).__name__}")
    return message, files


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError("the connection was closed within a message")
        data += part
    return bytes(data)


@dataclass(frozen=True)
class Task:
    """What is asked of a file: its pixels, whether it can be opened, or where to split it."""

    kind: Literal["open", "check", "length", "cuts"]
    sampling: Sampling | None = None
    """Of ``open``."""
    part: tuple[float, float] | None = None
    """Of ``cuts``: start and end in seconds."""

    @classmethod
    def of(cls, values: dict[str, Any]) -> Task:
        """The task whose `asdict` was sent."""
        sampling, part = values["sampling"], values["part"]
        if sampling is not None:
            rate = sampling["rate"]
            sampling = Sampling(**{**sampling, "rate": None if rate is None else FrameRate(**rate)})
        return cls(values["kind"], sampling, None if part is None else (part[0], part[1]))
