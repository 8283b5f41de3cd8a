"""The avalanche with real processes behind the real Envoy: toys for the whole of a run, warmswap for what it loses."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.repositories import REPOSITORY
from tests.loadtests.toy_replica import Toy
from tests.ops.serve_process import processes_with
from warmswap_loadtests.answers import AnswerCheck
from warmswap_loadtests.avalanche.figures import summarise
from warmswap_loadtests.avalanche.fleet import SERVICE, Fleet, Sample
from warmswap_loadtests.avalanche.run import RunningSetUp
from warmswap_loadtests.avalanche.scenario import SCALE_OUT, Scenario
from warmswap_loadtests.avalanche.sending import NO_ANSWER, WRONG, Answer, BalancedSender
from warmswap_loadtests.contenders.contender import Contender
from warmswap_loadtests.contenders.registry import make_contenders
from warmswap_loadtests.contenders.wire import new_session
from warmswap_loadtests.envoy import Envoy
from warmswap_loadtests.envoy_config import Service
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.in_process import InProcessLoop, Tuning
from warmswap_loadtests.open_loop import Outcome, Record, run_open_loop
from warmswap_loadtests.payloads import golden_payload

PAYLOAD = golden_payload(REPOSITORY)
STEP_TIMEOUT_S = 60.0
SHORT = Scenario(
    seconds=8.0,
    base_rate=10.0,
    spike_rate=25.0,
    timeout_s=0.5,
    target_in_flight=0.01,  # whatever is in work makes it add replicas
    scale_up_period_s=0.3,
    pod_start_s=0.1,
    drain_s=0.4,
    endpoint_lag_s=0.2,
)


@pytest.fixture(scope="module")
def right() -> bytes:
    return InProcessLoop(REPOSITORY, Tuning(2, False, 1)).swap(PAYLOAD).image


def test_a_run_finds_what_cold_replicas_lose(right: bytes, tmp_path: Path) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(right)
    with RunningSetUp(Toy(1.5, picture), SHORT, PAYLOAD, tmp_path / "run") as running:
        seen = running.measure_load(AnswerCheck(PAYLOAD.target, right))
    figures = summarise(seen["requests"], seen["events"], SHORT.phase_starts())

    assert figures["requests"] == len(SHORT.due_s())
    started = figures["replicas"]
    assert [replica["name"] for replica in started[:2]] == ["r1", "r2"]
    assert all(replica["requests"] > 0 and replica["cold"] > 0 for replica in started[:2])  # 1.5 s: three time-outs
    assert figures["phases"][SCALE_OUT]["kinds"][NO_ANSWER] > 0
    lost = [request for request in seen["requests"] if request["failure"] == NO_ANSWER]
    assert {request["replica"] for request in lost} <= {replica["name"] for replica in started}
    kinds = {(event["kind"], event["replica"]) for event in seen["events"]}
    assert {("endpoint removed", "r2"), ("SIGTERM", "r2"), ("gone", "r2"), ("SIGKILL", "r0"), ("exec", "r3")} <= kinds
    assert max(sample["routed"] for sample in seen["samples"]) == 3
    assert seen["envoy_retries"] >= 0
    assert [
        process for process in psutil.process_iter(["cmdline"]) if str(picture) in (process.info["cmdline"] or [])
    ] == []


def test_a_wrong_picture_is_a_failure(right: bytes, tmp_path: Path) -> None:
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(PAYLOAD.target)  # nobody was swapped
    brief = Scenario(seconds=0.5, base_rate=10.0, spike_rate=10.0, target_in_flight=100.0)
    with RunningSetUp(Toy(0.0, picture), brief, PAYLOAD, tmp_path / "run") as running:
        seen = running.measure_load(AnswerCheck(PAYLOAD.target, right))
    assert {request["failure"] for request in seen["requests"]} == {WRONG}


def test_a_replica_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(BenchError, match=r"naive ended with code 1: .*No such file"),
        RunningSetUp(Toy(0.0, tmp_path / "missing.jpg"), SHORT, PAYLOAD, tmp_path / "run"),
    ):
        pass


@pytest.mark.triton
def test_replicas_of_warmswap_come_go_and_die_under_load_and_no_swap_is_lost(right: bytes, tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    repository.symlink_to(REPOSITORY)
    [contender] = make_contenders(["warmswap"], lambda _: None)
    contender.prepare(repository, tmp_path)
    service = Service(SERVICE, contender.ready_path)
    with Envoy([service], tmp_path) as envoy, Fleet(contender, envoy, SHORT, tmp_path, wanted=1) as fleet:
        fleet.start_first(STEP_TIMEOUT_S)
        with endless_load(envoy, contender) as finish:
            fleet.wanted = 2
            tick_until(fleet, lambda sample: sample.routed == 2)
            tick_until(fleet, lambda _: fleet.kill_oldest(busy_only=True))
            tick_until(
                fleet, lambda _: {event.replica for event in fleet.events if event.kind == "in rotation"} >= {"r2"}
            )
            assert fleet.drain_newest()
            tick_until(fleet, lambda sample: sample.running == 1)
            records = finish()
    check = AnswerCheck(PAYLOAD.target, right)
    faults = [record.detail or check.fault(record.answer.picture) for record in records if record.answer is not None]
    assert faults == [""] * len(faults)
    lost = [record for record in records if record.outcome is not Outcome.ANSWERED]
    # Envoy cannot send a request again whose answer was already on its way when the replica died.
    assert len(lost) <= 1, [record.detail for record in lost]
    assert all("payload" in record.detail.lower() for record in lost)
    assert any(record.answer is not None and record.answer.attempts > 1 for record in records) or lost
    assert len({record.answer.upstream for record in records if record.answer is not None}) >= 2
    assert processes_with(str(tmp_path)) == []


class endless_load:  # noqa: N801 (used as a function)
    """Sends 4 swaps a second until what it yields is called, which returns the records."""

    def __init__(self, envoy: Envoy, contender: Contender) -> None:
        self._url, self._wire = f"http://{envoy.address(SERVICE)}", contender.wire
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Callable[[], list[Record[Answer]]]:
        self._done = self._pool.submit(asyncio.run, self._run())
        return self._finish

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True)

    def _finish(self) -> list[Record[Answer]]:
        self._stop.set()
        return self._done.result(STEP_TIMEOUT_S)

    async def _run(self) -> list[Record[Answer]]:
        async with new_session() as session:
            send = BalancedSender(session, self._url, self._wire, PAYLOAD)
            return await run_open_loop(self._due_s(), send, timeout_s=STEP_TIMEOUT_S)

    def _due_s(self) -> Iterator[float]:
        due_s = 0.0
        while not self._stop.is_set():
            yield due_s
            due_s += 0.25


def tick_until(fleet: Fleet, condition: Callable[[Sample], bool]) -> None:
    deadline_s = time.monotonic() + STEP_TIMEOUT_S
    while not condition(fleet.tick()):
        assert time.monotonic() < deadline_s, fleet.events
        time.sleep(0.05)
