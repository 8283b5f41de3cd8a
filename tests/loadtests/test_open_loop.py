"""The open-loop generator against a real server, and what it says of each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from warmswap_loadtests.contenders.probes import FAILURE_THRESHOLD, ReadinessProbe
from warmswap_loadtests.contenders.wire import FormWire, HttpSender, new_session
from warmswap_loadtests.open_loop import (
    Outcome,
    RequestFailedError,
    constant_rate,
    greatest_lag_s,
    run_closed_loop,
    run_open_loop,
)
from warmswap_loadtests.payloads import Payload

PAYLOAD = Payload(b"source", b"target")


class Server:
    """Answers after a while that grows, or not at all; counts how many requests it has at a time."""

    def __init__(self) -> None:
        self.ready = False
        self.refused_probes = 0
        self.at_once = self.most_at_once = 0
        self.release = asyncio.Event()

    async def swap(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.release.wait()
        self.at_once -= 1
        target = form["target"]
        assert isinstance(target, web.FileField)
        return web.Response(body=target.file.read())

    async def refuse(self, _: web.Request) -> web.Response:
        return web.Response(status=503, text="too busy")

    async def health(self, _: web.Request) -> web.Response:
        self.refused_probes += not self.ready
        return web.Response(status=200 if self.ready else 503)


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/swap", server.swap)
    app.router.add_post("/refuse", server.refuse)
    app.router.add_get("/ready", server.health)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_schedule_is_kept_while_the_server_is_slow() -> None:
    async def scenario() -> None:
        server = Server()
        async with serving(server) as url, new_session() as session:
            send = HttpSender(session, url, FormWire(), lambda _: PAYLOAD)
            due_s = constant_rate(50, 0.2)
            assert len(due_s) == 10
            running = asyncio.create_task(run_open_loop(due_s, send, timeout_s=30))
            await until(lambda: server.at_once == 10)  # a closed loop would wait for its first answer, for ever
            server.release.set()
            records = await running
        assert server.most_at_once == 10
        assert [record.outcome for record in records] == [Outcome.ANSWERED] * 10
        assert [record.answer for record in records] == [b"target"] * 10
        assert [record.due_s for record in records] == due_s
        for record in records:
            assert record.sent_s is not None
            assert record.done_s is not None
            assert record.due_s <= record.sent_s <= record.done_s
            assert record.latency_s == record.done_s - record.due_s  # not from when it left
        assert greatest_lag_s(records) >= 0

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_arrivals_before_ready_are_not_routed_and_late_ones_time_out() -> None:
    async def scenario() -> None:
        routed = iter([False, False, True, True])

        async def send(index: int) -> bytes:
            if index == 2:
                await asyncio.Event().wait()
            return b"answer"

        records = await run_open_loop([0, 0.01, 0.02, 0.03], send, timeout_s=0.1, is_routed=lambda: next(routed))
        assert [record.outcome for record in records] == [
            Outcome.NOT_ROUTED,
            Outcome.NOT_ROUTED,
            Outcome.TIMED_OUT,
            Outcome.ANSWERED,
        ]
        assert records[0].latency_s is None
        assert (records[2].latency_s or 0) >= 0.1
        assert "0.1 s" in records[2].detail

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_refused_and_unreachable_are_failures_that_say_why() -> None:
    async def scenario() -> None:
        async with serving(Server()) as url, new_session() as session:
            wire = FormWire()
            wire.path = "/refuse"
            (refused,) = await run_open_loop([0], HttpSender(session, url, wire, lambda _: PAYLOAD), timeout_s=30)
        async with new_session() as session:
            (gone,) = await run_open_loop([0], HttpSender(session, url, wire, lambda _: PAYLOAD), timeout_s=30)
        assert refused.outcome is gone.outcome is Outcome.FAILED
        assert refused.detail == "HTTP 503: too busy"
        assert "Connect" in gone.detail

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_bug_in_the_sender_is_no_failure_of_the_server() -> None:
    async def send(_: int) -> bytes:
        raise KeyError("bug")

    with pytest.raises(ExceptionGroup):
        asyncio.run(run_open_loop([0], send, timeout_s=1))


def test_closed_loop_waits_and_stops_at_a_time_out() -> None:
    async def scenario() -> None:
        sent: list[int] = []

        async def send(index: int) -> bytes:
            sent.append(index)
            if index == 3:
                await asyncio.Event().wait()
            if index == 1:
                raise RequestFailedError("no")
            return b""

        records = await run_closed_loop(send, timeout_s=0.05, requests=10, seconds=0)
        assert sent == [0, 1, 2, 3]
        assert [record.outcome for record in records] == ["answered", "failed", "answered", "timed_out"]

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_probe_routes_after_one_success_and_stops_after_three_failures() -> None:
    async def scenario() -> None:
        server = Server()
        async with serving(server) as url:
            start_s = asyncio.get_running_loop().time()
            probe = ReadinessProbe(f"{url}/ready", f"{url}/ready", start_s, period_s=0.01)
            probing = asyncio.create_task(probe.run())
            await asyncio.sleep(0.05)
            assert probe.changes == []
            server.ready = True
            await until(lambda: probe.is_ready)
            server.ready, server.refused_probes = False, 0
            await until(lambda: not probe.is_ready)
            probing.cancel()
        assert server.refused_probes == FAILURE_THRESHOLD
        (ready_s, first), (_, second) = probe.changes
        assert (first, second) == (True, False)
        assert probe.ready_s == ready_s
        assert probe.live_s is not None

    asyncio.run(asyncio.wait_for(scenario(), 60))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_rate_must_be_above_zero(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        constant_rate(rate, 1)
