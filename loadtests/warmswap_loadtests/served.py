"""The server under a fixed number of clients."""

from __future__ import annotations

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
    left = total

    def client() -> None:
        nonlocal left
        try:
            with FaceSwapClient(url) as swapper:
                while True:
                    with lock:
                        if left == 0:
                            return
                        left -= 1
                        request = next(requests)
                    start = time.perf_counter()
                    result = swapper.swap(request.source, request.target)
                    elapsed_ms = (time.perf_counter() - start) * 1e3
                    with lock:
                        values.append(elapsed_ms)
                        for step, ms in result.timings_ms.items():
                            steps.setdefault(step, []).append(ms)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - begin
    if errors:
        raise errors[0]
    return Latencies(values, elapsed_s), {step: float(np.mean(ms)) for step, ms in steps.items()}
