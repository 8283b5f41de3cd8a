"""From nothing to a replica that has just swapped a face correctly.

    pre-flight -> tritonserver, empty -> its ports open -> stages and pipelines, all at once -> ready

A pipeline's warm-up is the golden request, which runs through the stages and waits for them: when the last load
returns, the whole chain has given the golden answer. While the server starts, this process imports
tritonclient and verifies the sha256 of every file that will be served.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from warmswap_ensemble.contract import MODELS, PIPELINES, STAGES
from warmswap_ops.backend_folder import BackendFolder, provide_backend_folder
from warmswap_ops.compiling.check import check_compiled
from warmswap_ops.compiling.stamp import trust_stamp
from warmswap_ops.errors import ModelLoadError, OpsError, ServerError
from warmswap_ops.licences import check_policy, find_policy, licence_facts, licence_warnings, twin_warnings, uncleared
from warmswap_ops.matching import check_pipelines
from warmswap_ops.model_loading import finish_requests, load_models
from warmswap_ops.phases import Phase, Report, Stopwatch
from warmswap_ops.ports import Ports, address, choose_ports, is_open
from warmswap_ops.preflight import check_machine, onnxruntime_version
from warmswap_ops.repository import ServedVersion, find_repository, read_repository, verify
from warmswap_ops.residency.manager import ResidencyManager
from warmswap_ops.residency.planning import plan_residency
from warmswap_ops.shared_memory import SharedMemory
from warmswap_ops.triton_command import ServerOptions, has_gpu, server_command
from warmswap_ops.triton_install import find_triton, server_environment
from warmswap_ops.triton_log import TritonLog
from warmswap_ops.triton_process import POLL_INTERVAL_S, TritonProcess

EXIT_MARGIN_S: Final = 5.0
PORT_ATTEMPTS: Final = 5
CRASHES: Final = (-signal.SIGSEGV, -signal.SIGABRT)


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What to serve, and how.

    Attributes:
        repository: Model repository; ``None`` = look for it (see ``find_repository``).
        host: Address to listen on.
        ports: Ports to listen on; 0 = any free one.
        exit_timeout_s: How long in-flight requests may take after the server was told to stop.
        port_timeout_s: How long the empty server may take to open its ports.
        load_timeout_s: How long the load of one model may take.
        config_name: ``configs/<name>.pbtxt`` of each model wins; ``None`` = ``gpu`` where there is a GPU.
        verbose: Pass on everything that the server writes.
        policy: Whose licences may be served, see ``licences``; ``None`` = what the environment says, else any.
        compile_to: Compile the repository into this folder, unless that is up to date, and serve the folder.
        compile_cache: Folder of compiled graphs; ``None`` = see ``compiling.cache``.
        verify_fully: Hash every file, also those that a compiled repository's stamp vouches for.
        stages: Models to load first.
        pipelines: Models to load when all stages are ready.
        residency: Policy file, see ``residency.policy``; ``None`` = the environment's or the repository's, if any.
        preload: Models to load at the start, with the stages that they call; ``None`` = what the policy says.
        warmup_requests: Golden requests before the replica is ready; ``None`` = what the policy says.
    """

    repository: Path | None = None
    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    exit_timeout_s: int = 25
    port_timeout_s: float = 30.0
    load_timeout_s: float = 300.0
    config_name: str | None = None
    verbose: bool = False
    policy: str | None = None
    compile_to: Path | None = None
    compile_cache: Path | None = None
    verify_fully: bool = False
    stages: tuple[str, ...] = tuple(spec.name for spec in STAGES)
    pipelines: tuple[str, ...] = tuple(spec.name for spec in PIPELINES)
    residency: Path | None = None
    preload: tuple[str, ...] | None = None
    warmup_requests: int | None = None


class Launcher:
    """One replica. ``start`` blocks until it is ready; ``kill`` may be called from another thread at any moment."""

    def __init__(
        self,
        options: LaunchOptions,
        report: Report | None = None,
        log_line: Callable[[str], None] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            options: What to serve, and how.
            report: Gets every phase as it ends.
            log_line: Gets warnings, and the server's lines that an operator should see.
            stopwatch: Runs since the time that ``ms_total`` counts from.
        """
        self.options = options
        self.phases: list[Phase] = []
        self.ports = options.ports
        self.residency: ResidencyManager | None = None
        self._report = report
        self._stopwatch = stopwatch or Stopwatch()
        self._log_line = log_line
        self._log = TritonLog(log_line, verbose=options.verbose)
        self._lock = threading.Lock()
        self._closed = False
        self._process: TritonProcess | None = None
        self._backends: BackendFolder | None = None
        self._shared_memory: SharedMemory | None = None

    @property
    def grpc_url(self) -> str:
        """``host:port``, as gRPC clients want it."""
        return address(self.options.host, self.ports.grpc)

    @property
    def http_url(self) -> str:
        """``host:port``, as tritonclient's HTTP client wants it."""
        return address(self.options.host, self.ports.http)

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics."""
        return f"http://{address(self.options.host, self.ports.metrics)}/metrics"

    @property
    def pid(self) -> int:
        """Process id of tritonserver."""
        return self._server.pid

    @property
    def processes(self) -> list[int]:
        """Ids of tritonserver and its stubs, to add up their memory; this process is not among them."""
        return self._server.processes()

    @property
    def log_lines(self) -> list[str]:
        """The last lines that the server wrote."""
        return self._log.lines()

    def start(self) -> None:
        """Start the server and load everything; on failure nothing is left behind.

        Raises:
            OpsError: the reason, in one line; see ``errors``.
        """
        try:
            self._start()
        except BaseException:
            self.kill()
            raise

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end of tritonserver; return its exit code, or ``None`` when the time is up."""
        return self._server.wait(timeout_s)

    def check_alive(self) -> None:
        """Refuse a dead server.

        Raises:
            ServerError: it died.
        """
        self._server.check_alive()

    def stop(self) -> bool:
        """Stop in order: in-flight requests finish within ``exit_timeout_s``; nothing is left behind.

        The pipelines are unloaded before the server is told to stop. Triton 24.10 lets gRPC calls run on while its
        core shuts down, and then refuses the calls of a pipeline to its stages: a request in the middle of the chain
        would fail. An unloaded model takes nothing new and finishes what it has, with its stages still there. The
        server's exit code is not looked at: one idle HTTP connection makes it 1.

        Returns:
            Whether all requests to the pipelines finished.
        """
        from warmswap_ops.control import ControlClient

        finished = False
        process = self._process
        if process is not None and process.returncode is None and not self._closed:
            deadline_s = time.monotonic() + self.options.exit_timeout_s
            if self.residency is not None:
                self.residency.drain()
            with ControlClient(self.grpc_url) as control:
                finished = finish_requests(control, self.options.pipelines, deadline_s, lambda: self._closed)
            process.terminate()
            process.wait(max(0.0, deadline_s - time.monotonic()) + EXIT_MARGIN_S)
        self.kill()
        return finished

    def kill(self) -> None:
        """End everything at once and clean up. Safe at any moment, from any thread, more than once."""
        with self._lock:
            self._closed = True
            if self.residency is not None:
                self.residency.close()
            if self._process is not None:
                self._process.kill()
            if self._shared_memory is not None:
                self._shared_memory.remove()
            if self._backends is not None:
                self._backends.remove()

    def _start(self) -> None:
        options = self.options
        policy = find_policy(options.policy, os.environ)
        install = find_triton()
        env = server_environment(install, os.environ)
        check_machine(install, env)
        repository = find_repository(options.repository, os.environ)
        if options.compile_to:
            repository = self._compile(repository, options.compile_to, options.compile_cache)
        config_name = options.config_name or ("gpu" if has_gpu() else None)
        plan = plan_residency(
            repository,
            options.stages,
            options.pipelines,
            given=options.residency,
            preload=options.preload,
            environ=os.environ,
            config_name=config_name,
        )
        warmup_requests = options.warmup_requests or plan.policy.warmup_requests
        options = self.options = replace(
            options, stages=plan.stages, pipelines=plan.pipelines, warmup_requests=warmup_requests
        )
        served = read_repository(repository, options.stages, options.pipelines, config_name)
        check_pipelines(repository, options.pipelines, config_name)
        check_compiled([*served, *plan.later], install)
        manifests = [version.manifest for version in (*served, *plan.later) if version.manifest is not None]
        check_policy(policy, manifests)
        self._warn([*plan.warnings, *licence_warnings(manifests), *twin_warnings(manifests)])
        ports = choose_ports(options.host, options.ports)
        with self._lock:
            self._refuse_closed()
            self._backends = provide_backend_folder(install, os.environ)
            self._shared_memory = SharedMemory()
            self.residency = ResidencyManager(repository, plan.policy, plan.estimates_mb, self._report)
        env |= self.residency.environment()
        licences = [licence_facts(manifest) for manifest in uncleared(manifests)]
        self._end_phase(
            "preflight", triton=install.version, repository=str(repository), policy=policy, licences=licences
        )

        command = ServerOptions(
            server=install.server,
            repository=repository,
            backends=self._backends.path,
            shm_prefix=self._shared_memory.prefix,
            host=options.host,
            exit_timeout_s=options.exit_timeout_s,
            onnxruntime_version=onnxruntime_version(install),
            config_name=config_name,
            load_threads=max(4, len(options.stages) + len(options.pipelines)),
        )
        with ThreadPoolExecutor(1, thread_name_prefix="verify") as pool:
            known = () if options.verify_fully else (trust_stamp(repository),)
            verified = pool.submit(verify, served, *known)
            self._open_server(command, ports, env)
        verified.result()
        self._end_phase("server", pid=self.pid, grpc=self.ports.grpc, http=self.ports.http)

        try:
            self._load_all(at_once=len(MODELS))
        except ServerError as error:
            if self._server.returncode not in CRASHES:
                raise
            # Triton 24.10 often crashes when it refuses a model, most often while another one loads. A pipeline that
            # refused itself has logged why; for the rest, models loaded one at a time tell more.
            self._raise_self_test_failure(error)
            self._end_phase("restart", reason=str(error))
            self._open_server(command, choose_ports(options.host, options.ports), env)
            try:
                self._load_all(at_once=1)
            except ServerError as again:
                self._raise_self_test_failure(again)
                raise
        self._log.passing_on = True
        twins = [f"{manifest.model} {manifest.version}" for manifest in manifests if manifest.twin]
        self._end_phase(
            "ready",
            urls=self._urls(),
            versions=_versions(served),
            on_demand=plan.policy.on_demand,
            twins=twins,
            ms_total=self._stopwatch.total_ms(),
        )

    def _compile(self, repository: Path, out: Path, cache: Path | None) -> Path:
        from warmswap_ops.compiling.build import CompileOptions, compile_repository

        say = self._log_line or (lambda line: None)
        options = CompileOptions(repository, out, cache, say=say, is_cancelled=lambda: self._closed)
        compiled = compile_repository(options)
        self._end_phase("compiled", **compiled.as_json())
        return compiled.out

    def _raise_self_test_failure(self, crash: ServerError) -> None:
        failure = self._log.self_test_failure()
        if failure is not None:
            raise ModelLoadError(*failure) from crash

    def _load_all(self, at_once: int) -> None:
        from warmswap_ops.control import ControlClient  # imported while the server started

        options = self.options
        groups = [("stages", options.stages), ("pipelines", options.pipelines)]
        assert self.residency is not None
        all_ms: dict[str, float] = {}
        self.residency.start(ControlClient(self.grpc_url), self._server.processes, options.load_timeout_s)
        with ControlClient(self.grpc_url) as control:
            for phase, loaded_ms in load_models(control, groups, options.load_timeout_s, self._server, at_once):
                self._end_phase(phase, models=loaded_ms)
                all_ms |= loaded_ms
        self.residency.adopt(all_ms)

    def _open_server(self, command: ServerOptions, ports: Ports, env: dict[str, str]) -> None:
        """Start the server and wait for its ports; chosen ones that were taken in between are chosen again."""
        for attempt in range(1, PORT_ATTEMPTS + 1):
            with self._lock:
                self._refuse_closed()
                self.ports = ports
                self._process = TritonProcess(server_command(command, ports), env, self._log)
            import warmswap_ops.control  # noqa: F401 (0.2 s, while the server starts)

            try:
                self._wait_for_ports()
            except ServerError as error:
                retry = "already in use" in str(error) and self.options.ports.any_chosen
                if not retry or attempt == PORT_ATTEMPTS:
                    raise
                with self._lock:
                    self._process.kill()
                ports = choose_ports(self.options.host, self.options.ports)
            else:
                return

    def _wait_for_ports(self) -> None:
        deadline_s = time.monotonic() + self.options.port_timeout_s
        for port in (self.ports.grpc, self.ports.http, self.ports.metrics):  # the order in which they open
            while not is_open(self.options.host, port):
                self._server.check_alive()
                if time.monotonic() > deadline_s:
                    raise ServerError(f"port {port} is not open after {self.options.port_timeout_s:g} s")
                time.sleep(POLL_INTERVAL_S)
        self._server.check_alive()

    def _end_phase(self, name: str, **details: Any) -> None:
        phase = Phase(name, self._stopwatch.lap_ms(), details)
        self.phases.append(phase)
        if self._report:
            self._report(phase)

    def _warn(self, lines: Sequence[str]) -> None:
        if self._log_line:
            for line in lines:
                self._log_line(f"warning: {line}")

    def _urls(self) -> dict[str, str]:
        return {"grpc": self.grpc_url, "http": f"http://{self.http_url}", "metrics": self.metrics_url}

    def _refuse_closed(self) -> None:
        if self._closed:
            raise OpsError("stopped while starting")

    @property
    def _server(self) -> TritonProcess:
        if self._process is None:
            raise ServerError("the server was not started")
        return self._process


class LocalTriton(Launcher):
    """A replica for a ``with`` block: tests, benchmarks, notebooks. Takes any free ports unless told otherwise.

    >>> with LocalTriton(repository="model_repository") as server:      # doctest: +SKIP
    ...     client = InferenceServerClient(server.grpc_url)
    """

    def __init__(self, repository: Path | str | None = None, *, report: Report | None = None, **options: Any) -> None:
        """Prepare; ``options`` are those of ``LaunchOptions``."""
        folder = Path(repository) if repository is not None else None
        super().__init__(LaunchOptions(**{"ports": Ports(0, 0, 0), "repository": folder, **options}), report)

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()


def _versions(served: Sequence[ServedVersion]) -> dict[str, str]:
    versions: dict[str, list[str]] = {}
    for version in served:
        versions.setdefault(version.model, []).append(str(version.version))
    return {model: ",".join(numbers) for model, numbers in versions.items()}
