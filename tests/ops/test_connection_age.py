"""Connections that are closed after a while, under requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from tests.ops.toys import write_repository
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.ports import Ports
from warmswap_ops.triton_command import ServerOptions, server_command

ESTABLISHED = "01"
WAIT_S = 30.0


@pytest.mark.parametrize(
    ("age_s", "expected"),
    [(0, []), (60, ["--grpc-max-connection-age=60000", "--grpc-max-connection-age-grace=25000"])],
    ids=["never", "a minute"],
)
def test_flags(age_s: int, expected: list[str]) -> None:
    here = Path("/")
    options = ServerOptions(here, here, here, "x", "127.0.0.1", 25, "1", None, 4, max_connection_age_s=age_s)
    command = server_command(options, Ports(1, 2, 3))
    assert [flag for flag in command if "connection-age" in flag] == expected


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    repository = write_repository(tmp_path_factory.mktemp("age") / "repository")
    with LocalTriton(repository, max_connection_age_s=1) as running:
        yield running


def client_ports(server_port: int) -> set[int]:
    """Return the ports from which clients are connected to a server; gRPC's IPv4 sockets count as IPv6."""
    tables = (Path("/proc/net") / name for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return {
        int(remote.rpartition(":")[2], 16)
        for _, local, remote, state, *_ in rows
        if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == server_port
    }


@pytest.mark.triton
def test_connections_are_renewed_and_no_request_is_lost(server: LocalTriton) -> None:
    seen: set[int] = set()
    answers: list[list[float]] = []
    failures: list[Exception] = []
    stop = threading.Event()

    def send() -> None:
        tensor = InferInput("x", [2], "FP32")
        tensor.set_data_from_numpy(np.array([3, 4], np.float32))
        with InferenceServerClient(server.grpc_url) as client:  # it tries nothing again
            while not stop.is_set():
                try:
                    answers.append(client.infer("face_swap", [tensor], client_timeout=WAIT_S).as_numpy("y").tolist())
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + WAIT_S
    while len(seen) < 6 and not failures and time.monotonic() < deadline_s:
        seen |= client_ports(server.ports.grpc)
        time.sleep(0.05)
    stop.set()
    for thread in threads:
        thread.join(WAIT_S)
    assert failures == []
    assert len(seen) >= 6, "connections were not renewed"
    assert answers
    assert all(answer == answers[0] for answer in answers)
