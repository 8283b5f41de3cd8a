"""From nothing to a replica that has just swapped a face correctly.

    pre-flight -> tritonserver, empty -> its ports open -> stages and pipelines, all at once -> ready

A pipeline's warm-up is the golden request, which runs through the stages and waits for them: when the last load
returns, the whole chain has given the golden answer. While the server starts, this process imports
tritonclient and verifies the sha256 of every file that will be served. ``watch`` takes the same way again when the
process of a model dies; the metrics port is open all the time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from warmswap_ensemble.contract import MODELS
from warmswap_ops.compiling.stamp import Trust, trust_stamp
from warmswap_ops.errors import ModelLoadError, OpsError, ServerError
from warmswap_ops.launch_options import LaunchOptions
from warmswap_ops.metrics_server import MetricsServer
from warmswap_ops.model_loading import finish_requests, load_models, refuse_models
from warmswap_ops.phases import Phase, Report, Stopwatch
from warmswap_ops.ports import Ports, address, listen
from warmswap_ops.preparation import Preparation, prepare
from warmswap_ops.replica_metrics import metrics_text
from warmswap_ops.replica_state import PROCESS_DIED, ReplicaState, load_details
from warmswap_ops.repository import verify
from warmswap_ops.residency.manager import ResidencyManager
from warmswap_ops.residency.operations import ModelOperations
from warmswap_ops.restart_limit import WINDOW_S, RestartLimit
from warmswap_ops.rollout.served import RolloutFolder, needs
from warmswap_ops.stub_watch import DeadStub, StubWatch, has_dead_stub
from warmswap_ops.triton_log import TritonLog
from warmswap_ops.triton_server import TritonServer
from warmswap_ops.trouble import CRASHES, Trouble, next_trouble

if TYPE_CHECKING:
    from warmswap_ops.control import ControlClient

__all__ = ["LaunchOptions", "Launcher", "LocalTriton"]

EXIT_MARGIN_S: Final = 5.0
CRASH_RESTARTS: Final = 3
RECOVERY_DRAIN_S: Final = 2.0
"""How long requests that a dead model does not concern may take before the server is restarted."""


class Launcher:
    """One replica. ``start`` blocks until it is ready; ``kill`` may be called from another thread at any moment."""

    def __init__(
        self,
        options: LaunchOptions,
        report: Report | None = None,
        log_line: Callable[[str], None] | None = None,
        stopwatch: Stopwatch | None = None,
        triton_line: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; nothing is started yet.

        Args:
            options: What to serve, and how.
            report: Gets every phase as it ends.
            log_line: Gets warnings.
            stopwatch: Runs since the time that ``ms_total`` counts from.
            triton_line: Gets the server's lines that an operator should see; ``None`` = as ``log_line``.
        """
        self.options = options
        self.phases: list[Phase] = []
        self.state = ReplicaState()
        self.residency: ResidencyManager | None = None
        self._report = report
        self._stopwatch = stopwatch or Stopwatch()
        self._log_line = log_line
        self._log = TritonLog(triton_line or log_line, verbose=options.verbose)
        self._server = TritonServer(options.host, options.ports, options.port_timeout_s, self._log)
        self._preparation: Preparation | None = None
        self._is_known: Trust = lambda path, sha256: False
        self._metrics: MetricsServer | None = None
        self._stubs: StubWatch | None = None
        self._stopping = threading.Event()
        self._limit = RestartLimit(options.max_restarts)
        self._missed: set[int] = set()
        self._rollout_folder: RolloutFolder | None = None

    @property
    def ports(self) -> Ports:
        """Where it listens."""
        return self._server.ports

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
        return self._server.process.pid

    @property
    def processes(self) -> list[int]:
        """Ids of tritonserver and its stubs, to add up their memory; this process is not among them."""
        return self._server.process.processes()

    @property
    def log_lines(self) -> list[str]:
        """The last lines that the server wrote."""
        return self._log.lines()

    def start(self) -> None:
        """Start the server and load everything.

        On failure nothing is left behind, unless ``on_failure`` is ``stay``.

        Raises:
            OpsError: the reason, in one line; see ``errors``.
        """
        with self._failure_handled():
            self._start()

    def watch(self) -> None:
        """Watch over a replica that is ready; returns when it is stopped.

        When the process of a model dies, which Triton 24.10 does not tell, the server is started anew as it was.

        Raises:
            OpsError: the server died, processes of models die too often, or a restart failed.
        """
        with self._failure_handled():
            self._watch()

    def control(self) -> ControlClient:
        """Return a connection to the control API, which brings the token if it wants one; close it after use.

        Raises:
            ServerError: the server was not started.
        """
        self.check_alive()
        return self._server.control()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait for the end of tritonserver; return its exit code, or ``None`` when the time is up."""
        return self._server.process.wait(timeout_s)

    def check_alive(self) -> None:
        """Refuse a dead server.

        Raises:
            ServerError: it died.
        """
        self._server.process.check_alive()

    def stop(self) -> bool:
        """Stop in order: in-flight requests finish within ``exit_timeout_s``; nothing is left behind.

        The pipelines are unloaded before the server is told to stop. Triton 24.10 lets gRPC calls run on while its
        core shuts down, and then refuses the calls of a pipeline to its stages: a request in the middle of the chain
        would fail. An unloaded model takes nothing new and finishes what it has, with its stages still there. The
        server's exit code is not looked at: one idle HTTP connection makes it 1.

        Returns:
            Whether all requests to the pipelines finished.
        """
        finished = False
        self._stopping.set()
        self.state.stopping()
        if self._server.was_started and not self._server.closed and self._server.process.returncode is None:
            process = self._server.process
            deadline_s = time.monotonic() + self.options.exit_timeout_s
            if self.residency is not None:
                self.residency.drain()
            finished = self._finish_requests(deadline_s)
            if not has_dead_stub(process.pid):  # it would wait for that stub until its time is up
                process.terminate()
                process.wait(max(0.0, deadline_s - time.monotonic()) + EXIT_MARGIN_S)
        self.kill()
        return finished

    def kill(self) -> None:
        """End everything at once and clean up. Safe at any moment, from any thread, more than once."""
        self._stopping.set()
        if self.residency is not None:
            self.residency.close()
        self._server.kill()
        if self._metrics is not None:
            self._metrics.close()
        if self._rollout_folder is not None:
            self._rollout_folder.remove()

    @contextmanager
    def _failure_handled(self) -> Iterator[None]:
        """Record what went wrong, and leave behind what ``on_failure`` says."""
        try:
            yield
        except OpsError as error:
            self.state.failed(error)
            if self.options.on_failure == "exit" or self._server.closed:
                self.kill()
            else:
                self._stay(error)
            raise
        except BaseException:
            self.kill()
            raise

    def _start(self) -> None:
        self._open_metrics()
        ready = self._preparation = prepare(self.options, os.environ, self._compile)
        options = self.options = ready.options
        if self._log_line:
            for warning in ready.warnings:
                self._log_line(f"warning: {warning}")
        is_known = self._is_known = self._is_known if options.verify_fully else trust_stamp(ready.repository)
        self.residency = ResidencyManager(ready.plan, self._report)
        self._rollout_folder = RolloutFolder()
        ready.env.update(self.residency.environment() | self._rollout_folder.environment())
        self._server.provide(ready, options.exit_timeout_s, max(4, len(options.stages) + len(options.pipelines)))
        self._end_phase("preflight", **ready.details)
        with ThreadPoolExecutor(1, thread_name_prefix="verify") as pool:
            verified = pool.submit(verify, ready.served, is_known)
            self._server.open()
        verified.result()
        self._end_server_phase()
        self._load()
        self._end_ready_phase()

    def _compile(self, repository: Path, out: Path, cache: Path | None) -> Path:
        from warmswap_ops.compiling.build import CompileOptions, compile_repository

        say = self._log_line or (lambda line: None)
        options = CompileOptions(repository, out, cache, say=say, is_cancelled=lambda: self._server.closed)
        compiled = compile_repository(options)
        self._end_phase("compiled", **compiled.as_json())
        return compiled.out

    def _open_metrics(self) -> None:
        listener = listen("metrics", self.options.host, self.options.ports.metrics)
        who = (self.state, self._server, self.options.host)
        self._metrics = MetricsServer(listener, lambda: self._metrics_text(who))
        if self._server.closed:
            self._metrics.close()
        self._server.ports = replace(self._server.ports, metrics=self._metrics.port)

    def _metrics_text(self, who: tuple[ReplicaState, TritonServer, str]) -> str:
        repository = self._preparation.repository if self._preparation else None
        return metrics_text(*who, self.options.pipelines, self.residency, repository)

    def _load(self) -> None:
        """Load everything; should the server crash over it, again, one by one, to learn which model and why.

        Triton 24.10 often crashes when it refuses a model, most often while another one loads. A pipeline that refused
        itself has logged why; for the rest, a refusal that does not crash tells more.
        """
        at_once = len(MODELS)
        for attempt in range(1 + CRASH_RESTARTS):
            try:
                self._load_all(at_once)
                return
            except ServerError as error:
                if self._server.process.returncode not in CRASHES:
                    raise
                self._raise_self_test_failure(error)
                if attempt == CRASH_RESTARTS:
                    raise
                self._end_phase("restart", reason=str(error))
                self._server.reopen()
                at_once = 1

    def _raise_self_test_failure(self, crash: ServerError) -> None:
        failure = self._log.self_test_failure()
        if failure is not None:
            raise ModelLoadError(*failure) from crash

    def _load_all(self, at_once: int) -> None:
        options = self.options
        groups = [("stages", options.stages), ("pipelines", options.pipelines)]
        assert self._preparation is not None
        assert self.residency is not None
        configs = self._preparation.replaced_configs()
        all_ms: dict[str, float] = {}
        process = self._server.process
        on_server = (self._server.control(), process.processes, options.load_timeout_s)
        operations = ModelOperations(
            self._preparation.plan, self._is_known, *on_server, config_of=self._preparation.replaced_config
        )
        self.residency.start(operations, loading=options.stages)
        with self._server.control() as control:
            for phase, times in load_models(
                control, groups, options.load_timeout_s, process, at_once, self._log.initialized_s, configs
            ):
                self.state.loaded(times)
                self._end_phase(phase, **load_details(times))
                all_ms |= {model: load.total_ms for model, load in times.items()}
        self.residency.adopt(all_ms)

    def _watch(self) -> None:
        assert self.residency is not None
        while trouble := next_trouble(self._server, self.residency, self._stubs, self._stopping, self._may_be_missed):
            self._recover(trouble)

    def _may_be_missed(self, stub: DeadStub) -> bool:
        """Whether the versions that answer do not need a process that died; it goes with the server's next start."""
        assert self._preparation is not None
        try:
            is_needed = needs(self._preparation.repository, stub)
        except OpsError:
            return False
        if not is_needed and stub.pid not in self._missed:
            self._missed.add(stub.pid)
            self._end_phase("candidate_died", model=stub.model, version=stub.version, reason=stub.reason)
            if self._log_line:
                self._log_line(f"warning: {stub}; version {stub.version} is a candidate, so nothing is started again")
        return not is_needed

    def _recover(self, trouble: Trouble) -> None:
        """Start the server anew: Triton 24.10 cannot replace a process, nor end a model whose process is gone."""
        self.state.not_ready(trouble.culprits[0][0], PROCESS_DIED)
        if not self._limit.allow():
            raise ServerError(f"{trouble.reason}; {self._limit.most} restarts in {WINDOW_S:g} s were enough")
        self._end_phase("recovering", reason=trouble.reason)
        for model, cause in trouble.culprits:
            self.state.restarted(model, cause)
        self._finish_requests(time.monotonic() + RECOVERY_DRAIN_S)
        self._restart_server()
        self._load()
        self._end_ready_phase()

    def _restart_server(self) -> None:
        self._log.passing_on = False
        self._server.reopen()
        self._end_server_phase()

    def _stay(self, failure: OpsError) -> None:
        """Leave an empty server that lives and is not ready, its pipelines refused with the reason of the failure.

        Whatever state the failure left the old one in: Triton 24.10 crashes in every second refused warm-up.
        """
        if not self._server.was_started or self._preparation is None:
            return  # it failed before there was a server
        if self.residency is not None:
            self.residency.drain(is_empty=True)
        with suppress(OpsError):  # the first failure is the one to tell
            self._restart_server()
            with self._server.control() as control:
                refuse_models(control, self.options.pipelines, self._preparation.config, str(failure))

    def _finish_requests(self, deadline_s: float) -> bool:
        """Let the pipelines finish what they have, with their stages still there, and take nothing new."""
        with self._server.control() as control:
            return finish_requests(control, self.options.pipelines, deadline_s, lambda: self._server.closed)

    def _end_server_phase(self) -> None:
        self.state.live(self._stopwatch.total_ms() / 1e3)
        self._end_phase("server", pid=self.pid, **asdict(self.ports), ms_total=self._stopwatch.total_ms())

    def _end_ready_phase(self) -> None:
        assert self._preparation is not None
        self._log.passing_on = True
        self._stubs = StubWatch(self.pid)
        self.state.ready(self._stopwatch.total_ms() / 1e3)
        self._end_phase(
            "ready",
            urls={"grpc": self.grpc_url, "http": f"http://{self.http_url}", "metrics": self.metrics_url},
            versions=self._preparation.versions,
            on_demand=self._preparation.plan.policy.on_demand,
            twins=self._preparation.twins,
            ms_total=self._stopwatch.total_ms(),
        )

    def _end_phase(self, name: str, **details: Any) -> None:
        phase = Phase(name, self._stopwatch.lap_ms(), details)
        self.phases.append(phase)
        if self._report:
            self._report(phase)


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
