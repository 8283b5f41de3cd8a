"""The life of a replica in the foreground: start, wait, drain, stop; also as process 1 of a container.

The start runs in a thread and everything arrives in one queue, so a signal is answered at once whatever the start is
doing. As process 1, Python must install handlers (the kernel drops signals without one) and reap orphans.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import Final

from warmswap_ops.errors import OpsError
from warmswap_ops.launcher import Launcher, LaunchOptions
from warmswap_ops.phases import Phase, Stopwatch, process_start_s
from warmswap_ops.serve_log import ServeLog
from warmswap_ops.stop_signals import EventQueue, StopSignal
from warmswap_ops.termination_log import write_termination_log

REAP_INTERVAL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Ready:
    pass


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


@dataclass(frozen=True, slots=True)
class _Stopped:
    finished: bool


_Event = StopSignal | _Ready | _Failed | _Stopped


class ServeLoop:
    """One replica in the foreground."""

    def __init__(self, options: LaunchOptions, log: ServeLog, events: EventQueue, drain_delay_s: float = 0.0) -> None:
        """Prepare.

        Args:
            options: What to serve, and how.
            log: Gets phases and lines.
            events: Where stop signals arrive (see ``stop_signals``).
            drain_delay_s: How long to go on serving after a signal, until no endpoint leads here.
        """
        self._log = log
        self._report = log.phase
        self._drain_delay_s = drain_delay_s
        self._events = events
        self._is_ready = False
        self._on_failure = options.on_failure
        self._launcher = Launcher(options, log.phase, log.launcher_line, Stopwatch(process_start_s()), log.triton_line)

    def run(self) -> int:
        """Serve until a signal; return the exit code.

        Raises:
            OpsError: the start failed, or what was started could not be kept serving; not with ``--on-failure stay``.
        """
        starter = threading.Thread(target=self._start, name="start", daemon=True)
        starter.start()
        try:
            return self._until_ready()
        except OpsError as error:
            stays = self._on_failure == "stay"
            write_termination_log(str(error), os.environ)
            self._report(Phase("failed", None, {"error": str(error), "exit_code": error.exit_code, "stays": stays}))
            if not stays:
                raise
            return self._stay_unready(error)
        finally:
            self._launcher.kill()
            starter.join(timeout=5.0)
            _reap_orphans()
            self._log.close()

    def _start(self) -> None:
        try:
            self._launcher.start()
        except BaseException as error:  # it is raised again by the main thread
            self._events.put(_Failed(error))
            return
        self._events.put(_Ready())
        try:
            self._launcher.watch()
        except BaseException as error:
            self._events.put(_Failed(error))

    def _until_ready(self) -> int:
        match self._next():
            case StopSignal() as stop:
                self._launcher.kill()
                self._report(Phase("stopped", None, {"reason": f"{stop.name} during the start"}))
                return 0
            case _Failed(error):
                raise error
            case _:
                self._is_ready = True
                return self._until_signal()

    def _until_signal(self) -> int:
        match self._next():
            case StopSignal() as stop:
                return self._drain(stop)
            case _Failed(error):
                raise error
            case event:
                raise AssertionError(f"unexpected {event}")

    def _stay_unready(self, error: OpsError) -> int:
        """Keep what the failure has left: the metrics, and an empty server that gives the reason."""
        self._log.launcher_line(
            f"not ready: {error}; staying for a look (--on-failure stay), until a signal comes", "error"
        )
        while not isinstance(event := self._next(), StopSignal):
            pass
        self._launcher.kill()
        self._report(Phase("stopped", None, {"reason": f"{event.name} while not ready"}))
        return 0

    def _drain(self, stop: StopSignal) -> int:
        stopwatch = Stopwatch()
        self._on_failure = "exit"  # it was told to end: a failure must not make it stay
        self._report(Phase("draining", None, {"reason": stop.name, "delay_s": self._drain_delay_s}))
        event = self._next(self._drain_delay_s)
        if isinstance(event, _Failed):  # it was serving still
            raise event.error
        if event is None:
            threading.Thread(target=self._stop, name="stop", daemon=True).start()
            event = self._next()
            while isinstance(event, _Failed):  # of a restart that the stop has cut short
                event = self._next()
        self._launcher.kill()
        if isinstance(event, StopSignal):
            self._report(Phase("stopped", stopwatch.total_ms(), {"reason": f"killed by a second {event.name}"}))
            return 128 + event.number
        in_time = isinstance(event, _Stopped) and event.finished
        reason = "all requests finished" if in_time else "some requests did not finish in time"
        self._report(Phase("stopped", stopwatch.total_ms(), {"reason": reason}))
        return 0

    def _stop(self) -> None:
        self._events.put(_Stopped(self._launcher.stop()))

    def _next(self, timeout_s: float | None = None) -> _Event | None:
        """Return the next event, or ``None`` when the time is up; process 1 reaps orphans meanwhile.

        Not during the start, whose own children must be left to it.
        """
        reap = os.getpid() == 1 and self._is_ready
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            remaining_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            step_s = min(REAP_INTERVAL_S, remaining_s if remaining_s is not None else REAP_INTERVAL_S)
            try:
                event: _Event = self._events.get(timeout=step_s if reap else remaining_s)
            except queue.Empty:
                if remaining_s is not None and remaining_s <= step_s:
                    return None
                _reap_orphans(except_pid=self._launcher.pid)
            else:
                return event


def _reap_orphans(except_pid: int | None = None) -> None:
    """Reap dead processes that the kernel gave to process 1; the server itself is left to its ``Popen``."""
    if os.getpid() != 1:
        return
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == except_pid:
            return
        os.waitpid(found.si_pid, 0)
