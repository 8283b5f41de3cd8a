"""One tritonserver at a time, with its ports and what it leaves in memory and on disk; it can be started again."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from warmswap_ops.backend_folder import BackendFolder, provide_backend_folder
from warmswap_ops.errors import OpsError, ServerError
from warmswap_ops.ports import Ports, address, choose_ports, is_open
from warmswap_ops.preflight import onnxruntime_version
from warmswap_ops.preparation import Preparation
from warmswap_ops.shared_memory import SharedMemory
from warmswap_ops.triton_command import INTERNAL_HOST, ServerOptions, server_command
from warmswap_ops.triton_install import package_version
from warmswap_ops.triton_log import TritonLog
from warmswap_ops.triton_process import POLL_INTERVAL_S, TritonProcess

if TYPE_CHECKING:
    from warmswap_ops.control import ControlClient

PORT_ATTEMPTS: Final = 5


class TritonServer:
    """The server of a launcher. ``kill`` may be called from another thread at any moment.

    Attributes:
        ports: Where it listens; ``metrics`` is the launcher's own.
        metrics_port: Triton's metrics, on the loopback interface; 0 before the first start.
        log: The last lines that it wrote.
    """

    def __init__(self, host: str, ports: Ports, port_timeout_s: float, log: TritonLog) -> None:
        """Prepare; nothing is started yet.

        Args:
            host: Address to listen on.
            ports: Wanted ones; 0 = any free one.
            port_timeout_s: How long an empty server may take to open them.
            log: Gets what it writes.
        """
        self.ports = ports
        self.metrics_port = 0
        self.log = log
        self._host = host
        self._port_timeout_s = port_timeout_s
        self._lock = threading.Lock()
        self._closed = False
        self._versions: dict[str, str] = {}
        self._process: TritonProcess | None = None
        self._backends: BackendFolder | None = None
        self._shared_memory: SharedMemory | None = None

    @property
    def process(self) -> TritonProcess:
        """The running one, or the last that ran.

        Raises:
            ServerError: there was none.
        """
        if self._process is None:
            raise ServerError("the server was not started")
        return self._process

    @property
    def versions(self) -> dict[str, str]:
        """Versions of this distribution, of Triton and of ONNX Runtime; empty before ``provide``."""
        return self._versions

    @property
    def was_started(self) -> bool:
        """Whether there is, or was, a process."""
        return self._process is not None

    @property
    def closed(self) -> bool:
        """Whether it was killed for good."""
        return self._closed

    def provide(self, preparation: Preparation, exit_timeout_s: int, load_threads: int) -> None:
        """Make what the server needs on disk and in memory.

        Args:
            preparation: What it serves, and with what.
            exit_timeout_s: How long it may take to end.
            load_threads: Models that it loads at the same time.
        """
        with self._lock:
            self.refuse_closed()
            self._backends = provide_backend_folder(preparation.install, os.environ)
            self._shared_memory = SharedMemory()
        self._env = preparation.env
        self._versions = {
            "version": package_version("warmswap") or "unknown",
            "triton": preparation.install.version,
            "onnxruntime": onnxruntime_version(preparation.install),
        }
        self._command = ServerOptions(
            server=preparation.install.server,
            repository=preparation.repository,
            backends=self._backends.path,
            shm_prefix=self._shared_memory.prefix,
            host=self._host,
            exit_timeout_s=exit_timeout_s,
            onnxruntime_version=self._versions["onnxruntime"],
            config_name=preparation.config_name,
            load_threads=load_threads,
            trace_flags=tuple(tracing.flags()) if (tracing := preparation.options.tracing) else (),
            access=preparation.access,
            max_connection_age_s=preparation.options.max_connection_age_s,
            tls=preparation.options.tls,
        )

    def open(self) -> None:
        """Start the server and wait for its ports; chosen ones that were taken in between are chosen again.

        Raises:
            PortInUseError: a port that was asked for is taken.
            ServerError: it did not start.
        """
        for attempt in range(1, PORT_ATTEMPTS + 1):
            ports = choose_ports(self._host, replace(self.ports, metrics=0))
            with self._lock:
                self.refuse_closed()
                self.metrics_port = ports.metrics
                self._process = TritonProcess(server_command(self._command, ports), self._env, self.log)
            import warmswap_ops.control  # noqa: F401 (0.2 s, while the server starts)

            try:
                self._wait_for_ports(ports)
            except ServerError as error:
                if "already in use" not in str(error) or attempt == PORT_ATTEMPTS:
                    raise
                with self._lock:
                    self._process.kill()
            else:
                self.ports = replace(ports, metrics=self.ports.metrics)
                return

    def control(self) -> ControlClient:
        """Return a connection to its control API, which brings the token; close it after use."""
        from warmswap_ops.control import ControlClient  # imported while the server started

        return ControlClient(address(self._host, self.ports.grpc), self._command.access, self._command.tls)

    def reopen(self) -> None:
        """End the server at once and start it again, empty, on the same ports.

        Raises:
            ServerError: it did not start.
        """
        self.process.kill()
        self.log.clear()  # what made the old one die says nothing of the new one
        with self._lock:
            self.refuse_closed()
            if self._shared_memory is not None:
                self._shared_memory.clear()
        self.open()

    def kill(self) -> None:
        """End everything at once and clean up, for good. Safe to call again."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.kill()
            if self._shared_memory is not None:
                self._shared_memory.remove()
            if self._backends is not None:
                self._backends.remove()

    def refuse_closed(self) -> None:
        """Refuse what comes after ``kill``.

        Raises:
            OpsError: it was killed.
        """
        if self._closed:
            raise OpsError("stopped while starting")

    def _wait_for_ports(self, ports: Ports) -> None:
        deadline_s = time.monotonic() + self._port_timeout_s
        in_order = ((self._host, ports.grpc), (self._host, ports.http), (INTERNAL_HOST, ports.metrics))
        for host, port in in_order:  # as they open
            while not is_open(host, port):
                self.process.check_alive()
                if time.monotonic() > deadline_s:
                    raise ServerError(f"port {port} is not open after {self._port_timeout_s:g} s")
                time.sleep(POLL_INTERVAL_S)
        self.process.check_alive()
