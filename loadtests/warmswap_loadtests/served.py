"""The server under a fixed number of clients."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import numpy as np

from warmswap_client import FaceSwapClient
from warmswap_loadtests.payloads import Payload
from warmswap_loadtests.stats import Latencies


def run_clients(
    url: str, requests: Iterator[Payload], concurrency: int, total: int
) -> tuple[Latencies, dict[str, float]]:
    """Send ``total`` requests from ``concurrency`` clients, each sending its next when the last is answered.

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
            with FaceSwapClient(url) as swapper:
                swapper.is_live()  # connecting is not part of the measurement, nor is closing
                connected.wait()
                while True:
                    with lock:
                        if left == 0:
                            return
                        left -= 1
                        request = next(requests)
                    start = time.perf_counter()
                    result = swapper.swap(request.source, request.target)
                    now = time.perf_counter()
                    with lock:
                        ended = max(ended, now)
                        values.append((now - start) * 1e3)
                        for step, ms in result.timings_ms.items():
                            steps.setdefault(step, []).append(ms)
        except BaseException as error:
            connected.abort()
            errors.append(error)

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
