"""A look at the TCP port, before a protocol is spoken.

A gRPC channel that finds the port closed waits before it looks again, so it would see a starting server about a second
late. A plain connection has no such memory.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from warmswap_client.endpoint import Endpoint
from warmswap_client.errors import ServerUnreachableError


def knock(endpoint: Endpoint, timeout_s: float) -> None:
    """Open and close a connection.

    Raises:
        ServerUnreachableError: refused, not resolved, or no answer within ``timeout_s``.
    """
    try:
        socket.create_connection((endpoint.host, endpoint.port), timeout=timeout_s).close()
    except OSError as error:
        raise _unreachable(endpoint, error) from error


async def knock_async(endpoint: Endpoint, timeout_s: float) -> None:
    """Open and close a connection; see ``knock``."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
        writer.close()
        await writer.wait_closed()
    except OSError as error:  # TimeoutError is one
        raise _unreachable(endpoint, error) from error


def describe(error: Exception) -> str:
    """Say what went wrong with a connection in the system's words; asyncio puts the address there instead."""
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number in errno.errorcode:
        return os.strerror(number)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _unreachable(endpoint: Endpoint, error: OSError) -> ServerUnreachableError:
    timed_out = isinstance(error, TimeoutError) and error.errno is None
    reason = "no TCP connection in time" if timed_out else describe(error)
    return ServerUnreachableError(reason, url=endpoint.url)
