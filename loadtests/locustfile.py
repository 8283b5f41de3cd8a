"""Locust users that swap faces, over gRPC or HTTP, against any warmswap server.

    locust -f loadtests/locustfile.py --host grpc://127.0.0.1:8001 --headless -u 8 -r 8 -t 60s
    locust -f loadtests/locustfile.py --host http://127.0.0.1:8000 --headless -u 20 -t 120s --shape spike

The scheme of the host decides between the two kinds of users. Locust rounds its percentiles (above 100 ms to 10 ms,
above 1 s to 100 ms): the exact ones are printed at the end, and written with --exact.

Locust is a closed loop: each user waits for its answer. ``warmswap bench cold`` is open, for what slow answers hide.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc.experimental.gevent

grpc.experimental.gevent.init_gevent()  # before the first channel: without it one call blocks all users

from locust import LoadTestShape, User, constant_pacing, events, task  # noqa: E402
from locust.runners import MasterRunner, WorkerRunner  # noqa: E402

from warmswap_client import FaceSwapClient  # noqa: E402
from warmswap_client.endpoint import parse_url  # noqa: E402
from warmswap_client.errors import WarmswapError  # noqa: E402
from warmswap_client.retry import RetryPolicy  # noqa: E402
from warmswap_loadtests.payloads import fresh_source, golden_payload  # noqa: E402
from warmswap_loadtests.shapes import SHAPES, users_at  # noqa: E402
from warmswap_loadtests.stats import Latencies  # noqa: E402

DEFAULT_HOST: Final = "grpc://127.0.0.1:8001"
DEFAULT_SECONDS: Final = 60.0
REPOSITORY: Final = Path(__file__).resolve().parents[1] / "model_repository"

_numbers = count()
_latencies_ms: list[float] = []
_failures: list[str] = []


class SwapUser(User):
    """Swaps the golden face, each time from a source that no cache knows."""

    abstract = True
    schemes: tuple[str, ...] = ()

    def wait_time(self) -> float:
        """At most one swap per pacing interval and user."""
        return float(constant_pacing(self.environment.parsed_options.pacing)(self))

    def on_start(self) -> None:
        """Connect: a connection for each user."""
        options = self.environment.parsed_options
        self.payload = golden_payload(Path(options.pictures))
        self.client = FaceSwapClient(self.host, timeout_s=options.swap_timeout, retry=RetryPolicy(max_attempts=1))

    def on_stop(self) -> None:
        """Close the connection: one that is left open keeps Locust from ending."""
        self.client.close()

    @task
    def swap(self) -> None:
        """Swap once."""
        payload = fresh_source(self.payload, next(_numbers))
        start_s, start = time.time(), time.perf_counter()
        error: WarmswapError | None = None
        size = 0
        try:
            size = len(self.client.swap(payload.source, payload.target).image)
        except WarmswapError as raised:
            error = raised
        self.environment.events.request.fire(
            request_type=self.schemes[0],
            name="swap",
            start_time=start_s,
            response_time=(time.perf_counter() - start) * 1e3,
            response_length=size,
            exception=error,
            context={},
        )


class GrpcSwapUser(SwapUser):
    """Over gRPC."""

    schemes = ("grpc", "grpcs")


class HttpSwapUser(SwapUser):
    """Over HTTP."""

    schemes = ("http", "https")


class Shape(LoadTestShape):
    """The shape of ``--shape``, with the users of ``-u`` and the length of ``-t``."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users now and how fast to get there; ``None`` at the end."""
        options = self.runner.environment.parsed_options
        most = options.num_users or 1
        users = users_at(options.shape, self.get_run_time(), most, options.run_time or DEFAULT_SECONDS)
        return None if users is None else (users, most)


@events.init_command_line_parser.add_listener
def _add_arguments(parser: Any) -> None:
    group = parser.add_argument_group("warmswap")  # plain strings and numbers: the master sends them to its workers
    group.add_argument(
        "--shape",
        choices=("none", *SHAPES),
        default="none",
        env_var="WARMSWAP_SHAPE",
        help="how the number of users changes over the time of -t, up to -u (default: none)",
    )
    group.add_argument(
        "--pacing", type=float, default=0.0, metavar="S", help="a user swaps at most once in so many seconds"
    )
    group.add_argument("--swap-timeout", type=float, default=30.0, metavar="S", help="a client's patience")
    group.add_argument(
        "--pictures", default=str(REPOSITORY), help="repository whose golden pictures are sent (default: ours)"
    )
    group.add_argument(
        "--exact", metavar="FILE", help="write the exact figures here, as JSON; each worker adds its number"
    )


@events.init.add_listener
def _set_up(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    environment.host = environment.host or DEFAULT_HOST
    scheme = parse_url(environment.host).url.partition("://")[0]
    chosen = [user for user in environment.user_classes if scheme in user.schemes]
    if not chosen:
        names = ", ".join(user.__name__ for user in environment.user_classes)
        sys.exit(f"{names}: cannot swap over {environment.host}; give --host another scheme")
    environment.user_classes = chosen
    if options.shape == "none":
        environment.shape_class = None
    if not options.csv_prefix and not isinstance(environment.runner, MasterRunner):
        # Locust writes the last lines of a CSV file, and ends the workers of a master, after that.
        events.quit.add_listener(_leave)


@events.request.add_listener
def _keep(response_time: float, exception: BaseException | None, **_: Any) -> None:
    if exception is None:
        _latencies_ms.append(response_time)
    else:
        _failures.append(str(exception))


@events.quitting.add_listener
def _report(environment: Any, **_: Any) -> None:
    runner = environment.runner
    if isinstance(runner, MasterRunner):
        return  # the requests are those of the workers
    figures = exact_figures()
    sys.stdout.write(f"exact: {json.dumps(figures)}\n")
    name = environment.parsed_options.exact
    if name:
        path = Path(f"{name}.{runner.worker_index}" if isinstance(runner, WorkerRunner) else name)
        path.write_text(json.dumps(figures) + "\n", encoding="utf-8")


def _leave(exit_code: int, **_: Any) -> None:
    """End at once: a channel that tritonclient closes while Python ends can hang for ever."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def exact_figures() -> dict[str, float | int | None]:
    """Return the figures of all requests of this process, not rounded."""
    latencies = Latencies(_latencies_ms, 1.0)
    shares = {"p50_ms": 50, "p95_ms": 95, "p99_ms": 99, "max_ms": 100}
    exact = {name: latencies.percentile_ms(share) if _latencies_ms else None for name, share in shares.items()}
    return {"swaps": len(_latencies_ms), "failures": len(_failures), **exact}
