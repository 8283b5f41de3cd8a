"""What Envoy is told, as plain dictionaries (JSON is YAML): services, how they are probed, retried and balanced.

The endpoints of a service are no part of it: they stand in a file of their own, which Envoy follows (``endpoints``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Protocol = Literal["http", "grpc"]
Config = dict[str, Any]

UPSTREAM_HEADER: Final = "x-upstream-host"
"""Header of every answer: ``host:port`` of the replica that gave it; absent where Envoy answered itself."""
ATTEMPTS_HEADER: Final = "x-envoy-attempt-count"
"""Header of every answer: how many replicas it was sent to; more than 1 = retried."""
REQUEST_HEADER: Final = "x-request-number"
"""Header of a request that finds it again in the access log."""

BUFFER_BYTES: Final = 64 * 1024 * 1024
"""Per connection. A request can only be sent again while Envoy holds all of it."""
MAX_PENDING: Final = 100_000
_TYPE: Final = "type.googleapis.com/envoy."
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class Service:
    """What a Kubernetes Service is: an address before a changing set of replicas.

    Attributes:
        name: A word; also the name of its endpoint file.
        probe_path: Readiness probe, over HTTP/1.1; 200 = give it traffic. ``None`` = every replica that is listed gets
            traffic, whatever its connections do: only who sets the endpoints decides.
        protocol: Of the requests; ``grpc`` = HTTP/2 to the replicas too.
        probe_interval_s: Between two probes of a replica.
        probe_timeout_s: No answer by then is a failure.
        healthy_threshold: Successes in a row that bring a replica back; a new one needs one only.
        unhealthy_threshold: Failures in a row that take it out.
        slow_start_s: For how long a new replica's share grows; 0 = its full share at once.
        timeout_s: Of a request, retries included; 0 = none.
        retries: How often a request is sent to another replica when one refuses or drops it. A swap is idempotent.
        retry_on: What is tried again.
    """

    name: str
    probe_path: str | None
    protocol: Protocol = "http"
    probe_interval_s: float = 0.5
    probe_timeout_s: float = 2.0
    healthy_threshold: int = 1
    unhealthy_threshold: int = 3
    slow_start_s: float = 5.0
    timeout_s: float = 0.0
    retries: int = 5
    retry_on: str = "connect-failure,refused-stream,reset"

    def __post_init__(self) -> None:
        """Refuse what would be no file name or no path."""
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"a service is named by a word, got {self.name!r}")
        if self.probe_path is not None and not self.probe_path.startswith("/"):
            raise ValueError(f"probe_path must start with /, got {self.probe_path!r}")


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a replica listens; ``probe_port`` when its probe is answered elsewhere than its requests."""

    host: str
    port: int
    probe_port: int | None = None

    @property
    def address(self) -> str:
        """``host:port``, as in ``UPSTREAM_HEADER``."""
        return f"{self.host}:{self.port}"


def bootstrap(services: Iterable[Service], folder: Path) -> Config:
    """Return Envoy's configuration; it listens on free loopback ports, which its admin page names.

    Args:
        services: One listener each, named as the service.
        folder: Where ``<service>.endpoints.json`` and the access log are.
    """
    services = list(services)
    return {
        "node": {"id": "warmswap", "cluster": "warmswap"},
        "admin": {"address": _address("127.0.0.1", 0)},
        "static_resources": {
            "listeners": [_listener(service, access_log_path(folder)) for service in services],
            "clusters": [_cluster(service, folder) for service in services],
        },
    }


def endpoints(service: Service, replicas: Sequence[Endpoint], version: int) -> Config:
    """Return the content of a service's endpoint file (EDS)."""
    return {
        "version_info": str(version),
        "resources": [
            {
                "@type": f"{_TYPE}config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": service.name,
                "endpoints": [{"lb_endpoints": [_endpoint(replica) for replica in replicas]}],
            }
        ],
    }


def endpoints_path(folder: Path, service: Service) -> Path:
    """Return where Envoy looks for a service's endpoints."""
    return folder / f"{service.name}.endpoints.json"


def access_log_path(folder: Path) -> Path:
    """Return where Envoy writes a line of JSON per request."""
    return folder / "access.jsonl"


def _listener(service: Service, access_log: Path) -> Config:
    route = {
        "cluster": service.name,
        "timeout": _seconds(service.timeout_s),
        "retry_policy": {
            "retry_on": service.retry_on,
            "num_retries": service.retries,
            "retry_host_predicate": [_extension("envoy.retry_host_predicates.previous_hosts", "previous_hosts")],
            "host_selection_retry_max_attempts": 5,
            "retry_back_off": {"base_interval": "0.025s", "max_interval": "0.25s"},
        },
    }
    manager = {
        "@type": f"{_TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": service.name,
        "codec_type": "AUTO",
        "stream_idle_timeout": "0s",  # a request may wait for a cold replica longer than Envoy's five minutes
        "access_log": [_access_log(access_log)],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": service.name,
                    "domains": ["*"],
                    "routes": [{"name": service.name, "match": {"prefix": "/"}, "route": route}],
                    "include_attempt_count_in_response": True,
                }
            ],
            "response_headers_to_add": [
                {
                    "header": {"key": UPSTREAM_HEADER, "value": "%UPSTREAM_REMOTE_ADDRESS%"},
                    "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                }
            ],
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{_TYPE}extensions.filters.http.router.v3.Router"}}
        ],
    }
    return {
        "name": service.name,
        "address": _address("127.0.0.1", 0),
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def _cluster(service: Service, folder: Path) -> Config:
    options = "http2_protocol_options" if service.protocol == "grpc" else "http_protocol_options"
    slow_start = {"slow_start_window": _seconds(service.slow_start_s), "min_weight_percent": {"value": 10}}
    # Envoy's own limits are in the way of a benchmark: what waits should wait, and be seen waiting.
    limit = {
        "max_connections": MAX_PENDING,
        "max_pending_requests": MAX_PENDING,
        "max_requests": MAX_PENDING,
        "max_retries": MAX_PENDING,
    }
    return {
        "name": service.name,
        "type": "EDS",
        "eds_cluster_config": {
            "eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {
                    "path": str(endpoints_path(folder, service)),
                    "watched_directory": {"path": str(folder)},
                },
            }
        },
        "connect_timeout": "1s",
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "lb_policy": "LEAST_REQUEST",
        **({"least_request_lb_config": {"slow_start_config": slow_start}} if service.slow_start_s > 0 else {}),
        # A replica that is not ready gets nothing, though no other is; one that was removed gets nothing more, though
        # its probe is still answered. Envoy would gather changes of health for a second before it acts on them.
        "common_lb_config": {
            "healthy_panic_threshold": {"value": 0},
            "update_merge_window": "0s",
        },
        **({} if service.probe_path is None else _health(service, service.probe_path)),
        "circuit_breakers": {
            "thresholds": [{"priority": "DEFAULT", **limit}, {"priority": "HIGH", **limit}],
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {options: {}},
            }
        },
    }


def _health(service: Service, probe_path: str) -> Config:
    """Return how a cluster finds out by itself which replicas to leave out."""
    return {
        "ignore_health_on_host_removal": True,
        "health_checks": [
            {
                "timeout": _seconds(service.probe_timeout_s),
                "interval": _seconds(service.probe_interval_s),
                "no_traffic_interval": _seconds(service.probe_interval_s),
                "unhealthy_threshold": service.unhealthy_threshold,
                "healthy_threshold": service.healthy_threshold,
                "http_health_check": {"path": probe_path},
            }
        ],
        # A replica that refuses connections is left out at once, not when its probes have failed: it has nothing in
        # work, so it would be the balancer's first choice. The next probe that it answers brings it back.
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 1,
            "enforcing_consecutive_local_origin_failure": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "interval": "0.5s",
            "base_ejection_time": "2s",
            "max_ejection_percent": 100,
        },
    }


def _access_log(path: Path) -> Config:
    fields = {
        "started_s": "%START_TIME(%s.%6f)%",
        "service": "%ROUTE_NAME%",
        "upstream": "%UPSTREAM_HOST%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "duration_ms": "%DURATION%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "path": "%REQ(:PATH)%",
        "request": f"%REQ({REQUEST_HEADER})%",
    }
    return {
        "name": "file",
        "typed_config": {
            "@type": f"{_TYPE}extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": fields},
        },
    }


def _endpoint(replica: Endpoint) -> Config:
    endpoint: Config = {"address": _address(replica.host, replica.port)}
    if replica.probe_port is not None:
        endpoint["health_check_config"] = {"port_value": replica.probe_port}
    return {"endpoint": endpoint}


def _address(host: str, port: int) -> Config:
    return {"socket_address": {"address": host, "port_value": port}}


def _extension(name: str, folder: str) -> Config:
    kind = f"extensions.retry.host.{folder}.v3.PreviousHostsPredicate"
    return {"name": name, "typed_config": {"@type": f"{_TYPE}{kind}"}}


def _seconds(value: float) -> str:
    return f"{value:g}s"
