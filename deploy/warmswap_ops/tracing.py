"""OpenTelemetry traces: which requests, and where to.

Triton exports them itself, as OTLP over HTTP in JSON. One request is one trace: ``InferRequest`` (the protocol), the
pipeline, its stages below that. A client's ``traceparent`` is continued.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from warmswap_ops.errors import UsageError
from warmswap_ops.triton_install import package_version

DEFAULT_RATE: Final = 100
MAX_RATE: Final = 2**32 - 1
DEFAULT_PATH: Final = "/v1/traces"
SCHEDULE_DELAY_MS: Final = 1000
"""How long spans wait for others to go with; 5 s, the default, is longer than some replicas take to stop."""
EXPORT_TIMEOUT_S: Final = 2
"""How long Triton waits for the collector: at its end too, which must not come late for it (10 s is the default)."""


@dataclass(frozen=True, slots=True)
class Tracing:
    """Where traces go.

    Attributes:
        url: Of the collector's OTLP/HTTP receiver, as ``http://collector:4318/v1/traces``.
        rate: One of so many requests is traced, beside those that bring a ``traceparent``.
    """

    url: str
    rate: int = DEFAULT_RATE

    @classmethod
    def of(cls, url: str | None, rate: int | None) -> Tracing | None:
        """Check what was asked for.

        Args:
            url: ``None`` = no traces.
            rate: ``None`` = the default.

        Raises:
            UsageError: the URL or the rate cannot be.
        """
        if url is None:
            if rate is not None:
                raise UsageError("--trace-rate needs --trace-url: there is nowhere to send traces to")
            return None
        chosen = DEFAULT_RATE if rate is None else rate
        if not 1 <= chosen <= MAX_RATE:
            raise UsageError(f"--trace-rate must be 1 to {MAX_RATE} (one of N requests is traced), got {chosen}")
        return cls(_checked_url(url), chosen)

    def flags(self) -> list[str]:
        """Return the arguments of tritonserver."""
        settings = {
            "mode": "opentelemetry",
            "level": "TIMESTAMPS",  # TENSORS would put pictures into the spans
            "rate": self.rate,
            "count": -1,
            "opentelemetry,url": self.url,
            "opentelemetry,bsp_schedule_delay": SCHEDULE_DELAY_MS,
        }
        resource = {
            "service.name": "warmswap",
            "service.version": package_version("warmswap") or "unknown",
            "service.instance.id": _instance_id(),
        }
        return [
            *(f"--trace-config={key}={value}" for key, value in settings.items()),
            *(f"--trace-config=opentelemetry,resource={key}={value}" for key, value in resource.items()),
        ]

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return what the exporter reads from the environment, where nobody has set it."""
        defaults = {"OTEL_EXPORTER_OTLP_TIMEOUT": f"{EXPORT_TIMEOUT_S}s"}
        return {key: value for key, value in defaults.items() if key not in environ}


def _checked_url(url: str) -> str:
    example = "as in http://collector:4318/v1/traces"
    shown = url.rpartition("@")[2]  # a password belongs in no log
    if not url.isascii() or any(character.isspace() or not character.isprintable() for character in url):
        raise UsageError(f"--trace-url must be ASCII without spaces, got {shown!r}; {example}")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--trace-url {shown!r}: {error}; {example}") from error
    if parts.scheme != "http":
        raise UsageError(f"--trace-url must begin with http:// (OTLP over HTTP), got {shown!r}; {example}")
    if not host or port == 0:
        raise UsageError(f"--trace-url names no host or port to send to, got {shown!r}; {example}")
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError(f"--trace-url must be host, port and path only, got {shown!r}; {example}")
    return urlunsplit(parts._replace(path=DEFAULT_PATH if parts.path in ("", "/") else parts.path))


def _instance_id() -> str:
    """Return the name of this replica: that of the pod, or of the machine and the launcher."""
    host = socket.gethostname()
    return host if os.getpid() == 1 else f"{host}-{os.getpid()}"
