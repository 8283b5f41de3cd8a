"""Clients that lose patience: the server goes on, and nothing is left of them."""

from __future__ import annotations

import os
import queue
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc

from tests.e2e.pictures import COLLINS, contact_sheet
from tests.e2e.wire import WAIT_S, Service, build_inputs, http_body, open_service, swap_inputs
from tests.ops.metrics import scrape, value
from tests.ops.serve_process import eventually, shared_memory
from warmswap_client import RequestTimeoutError
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton

TIMES = 20
STEP_S = 0.01
SLOW = swap_inputs(COLLINS, contact_sheet(4, 4))


def traces(server: LocalTriton) -> dict[str, Any]:
    """What a request that was not cleaned up would leave behind."""
    return {
        "processes": sorted(server.processes),
        "shared memory": shared_memory(os.getpid()),
        "ready": server.wait(0) is None,
    }


def open_files(server: LocalTriton) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


@pytest.fixture
def calm_server(server: LocalTriton) -> LocalTriton:
    """The session's server, which has seen slow requests before."""
    with open_service(server, "grpc") as service:
        for _ in range(2):
            service.send("face_swap", SLOW)
    return server


def waiting(server: LocalTriton) -> float:
    """Return how many requests wait, those of clients that are gone among them."""
    samples = scrape(server.metrics_url)
    return value(samples, "nv_inference_pending_request_count", model="face_swap", version="1") or 0.0


def check_recovered(server: LocalTriton, before: dict[str, Any], files: int) -> None:
    # Over HTTP nobody tells Triton that a client is gone: a slow machine has a long queue then.
    assert eventually(lambda: waiting(server) == 0, 4 * WAIT_S)
    for protocol in ("grpc", "http"):
        with open_service(server, protocol) as service:
            service.check_good_swap()
            assert service.client.is_ready()
    assert traces(server) == before
    assert eventually(lambda: open_files(server) <= files + 4, WAIT_S), (open_files(server), files)


def test_cancelled_grpc_calls_leave_nothing(calm_server: LocalTriton) -> None:
    before, files = traces(calm_server), open_files(calm_server)
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client = tritonclient.grpc.InferenceServerClient(calm_server.grpc_url)
    try:
        for number in range(TIMES):
            call = client.async_infer(
                "face_swap", build_inputs(tritonclient.grpc, SLOW), lambda result, error: answers.put(error)
            )
            time.sleep(number * STEP_S)  # each is caught in another step
            call.cancel()
        errors = [answers.get(timeout=WAIT_S) for _ in range(TIMES)]
    finally:
        client.close()
    statuses = [error.status() for error in errors if error is not None]
    assert statuses.count("StatusCode.CANCELLED") > TIMES // 2
    assert set(statuses) == {"StatusCode.CANCELLED"}
    check_recovered(calm_server, before, files)


def raw_request(server: LocalTriton) -> bytes:
    body, headers = http_body(SLOW)
    lines = ["POST /v2/models/face_swap/infer HTTP/1.1", f"Host: {server.http_url}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["within the body", "waiting for the answer"])
def test_closed_http_connections_leave_nothing(calm_server: LocalTriton, share: float) -> None:
    before, files = traces(calm_server), open_files(calm_server)
    request = raw_request(calm_server)
    for number in range(TIMES):
        address = (calm_server.options.host, calm_server.ports.http)
        with socket.create_connection(address, timeout=WAIT_S) as connection:
            if number % 2:  # close with a reset instead of a farewell
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(request[: int(len(request) * share)])
            time.sleep(number * STEP_S)
    check_recovered(calm_server, before, files)


def test_closed_grpc_channel_leaves_nothing(calm_server: LocalTriton) -> None:
    before, files = traces(calm_server), open_files(calm_server)
    for number in range(TIMES):
        client = tritonclient.grpc.InferenceServerClient(calm_server.grpc_url)
        client.async_infer("face_swap", build_inputs(tritonclient.grpc, SLOW), lambda result, error: None)
        time.sleep(number * STEP_S)
        client.close()
    check_recovered(calm_server, before, files)


def test_deadline_of_the_client_is_a_time_out(service: Service) -> None:
    with pytest.raises(RequestTimeoutError):
        service.client.swap(COLLINS, contact_sheet(12, 10), timeout_s=0.05)
    service.check_good_swap()
