"""The server under a fixed number of clients."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import numpy as np

from warmswap_client import FaceSwapClient
from warmswap_loadtests.payloads import Payload
from warmswap_loadtests.stats import Latencies

Work = TypeVar("Work")
Call = Callable[[Work], Mapping[str, float]]
"""Does one piece of work, and returns what its steps took in milliseconds; empty where nobody knows."""


def run_clients(
    url: str, requests: Iterator[Payload], concurrency: int, total: int
) -> tuple[Latencies, dict[str, float]]:
    """Send ``total`` swaps from ``concurrency`` clients; see ``run_closed_loop``."""

    @contextlib.contextmanager
    def connect() -> Iterator[Call[Payload]]:
        with FaceSwapClient(url) as swapper:
            swapper.is_live()
            yield lambda request: swapper.swap(request.source, request.target).timings_ms

    return run_closed_loop(connect, requests, concurrency, total)


def run_closed_loop(
    connect: Callable[[], AbstractContextManager[Call[Work]]], work: Iterator[Work], concurrency: int, total: int
) -> tuple[Latencies, dict[str, float]]:
    """Send ``total`` requests from ``concurrency`` clients, each sending its next when the last is answered.

    Args:
        connect: Opens what one client sends with. Connecting is not part of the measurement, nor is closing.
        work: What the requests hold.
        concurrency: Number of clients, each a thread.
        total: Requests of all of them together.

    Returns:
        Latencies as the clients saw them, and the mean time per step in milliseconds as the server reports it.
    """
    values: list[float] = []
    steps: dict[str, list[float]] = {}
    errors: list[BaseException] = []
    lock = threading.Lock()
    connected = threading.Barrier(concurrency + 1)
    left, ended = total, 0.0

    def client() -> None:
        nonlocal left, ended
        try:
            with connect() as call:
                connected.wait()
                while True:
                    with lock:
                        if left == 0:
                            return
                        left -= 1
                        request = next(work)
                    start = time.perf_counter()
                    timings_ms = call(request)
                    now = time.perf_counter()
                    with lock:
                        ended = max(ended, now)
                        values.append((now - start) * 1e3)
                        for step, ms in timings_ms.items():
                            steps.setdefault(step, []).append(ms)
        except BaseException as error:
            errors.append(error)  # before the others are woken, whose errors only follow from this one
            connected.abort()

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):  # a client failed: its error is raised below
        connected.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return Latencies(values, ended - begin), {step: float(np.mean(ms)) for step, ms in steps.items()}
