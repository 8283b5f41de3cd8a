"""Loads models when a request needs them and unloads them when nobody does.

One worker thread does all loads and unloads, one after the other: a load is single flight by construction, and Triton
24.10 may crash when it refuses one model while another one loads. Requests only ever wait for the worker, with a limit.

    ABSENT -> LOADING -> READY -> UNLOADING -> ABSENT

A *lease* is a request in flight; a model with leases is never unloaded. A *place* is the right to wait for a load: a
pipeline process that waits answers nobody else, so at least one process of each pipeline never waits.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from warmswap_ops.errors import ServerUnreachableError
from warmswap_ops.phases import Phase, Report
from warmswap_ops.residency.background import may_reschedule
from warmswap_ops.residency.lease_socket import Answer, LeaseSocket
from warmswap_ops.residency.memory import SERVER, SERVER_BASE_MB, Budget, pss_mb, stub_pids
from warmswap_ops.residency.operations import ModelOperations
from warmswap_ops.residency.planning import ResidencyPlan
from warmswap_ops.residency.state import CRASH_BACKOFF_S, LoadState, ModelRecord, memory_parts_mb, victims

LONGEST_SLEEP_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 1.0
CRASH_DELAY_S: Final = 2.0  # so long after a refused load Triton may crash over it, and the launcher notice a crash
_NOTHING: Final = ("", 0.0)


class ResidencyManager:
    """The models of one server. Every method may be called from any thread.

    Attributes:
        in_background: Whether loads run under ``SCHED_IDLE``; false where that cannot be undone.
    """

    def __init__(self, plan: ResidencyPlan, report: Report | None = None) -> None:
        """Prepare, and open the socket that pipelines will ask at.

        Args:
            plan: What there is to load, and how it is kept.
            report: Gets a phase for every load and unload.
        """
        self._policy = plan.policy
        self._report = report
        self._changed = threading.Condition()
        self._models = {
            name: ModelRecord(name, model, plan.estimates_mb[name], plan.file_mb[name])
            for name, model in plan.policy.models.items()
        }
        self._server_mb = SERVER_BASE_MB
        self._operations: ModelOperations | None = None
        self._unfinished = _NOTHING
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

    @property
    def unfinished(self) -> str | None:
        """The model whose load goes on, was cut short by the server's end, or has just failed."""
        name, until_s = self._unfinished
        return name if time.monotonic() < until_s else None

    def start(self, operations: ModelOperations, loading: Sequence[str] = ()) -> None:
        """Begin to serve requests; again when the server had to be started again, with nothing loaded.

        Args:
            operations: On the server; closed by this manager.
            loading: Models that the launcher is about to load itself, see ``adopt``.
        """
        with self._changed:
            previous = self._operations
            self._operations = operations
            self._unfinished = _NOTHING
            for model in self._models.values():
                model.server_is_new()
                if model.policy.on_demand and model.name in loading:
                    model.start_loading()
            self._changed.notify_all()
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

    def crashed(self, name: str, reason: str) -> None:
        """Note that the server died of loading a model, which is not tried again soon."""
        with self._changed:
            self._models[name].fail(reason, CRASH_BACKOFF_S)
            self._changed.notify_all()

    def drain(self, *, is_empty: bool = False) -> None:
        """Load and unload nothing any more; requests in flight keep what they have. ``is_empty``: nothing is left."""
        with self._changed:
            self._draining = True
            for model in self._models.values() if is_empty else ():
                model.server_is_new()
            self._changed.notify_all()

    def close(self) -> None:
        """Close the socket and end the worker. Safe to call again."""
        with self._changed:
            self._draining = self._closed = True
            self._changed.notify_all()
        self._socket.close()
        if self._operations is not None:
            self._operations.close()  # ends the call that the worker may wait for
        if self._worker.is_alive() and self._worker is not threading.current_thread():
            self._worker.join(CLOSE_TIMEOUT_S)

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
            return answer or self._no_room(model) or Answer("loading", estimate_ms=model.estimate_ms())

    def release(self, name: str, *, lost: bool) -> None:
        """Give back a lease; ``lost``: the model was not there when it was called, somebody else unloaded it."""
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
        failed_loads = model.failed_loads
        self._waiting[pipeline] += 1
        with model.waited_for():
            self._changed.wait_for(lambda: model.ready or model.failed_loads > failed_loads or self._draining, wait_s)
        self._waiting[pipeline] -= 1

    def _refusal(self, model: ModelRecord) -> Answer | None:
        if self._draining:
            return Answer("busy", reason=f"{model.name} is not loaded, and the server is stopping; try another one")
        alone = self._budget(only=model)
        if not alone.fits:
            return Answer("refused", reason=f"{model.name} does not fit into memory: {alone}")
        failure = model.recent_failure()
        return Answer("refused", reason=failure) if failure else None

    def _no_room(self, model: ModelRecord) -> Answer | None:
        """Return why a model cannot be loaded before requests end; ``None`` = it is loaded, or room is made."""
        needed, models = self._budget(beside=model), self._models.values()
        if model.loaded or needed.fits or victims(models, model) or any(other.leaves for other in models):
            return None
        return Answer("busy", reason=f"no room for {model.name} beside the models that are in use: {needed}; try again")

    def _budget(self, *, only: ModelRecord | None = None, beside: ModelRecord | None = None) -> Budget:
        """Return what is loaded; or would be with one model more, or with only that of those loaded on demand."""
        parts_mb = {SERVER: self._server_mb, **memory_parts_mb(self._models.values(), only, beside)}
        return Budget(parts_mb, self._policy.memory_budget_mb)

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
                job = self._job_towards(model) if model.wanted and not model.loaded else None
                if job is not None:
                    return job
            sleep_s = LONGEST_SLEEP_S
            for model in self._models.values():
                sleep_s = min(sleep_s, model.promised_s() or sleep_s)  # then it may make room
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
        if self._budget(beside=model).fits:
            model.start_loading()
            self._unfinished = (model.name, math.inf)
            return lambda: self._load(model)
        possible = victims(self._models.values(), model)
        if not possible:  # the others are in use, or promised; a lease that is given back wakes the worker
            return None
        possible[0].state = LoadState.UNLOADING
        return lambda: self._unload(possible[0], "memory")

    def _load(self, model: ModelRecord) -> None:
        operations = self._server_operations
        try:
            operations.load(model.name, in_background=self.in_background)
        except Exception as error:  # whatever it is, it is this model's trouble alone
            with self._changed:
                if operations is not self._operations:  # the server is another one, and so is the state
                    return
                if isinstance(error, ServerUnreachableError):  # the server's trouble: ``start`` comes, or the end
                    model.server_is_new()
                    if not self._changed.wait_for(
                        lambda: self._closed or operations is not self._operations, CRASH_DELAY_S
                    ):
                        self._unfinished = _NOTHING  # it is there after all
                else:
                    self._unfinished = (model.name, time.monotonic() + CRASH_DELAY_S)
                    model.fail(str(error))
                self._changed.notify_all()
            self._tell("on_demand_load", model, None, {"error": str(error)})
            return
        load_ms = (time.monotonic() - model.load_started_s) * 1e3
        with self._changed:
            if operations is not self._operations:
                return
            self._unfinished = _NOTHING
            model.succeed(load_ms)
            self._changed.notify_all()
        self._measure_models([model], operations.processes())
        self._tell("on_demand_load", model, load_ms, {"memory_mb": round(model.memory_mb)})

    def _unload(self, model: ModelRecord, reason: str) -> None:
        started_s, operations = time.monotonic(), self._server_operations
        try:
            operations.unload(model.name)
        finally:
            with self._changed:
                if operations is self._operations:
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
        server_mb = pss_mb(pids[:1])
        with self._changed:
            self._server_mb = server_mb or self._server_mb
        self._measure_models(self._models.values(), pids)
        with self._changed:
            budget = self._budget()
        if not budget.fits and self._report:
            self._report(Phase("over_budget", None, {"reason": str(budget)}))

    def _measure_models(self, models: Iterable[ModelRecord], pids: Sequence[int]) -> None:
        by_model = stub_pids(pids)
        for model in models:
            if measured_mb := pss_mb(by_model.get(model.name, ())):
                with self._changed:
                    model.memory_mb, model.measured = measured_mb, True

    def _tell(self, phase: str, model: ModelRecord, ms: float | None, details: Mapping[str, Any]) -> None:
        if self._report and not self._closed:
            self._report(Phase(phase, ms, {"model": model.name, **details}))
