"""The command line of tritonserver. Every flag was checked against ``tritonserver --help`` of 2.51 (24.10)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_ops.access import OPEN, Access, closed_http_flags
from warmswap_ops.ports import Ports
from warmswap_ops.tls import Tls
from warmswap_ops.triton_install import package_version

INTERNAL_HOST: Final = "127.0.0.1"
GPU_DEVICE: Final = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What differs between two starts, but for the ports."""

    server: Path
    repository: Path
    backends: Path
    shm_prefix: str
    host: str
    exit_timeout_s: int
    onnxruntime_version: str
    config_name: str | None
    load_threads: int
    trace_flags: tuple[str, ...] = ()
    access: Access = OPEN
    max_connection_age_s: int = 0
    tls: Tls | None = None


def has_gpu() -> bool:
    """Whether the NVIDIA driver shows a device here."""
    return GPU_DEVICE.exists()


def server_command(options: ServerOptions, ports: Ports) -> list[str]:
    """Return the program and its arguments; ``ports.metrics`` is Triton's own, on the loopback interface."""
    command = [
        str(options.server),
        f"--id=warmswap/{package_version('warmswap') or 'unknown'} onnxruntime/{options.onnxruntime_version}",
        f"--model-repository={options.repository}",
        f"--backend-directory={options.backends}",
        f"--backend-config=python,shm-region-prefix-name={options.shm_prefix}",
        "--model-control-mode=explicit",  # starts empty, so the ports open at once
        "--strict-readiness=false",  # /v2/health/ready must not flap while a version is loaded
        "--disable-auto-complete-config",  # or every Python model starts a second process at load
        "--exit-on-error=true",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        f"--model-load-thread-count={options.load_threads}",
        f"--http-address={options.host}",
        f"--grpc-address={options.host}",
        f"--metrics-address={INTERNAL_HOST}",  # the public port is the launcher's, see metrics_server
        f"--http-port={ports.http}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        *options.trace_flags,
        *options.access.flags(),
    ]
    if options.tls:
        command += [*options.tls.flags(), *closed_http_flags()]
    if options.max_connection_age_s:
        # Requests in work may take as long as at the end of the server.
        command.append(f"--grpc-max-connection-age={options.max_connection_age_s * 1000}")
        command.append(f"--grpc-max-connection-age-grace={options.exit_timeout_s * 1000}")
    if options.config_name:
        command.append(f"--model-config-name={options.config_name}")
    if not has_gpu():
        command.append("--allow-gpu-metrics=false")
    return command
