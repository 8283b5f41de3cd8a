"""Requests at a constant rate, over gRPC and HTTP by turns, while something is done to the server; and its readiness.

Open loop: a request leaves when it is due, in a thread of its own, and nothing is tried again, so what is lost shows.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from warmswap_client import NO_RETRIES, FaceSwapClient, WarmswapError

TIMEOUT_S: Final = 30.0
THREADS: Final = 24
READINESS_INTERVAL_S: Final = 0.05
PROBED: Final = ("/v2/health/ready", "/v2/health/live", "/v2/models/face_swap/ready", "/v2/models/face_analysis/ready")

Pair = tuple[bytes, bytes]
"""Source and target, encoded."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request.

    Attributes:
        due_s: When it was due, in seconds since 1970.
        ms: From then to its answer.
        protocol: ``grpc`` or ``http``.
        models: Versions that answered; empty where none did.
        error: What the client was told instead.
        key: Its rollout key.
    """

    due_s: float
    ms: float
    protocol: str
    models: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    key: str = ""


@dataclass(slots=True)
class Traffic:
    """Sends until the ``with`` block ends.

    Attributes:
        grpc_urls: Of all replicas, by turns.
        http_urls: The same; empty = gRPC only.
        pairs: Pictures, by turns.
        per_s: Rate.
        key_of: Returns the rollout key of a request by its number; empty = none.
        sent: What was sent so far.
        flaps: Moments at which a probe was not answered with 200, and what it got.
    """

    grpc_urls: Sequence[str]
    http_urls: Sequence[str]
    pairs: Sequence[Pair]
    per_s: float
    key_of: Callable[[int], str] = lambda number: ""
    watch_readiness: bool = True
    sent: list[Sent] = field(default_factory=list)
    flaps: list[tuple[float, str]] = field(default_factory=list)
    probes: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Begin."""
        urls = [url for pair in zip(self.grpc_urls, self.http_urls or self.grpc_urls, strict=True) for url in pair]
        clients = [FaceSwapClient(url, timeout_s=TIMEOUT_S, retry=NO_RETRIES) for url in urls]
        self._threads = [threading.Thread(target=self._send, args=(clients,), name="traffic")]
        if self.watch_readiness:
            self._threads += [threading.Thread(target=self._probe, args=(url,), name="probe") for url in self.http_urls]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last answers."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self) -> list[Sent]:
        """Requests without an answer."""
        return [sent for sent in list(self.sent) if sent.error]

    def between(self, since_s: float, until_s: float) -> list[Sent]:
        """Return what was due in a stretch of time."""
        return [sent for sent in list(self.sent) if since_s <= sent.due_s < until_s]

    def _send(self, clients: Sequence[FaceSwapClient]) -> None:
        started_s = time.time()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="request") as pool:
            number = 0
            while not self._ended.wait(max(0.0, started_s + number / self.per_s - time.time())):
                pool.submit(self._one, clients[number % len(clients)], number, started_s + number / self.per_s)
                number += 1
        for client in clients:
            client.close()

    def _one(self, client: FaceSwapClient, number: int, due_s: float) -> None:
        source, target = self.pairs[number // 2 % len(self.pairs)]
        key, models, error = self.key_of(number), {}, ""
        try:
            models = dict(client.swap(source, target, rollout_key=key or None).models)
        except WarmswapError as problem:
            error = f"{type(problem).__name__}: {problem}"
        protocol = "grpc" if number % 2 == 0 else "http"
        self.sent.append(Sent(due_s, (time.time() - due_s) * 1e3, protocol, models, error, key))

    def _probe(self, url: str) -> None:
        while not self._ended.wait(READINESS_INTERVAL_S):
            for path in PROBED:
                self.probes += 1
                try:
                    with urllib.request.urlopen(f"{url}{path}", timeout=10) as answer:
                        status = str(answer.status)
                except urllib.error.HTTPError as error:
                    status = str(error.code)
                except OSError as error:
                    status = str(error)
                if status != "200":
                    self.flaps.append((time.time(), f"{path}: {status}"))


def percentile_ms(sent: Sequence[Sent], q: float) -> float:
    """Return a percentile of the latencies of what was answered; NaN of nothing."""
    times = sorted(request.ms for request in sent if not request.error)
    return times[min(len(times) - 1, int(q * len(times)))] if times else float("nan")
