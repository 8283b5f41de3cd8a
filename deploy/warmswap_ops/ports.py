"""Ports of the server: given ones that must be free, or any free ones."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, fields

from warmswap_ops.errors import MachineError, PortInUseError


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports; 0 = any free one."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @property
    def any_chosen(self) -> bool:
        """Whether one of them is for us to choose."""
        return 0 in (self.http, self.grpc, self.metrics)


def choose_ports(host: str, wanted: Ports) -> Ports:
    """Return ports that are free now; those that are not 0 are returned as they are.

    Raises:
        PortInUseError: a given port is taken, or given twice.
        MachineError: the host is not an address of this machine, or the port needs privileges.
    """
    chosen: dict[str, int] = {}
    probes: list[socket.socket] = []
    try:
        for field in fields(wanted):
            probe = listen(field.name, host, getattr(wanted, field.name))
            probes.append(probe)
            chosen[field.name] = probe.getsockname()[1]
    finally:
        for probe in probes:
            probe.close()
    return Ports(**chosen)


def connect_host(host: str) -> str:
    """Return where to reach a server that listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1"}.get(host, host)


def is_open(host: str, port: int, timeout_s: float = 0.5) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        with socket.create_connection((connect_host(host), port), timeout=timeout_s):
            return True
    except OSError:
        return False


def address(host: str, port: int) -> str:
    """Return ``host:port``, with brackets where IPv6 needs them."""
    host = connect_host(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(role: str, host: str, port: int) -> socket.socket:
    """Return a listening socket; ``role`` is for the message.

    Raises:
        PortInUseError: the port is taken.
        MachineError: the host is not an address of this machine, or the port needs privileges.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection's TIME_WAIT is no obstacle
        probe.bind((host, port))
        probe.listen()  # two that only bind may share a port
    except OSError as error:
        probe.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(role, host, port) from None
        raise MachineError(f"cannot listen on {host}:{port} ({role}): {error.strerror or error}") from None
    return probe
