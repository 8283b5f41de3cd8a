"""Loads models when a request needs them and unloads them when nobody does.

One worker thread does all loads and unloads, one after the other: a load is single flight by construction, and Triton
24.10 may crash when it refuses one model while another one loads. Requests only ever wait for the worker, with a limit.

    ABSENT -> LOADING -> READY -> UNLOADING -> ABSENT

A *lease* is a request in flight; a model with leases is never unloaded. A *place* is the right to wait for a load: a
pipeline process that waits answers nobody else, so at least one process of each pipeline never waits.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from warmswap_ensemble.manifest import version_dirs
from warmswap_ops.phases import Phase, Report
from warmswap_ops.residency.background import may_reschedule
from warmswap_ops.residency.lease_socket import Answer, LeaseSocket
from warmswap_ops.residency.memory import SERVER, SERVER_BASE_MB, Budget, pss_mb, stub_pids
from warmswap_ops.residency.operations import ModelOperations
from warmswap_ops.residency.policy import Policy
from warmswap_ops.residency.state import LoadState, ModelRecord

if TYPE_CHECKING:
    from warmswap_ops.control import ControlClient

LONGEST_SLEEP_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 1.0


class ResidencyManager:
    """The models of one server. Every method may be called from any thread.

    Attributes:
        in_background: Whether loads run under ``SCHED_IDLE``; false where that cannot be undone.
    """

    def __init__(
        self, repository: Path, policy: Policy, estimates_mb: Mapping[str, float], report: Report | None = None
    ) -> None:
        """Prepare, and open the socket that pipelines will ask at.

        Args:
            repository: Model repository.
            policy: How its models are kept.
            estimates_mb: What each of them will take.
            report: Gets a phase for every load and unload.
        """
        self._repository = repository
        self._policy = policy
        self._report = report
        self._changed = threading.Condition()
        self._models = {
            name: ModelRecord(name, model, estimates_mb[name], _file_mb(repository / name))
            for name, model in policy.models.items()
        }
        self._server_mb = SERVER_BASE_MB
        self._operations: ModelOperations | None = None
        self._connected: Counter[str] = Counter()
        self._waiting: Counter[str] = Counter()
        self._measure = False
        self._draining = False
        self._closed = False
        self.in_background = may_reschedule()
        self._worker = threading.Thread(target=self._work, name="residency", daemon=True)
        self._socket = LeaseSocket(self)

    def environment(self) -> dict[str, str]:
        """Return what the server's processes must find in their environment."""
        return self._socket.environment(self._policy.on_demand)

    def start(self, control: ControlClient, processes: Callable[[], Sequence[int]], load_timeout_s: float) -> None:
        """Begin to serve requests; again when the server had to be started again, with nothing loaded.

        Args:
            control: Connection to the server; closed by this manager.
            processes: Returns the ids of tritonserver, first, and of its stubs.
            load_timeout_s: How long one load may take.
        """
        with self._changed:
            previous = self._operations
            self._operations = ModelOperations(self._repository, control, processes, load_timeout_s)
            for model in self._models.values():
                model.state = LoadState.ABSENT
            if not self._worker.is_alive():
                self._worker.start()
        if previous is not None:
            previous.close()

    def adopt(self, loaded_ms: Mapping[str, float]) -> None:
        """Take note of models that the launcher loaded, and measure them in the background."""
        with self._changed:
            for name, load_ms in loaded_ms.items():
                if name in self._models:
                    self._models[name].succeed(load_ms)
            self._measure = True
            self._changed.notify_all()

    def drain(self) -> None:
        """Load and unload nothing any more; requests in flight keep what they have."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def close(self) -> None:
        """Close the socket and end the worker. Safe to call again."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify_all()
        self._socket.close()
        if self._worker.is_alive() and self._worker is not threading.current_thread():
            self._worker.join(CLOSE_TIMEOUT_S)  # a load may hold it for longer; it ends with the server
        if self._operations is not None:
            self._operations.close()

    def snapshot(self) -> dict[str, Any]:
        """Return the state of every model and of the budget, as plain values."""
        with self._changed:
            return {
                "memory_budget_mb": self._policy.memory_budget_mb,
                "memory_mb": round(self._budget().total_mb, 1),
                "server_mb": round(self._server_mb, 1),
                "in_background": self.in_background,
                "models": {name: model.snapshot() for name, model in self._models.items()},
            }

    def connect(self, pipeline: str) -> None:
        """Count a process of a pipeline."""
        with self._changed:
            self._connected[pipeline] += 1

    def disconnect(self, pipeline: str, leases: Iterable[str]) -> None:
        """Forget a process and what it held."""
        with self._changed:
            self._connected[pipeline] -= 1
            for name in leases:
                self._models[name].leases -= 1
            self._changed.notify_all()

    def acquire(self, name: str, wait_s: float, pipeline: str) -> Answer:
        """Lease a model; where it is not loaded, have it loaded and wait for that if there is a place to wait."""
        with self._changed:
            model = self._models.get(name)
            if model is None or not model.policy.on_demand:
                return Answer("unmanaged")
            answer = self._lease(model) or self._refusal(model)
            if answer is None:
                model.wanted = True
                self._changed.notify_all()
                if wait_s > 0 and self._waiting[pipeline] < self._connected[pipeline] - 1:
                    self._wait(model, wait_s, pipeline)
                    answer = self._lease(model) or self._refusal(model)
            return answer or Answer("loading", estimate_ms=model.estimate_ms())

    def release(self, name: str, *, lost: bool) -> None:
        """Give back a lease.

        Args:
            name: Model.
            lost: The model was not there when it was called: somebody else unloaded it.
        """
        with self._changed:
            model = self._models[name]
            model.leases -= 1
            model.last_used_s = time.monotonic()
            model.suspect = model.suspect or lost
            self._changed.notify_all()

    def _lease(self, model: ModelRecord) -> Answer | None:
        if not model.ready:
            return None
        model.leases += 1
        model.used = True
        model.last_used_s = time.monotonic()
        return Answer("ready")

    def _wait(self, model: ModelRecord, wait_s: float, pipeline: str) -> None:
        started_s, failed_loads = time.monotonic(), model.failed_loads
        self._waiting[pipeline] += 1
        model.waiting += 1
        try:
            self._changed.wait_for(lambda: model.ready or model.failed_loads > failed_loads or self._draining, wait_s)
        finally:
            self._waiting[pipeline] -= 1
            model.waiting -= 1
            model.waits += 1
            model.wait_ms_sum += (time.monotonic() - started_s) * 1e3

    def _refusal(self, model: ModelRecord) -> Answer | None:
        if self._draining:
            return Answer("busy", reason=f"{model.name} is not loaded, and the server is stopping; try another one")
        alone = self._budget(only=model)
        if not alone.fits:
            return Answer("refused", reason=f"{model.name} does not fit into memory: {alone}")
        wait_s = model.retry_at_s - time.monotonic()
        if model.failure is not None and wait_s > 0:
            again = f"the next attempt is possible in {wait_s:.1f} s"
            return Answer("refused", reason=f"{model.name} could not be loaded ({model.failure}); {again}")
        return None

    def _budget(self, only: ModelRecord | None = None) -> Budget:
        """Return what is loaded, or what would be with only one of the models that are loaded on demand."""
        counted = [
            model
            for model in self._models.values()
            if model is only or (model.loaded and (only is None or not model.policy.on_demand))
        ]
        parts = {SERVER: self._server_mb, **{model.name: model.memory_mb for model in counted}}
        return Budget(parts, self._policy.memory_budget_mb)

    def _work(self) -> None:
        while True:
            with self._changed:
                job = self._next_job()
                if job is None:
                    return
            try:
                job()
            except Exception as error:  # most often the server is going away, and the launcher says so
                if self._report and not self._closed:
                    self._report(Phase("residency_fault", None, {"error": f"{type(error).__name__}: {error}"}))

    def _next_job(self) -> Callable[[], None] | None:
        """Wait for something to do; ``None`` = the manager is closed."""
        while not self._closed:
            if self._draining:
                self._changed.wait()
                continue
            if self._measure:
                self._measure = False
                return self._measure_all
            for model in self._models.values():
                if model.suspect:
                    return lambda model=model: self._check(model)  # type: ignore[misc]
            for model in self._models.values():
                if model.wanted and model.state is LoadState.READY:
                    model.wanted = False
                job = self._job_towards(model) if model.wanted else None
                if job is not None:
                    return job
            sleep_s = LONGEST_SLEEP_S
            for model in self._models.values():
                if model.idle:
                    left_s = model.idle_left_s()
                    if left_s <= 0:
                        model.state = LoadState.UNLOADING
                        return lambda model=model: self._unload(model, "idle")  # type: ignore[misc]
                    sleep_s = min(sleep_s, left_s)
            self._changed.wait(sleep_s)
        return None

    def _job_towards(self, model: ModelRecord) -> Callable[[], None] | None:
        """Return the next step to a wanted model: make room, or load; ``None`` = nothing can be done now."""
        if self._refusal(model) is not None:
            model.wanted = False
            return None
        budget = self._budget()
        needed = Budget({**budget.parts, model.name: model.memory_mb}, budget.limit_mb)
        if needed.fits:
            model.state = LoadState.LOADING
            model.load_started_s = time.monotonic()
            return lambda: self._load(model)
        victims = sorted(
            (other for other in self._models.values() if other.idle and other is not model),
            key=lambda other: (other.policy.priority, other.last_used_s),
        )
        if not victims:  # the others are in use; a lease that is given back wakes the worker
            return None
        victims[0].state = LoadState.UNLOADING
        return lambda: self._unload(victims[0], "memory")

    def _load(self, model: ModelRecord) -> None:
        operations = self._server_operations
        try:
            operations.load(model.name, in_background=self.in_background)
        except Exception as error:  # whatever it is, it is this model's trouble alone
            with self._changed:
                model.wanted = False
                model.fail(str(error))
                self._changed.notify_all()
            self._tell("on_demand_load", model, None, {"error": str(error)})
            return
        load_ms = (time.monotonic() - model.load_started_s) * 1e3
        with self._changed:
            model.wanted = False
            model.succeed(load_ms)
            self._changed.notify_all()
        self._measure_model(model, stub_pids(operations.processes()))
        self._tell("on_demand_load", model, load_ms, {"memory_mb": round(model.memory_mb)})

    def _unload(self, model: ModelRecord, reason: str) -> None:
        started_s = time.monotonic()
        try:
            self._server_operations.unload(model.name)
        finally:
            with self._changed:
                model.state = LoadState.ABSENT
                model.unloads[reason] += 1
                self._changed.notify_all()
        self._tell("on_demand_unload", model, (time.monotonic() - started_s) * 1e3, {"reason": reason})

    def _check(self, model: ModelRecord) -> None:
        """Find out whether a model is there that a request did not find."""
        with self._changed:
            model.suspect = False
        ready = self._server_operations.is_ready(model.name)
        with self._changed:
            if not ready and model.state is LoadState.READY:
                model.state = LoadState.ABSENT
                model.unloads["elsewhere"] += 1

    @property
    def _server_operations(self) -> ModelOperations:
        assert self._operations is not None, "the worker runs when there is a server"
        return self._operations

    def _measure_all(self) -> None:
        pids = self._server_operations.processes()
        by_model = stub_pids(pids)
        server_mb = pss_mb(pids[:1])
        with self._changed:
            self._server_mb = server_mb or self._server_mb
        for model in self._models.values():
            self._measure_model(model, by_model)
        with self._changed:
            budget = self._budget()
        if not budget.fits and self._report:
            self._report(Phase("over_budget", None, {"reason": str(budget)}))

    def _measure_model(self, model: ModelRecord, by_model: Mapping[str, list[int]]) -> None:
        measured_mb = pss_mb(by_model.get(model.name, ()))
        if measured_mb:
            with self._changed:
                model.memory_mb, model.measured = measured_mb, True

    def _tell(self, phase: str, model: ModelRecord, ms: float | None, details: Mapping[str, Any]) -> None:
        if self._report and not self._closed:
            self._report(Phase(phase, ms, {"model": model.name, **details}))


def _file_mb(model_dir: Path) -> float:
    return sum(path.stat().st_size for folder in version_dirs(model_dir) for path in folder.glob("*.onnx*")) / 1e6
