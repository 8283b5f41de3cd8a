"""The metrics port and its text; no server is started."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.ops.metrics import parse, value
from tests.ops.serve_process import eventually
from warmswap_ops.errors import (
    LoadTimeoutError,
    ModelLoadError,
    OpsError,
    PortInUseError,
    RepositoryError,
    ServerError,
)
from warmswap_ops.metrics_server import MAX_CONNECTIONS, MetricsServer
from warmswap_ops.metrics_text import Family, render
from warmswap_ops.ports import Ports, listen
from warmswap_ops.replica_metrics import metrics_text
from warmswap_ops.replica_state import LoadTimes, ReplicaState, reason_code, residency_families
from warmswap_ops.restart_limit import WINDOW_S, RestartLimit
from warmswap_ops.triton_log import TritonLog
from warmswap_ops.triton_server import TritonServer


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    with closing(MetricsServer(listen("metrics", "127.0.0.1", 0), lambda: "up 1\n")) as running:
        yield running


def get(port: int, method: str = "GET", path: str = "/metrics") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def test_text_is_what_prometheus_reads() -> None:
    family = Family("warmswap_odd", "gauge", "Odd labels")
    family.add(0.1 + 0.2, text='a "quoted" \\ back\nslash')
    family.add(1e9, text="large")
    samples = parse(render([family, Family("warmswap_none", "counter", "No series")]))
    assert samples == {
        ("warmswap_odd", frozenset({("text", 'a "quoted" \\ back\nslash')})): 0.3,
        ("warmswap_odd", frozenset({("text", "large")})): 1e9,
    }


def test_a_replica_that_has_not_begun_has_metrics() -> None:
    triton = TritonServer("127.0.0.1", Ports(0, 0, 0), 1.0, TritonLog())
    before_s = time.time()
    samples = parse(metrics_text(ReplicaState(), triton, "127.0.0.1", ["face_swap"], None))
    assert before_s - 1 <= samples.pop(("warmswap_clock_seconds", frozenset())) <= time.time() + 1  # it is rounded
    assert samples == {("warmswap_ready", frozenset()): 0, ("warmswap_triton_metrics_up", frozenset()): 0}


def test_state_becomes_metrics() -> None:
    state = ReplicaState()
    state.live(0.5)
    state.loaded({"face_swap": LoadTimes(1000.0, 400.0), "face_swapper": LoadTimes(50.0, None)})
    state.ready(1.5)
    state.restarted("face_embedder", "oom_killed")
    state.ready(99.0)
    samples = parse(render(state.families(ready=True)))
    assert value(samples, "warmswap_ready") == 1
    assert value(samples, "warmswap_time_to_live_seconds") == 0.5
    assert value(samples, "warmswap_time_to_ready_seconds") == 1.5
    load = "warmswap_model_load_seconds"
    assert value(samples, load, model="face_swap", phase="session") == 0.4
    assert value(samples, load, model="face_swap", phase="warmup") == 0.6
    assert value(samples, load, model="face_swapper", phase="total") == 0.05
    assert value(samples, load, model="face_swapper", phase="session") is None
    assert value(samples, "warmswap_stage_restarts_total", model="face_embedder", reason="oom_killed") == 1


def test_triton_saying_ready_is_not_enough() -> None:
    state = ReplicaState()
    state.ready(1.0)
    assert value(parse(render(state.families(ready=False))), "warmswap_ready") == 0
    state.not_ready("face_embedder", "process_died")
    samples = parse(render(state.families(ready=True)))
    assert value(samples, "warmswap_ready") == 0
    assert value(samples, "warmswap_not_ready_reason", model="face_embedder", reason="process_died") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelLoadError("face_swap", "version 1: self_test_failed: one face expected"), "self_test_failed"),
        (ModelLoadError("face_swap", "sample 'golden': stage_failed: face_swapper failed"), "stage_failed"),
        (ModelLoadError("face_swap", "there is no model.onnx"), "load_failed"),
        (LoadTimeoutError("face_swap", 3), "load_timeout"),
        (RepositoryError("no such folder"), "repository"),
        (ServerError("died"), "server_died"),
        (OpsError("else"), "error"),
    ],
)
def test_reasons_are_few_words(error: OpsError, code: str) -> None:
    assert reason_code(error) == code
    state = ReplicaState()
    state.failed(error)
    samples = parse(render(state.families(ready=False)))
    assert value(samples, "warmswap_not_ready_reason", model=getattr(error, "model", ""), reason=code) == 1


def test_models_on_demand_have_metrics() -> None:
    figures: dict[str, Any] = {
        "loads": 3,
        "load_ms": None,
        "failed_loads": 1,
        "waits": 2,
        "wait_ms_sum": 1500.0,
        "memory_mb": 12.5,
    }
    models = {
        "face_swapper_512": {
            **figures,
            "residency": "on_demand",
            "state": "absent",
            "loaded": False,
            "unloads": {"idle": 2},
        },
        "face_swap": {**figures, "residency": "resident", "state": "ready", "loaded": True, "unloads": {}},
    }

    class Policy:
        def snapshot(self) -> dict[str, Any]:
            return {"models": models}

    samples = parse(render(residency_families(Policy())))
    of_it = {"model": "face_swapper_512"}
    assert value(samples, "warmswap_on_demand_state", **of_it, state="absent") == 1
    assert value(samples, "warmswap_on_demand_loads_total", **of_it) == 3
    assert value(samples, "warmswap_on_demand_wait_seconds_total", **of_it) == 1.5
    assert value(samples, "warmswap_on_demand_failed_loads_total", **of_it) == 1
    assert value(samples, "warmswap_on_demand_unloads_total", **of_it, reason="idle") == 2
    assert value(samples, "warmswap_on_demand_load_seconds", **of_it) is None
    assert value(samples, "warmswap_model_memory_bytes", model="face_swap") == 12.5e6
    assert value(samples, "warmswap_model_memory_bytes", **of_it) is None, "it is not loaded"
    assert value(samples, "warmswap_on_demand_loads_total", model="face_swap") is None


def test_port_answers_and_refuses(server: MetricsServer) -> None:
    assert get(server.port) == (200, "up 1\n")
    assert get(server.port, path="/metrics?name=x") == (200, "up 1\n")
    assert get(server.port, path="/")[0] == 404
    assert get(server.port, method="POST")[0] == 501


def test_garbage_and_slow_scrapers_disturb_nobody(server: MetricsServer) -> None:
    with closing(socket.create_connection(("127.0.0.1", server.port))) as garbage:
        garbage.sendall(b"\x00\x01\x02\r\n\r\n")
        assert b"400" in garbage.recv(1000)
    with closing(socket.create_connection(("127.0.0.1", server.port))) as gone:
        gone.sendall(b"GET /metrics HT")
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS - 1)]
    assert get(server.port) == (200, "up 1\n")
    one_too_many = socket.create_connection(("127.0.0.1", server.port))
    for connection in (*slow, one_too_many):
        connection.close()
    assert eventually(lambda: get(server.port) == (200, "up 1\n"))


def test_more_connections_than_allowed_are_closed(server: MetricsServer) -> None:
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS)]
    assert eventually(lambda: sum(thread.name == "scrape" for thread in threading.enumerate()) == MAX_CONNECTIONS)
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as refused:
        assert refused.recv(1) == b""
    for connection in held:
        connection.close()


def test_closed_port_is_free_again_and_a_taken_one_is_named() -> None:
    server = MetricsServer(listen("metrics", "127.0.0.1", 0), str)
    with pytest.raises(PortInUseError, match="--metrics-port"):
        listen("metrics", "127.0.0.1", server.port)
    server.close()
    server.close()
    listen("metrics", "127.0.0.1", server.port).close()


def test_metrics_do_not_wait_for_a_triton_that_hangs() -> None:
    """A port that accepts and never answers stands for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        triton = TritonServer("127.0.0.1", Ports(silent.getsockname()[1], 0, 0), 1.0, TritonLog())
        triton.metrics_port = silent.getsockname()[1]
        state = ReplicaState()
        state.ready(1.0)
        samples = parse(metrics_text(state, triton, "127.0.0.1", ["face_swap"], None))
    assert value(samples, "warmswap_triton_metrics_up") == 0
    assert value(samples, "warmswap_ready") == 0


def test_restarts_are_limited_within_ten_minutes() -> None:
    now_s = [0.0]
    limit = RestartLimit(2, lambda: now_s[0])
    assert [limit.allow() for _ in range(4)] == [True, True, False, False]
    now_s[0] = WINDOW_S + 1
    assert [limit.allow() for _ in range(3)] == [True, True, False]
    assert not RestartLimit(0).allow()
