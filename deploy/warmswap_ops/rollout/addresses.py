"""Which replicas a name stands for: a headless service resolves to the address of every ready pod."""

from __future__ import annotations

import socket
from typing import Final

from warmswap_ops.errors import ServerUnreachableError, UsageError

MAX_PORT: Final = 65535


def host_of(service: str) -> str:
    """Return the name in ``name:port``.

    Raises:
        UsageError: it is something else.
    """
    host, colon, port = service.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > MAX_PORT:
        raise UsageError(f"--service must be NAME:PORT, got {service!r}")
    return host


def addresses_of(service: str) -> list[str]:
    """Return ``address:port`` for every address of ``name:port``, of one family: a pod may have one of each.

    Raises:
        UsageError: it is no name and port.
        ServerUnreachableError: nothing is known under the name.
    """
    host, port = host_of(service), service.rpartition(":")[2]
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServerUnreachableError(f"--service {service}: {error}") from error
    family = found[0][0]
    hosts = sorted({str(place[0]) for kind, *_, place in found if kind == family})
    return [f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts]
