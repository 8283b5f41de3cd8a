"""``warmswap probe`` against the real server."""

from __future__ import annotations

import json
import socket

import pytest

from tests.e2e.serve import warmswap
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_face_is_really_swapped(server: LocalTriton, protocol: str) -> None:
    url = f"grpc://{server.grpc_url}" if protocol == "grpc" else f"http://{server.http_url}"
    done = warmswap("probe", "--url", url, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["swapped"] == 1
    assert report["similarity_after"] > report["similarity_before"]
    assert report["models"]["face_swap"] == "1"
    assert "1 face swapped in" in warmswap("probe", "--url", url).stdout


def test_too_slow_is_said_so(server: LocalTriton) -> None:
    done = warmswap("probe", "--url", f"grpc://{server.grpc_url}", "--max-latency", "0.000001", "--json")
    assert done.returncode == 4
    assert json.loads(done.stderr)["error"]["type"] == "ProbeTooSlowError"
    assert done.stdout == ""


def test_nobody_there_is_exit_code_3() -> None:
    with socket.socket() as taken:  # bound, but not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        done = warmswap("probe", "--url", f"grpc://127.0.0.1:{taken.getsockname()[1]}", "--timeout", "3")
    assert done.returncode == 3
    assert "cannot reach" in done.stderr


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf"])
def test_a_latency_that_is_none_is_wrong_usage(value: str) -> None:
    assert warmswap("probe", f"--max-latency={value}").returncode == 2
