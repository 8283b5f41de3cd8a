"""``warmswap rollout`` as a process of its own, and a replica under light traffic to roll out on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.pictures import COLLINS, HOPPER
from tests.e2e.repositories import copy_repository
from tests.e2e.serve import WAIT_S, WARMSWAP
from warmswap_loadtests.rollouts.traffic import Traffic
from warmswap_ops.launcher import LocalTriton

# The trial compares a few times, which on a busy machine lie apart; its limit is tested with the default plan.
PLAN = """
soak_s = {soak_s}
interval_s = 0.3
patience_ms = 3000
unreachable_s = 3
[trial]
max_p50_ratio = 20
[shadow]
share = {shadow}
duration_s = 1
min_samples = 4
max_duration_s = 40
[gates]
strict = false
[[steps]]
weight_percent = 50
soak_s = {step_s}
min_samples = 6
max_soak_s = 60
[[steps]]
weight_percent = 100
soak_s = {step_s}
min_samples = 3
max_soak_s = 60
"""
PER_S = 5.0
LEASE_S = 2.0


def write_plan(folder: Path, *, shadow: float = 0.5, step_s: float = 1.0, soak_s: float = 1.0) -> Path:
    path = folder / f"plan-{shadow}-{step_s}-{soak_s}.toml"
    path.write_text(PLAN.format(shadow=shadow, step_s=step_s, soak_s=soak_s))
    return path


class Tool:
    """One run of the command; killed at the end of the ``with`` block, should it still run."""

    def __init__(self, *arguments: str | Path, env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [WARMSWAP, "rollout", *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.events: list[dict[str, Any]] = []
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._read), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.end()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self._errors.extend(self._process.stderr)

    def wait_for(
        self, event: str, fits: Callable[[dict[str, Any]], bool] = lambda found: True, or_phase: str = ""
    ) -> dict[str, Any]:
        """Wait for an event; or for a rollout that is in that phase already when it is taken over."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            ended = self._process.poll() is not None
            for found in list(self.events):
                if found.get("event") == event and fits(found):
                    return found
                if or_phase and found.get("phase") == or_phase:
                    return found
            assert not ended, f"ended without {event}: {self.error()}"
            time.sleep(0.02)
        raise AssertionError(f"no {event} in {self.events}")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(WAIT_S)

    def end(self) -> int:
        code = self._process.wait(WAIT_S)
        for reader in self._readers:
            reader.join(WAIT_S)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
        return code

    def error(self) -> str:
        """Return the message on standard error, once it has ended."""
        self.end()
        lines = [line for line in self._errors if line.startswith("{")]
        return str(json.loads(lines[-1])["error"]["message"]) if lines else "".join(self._errors)

    def names(self) -> list[str]:
        return [str(event.get("event")) for event in self.events]


def rollout(*arguments: str | Path, env: dict[str, str] | None = None) -> Tool:
    """Run the command to its end."""
    with Tool(*arguments, env=env) as tool:
        tool.end()
    return tool


class Site:
    """A replica on a copy of the repository."""

    def __init__(self, server: LocalTriton, repository: Path, work: Path) -> None:
        self.server = server
        self.repository = repository
        self.work = work

    @property
    def at(self) -> list[str]:
        return ["--replica", self.server.grpc_url, "--lease", str(LEASE_S)]

    def traffic(self, per_s: float = PER_S, key_of: Callable[[int], str] = lambda number: "") -> Traffic:
        grpc, http = [f"grpc://{self.server.grpc_url}"], [f"http://{self.server.http_url}"]
        return Traffic(grpc, http, [(COLLINS, HOPPER), (HOPPER, COLLINS)], per_s, key_of)

    def versions(self, model: str) -> list[str]:
        return sorted(path.name for path in (self.repository / model).iterdir() if path.name.isdecimal())

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.repository / "rollout.json").read_text())
        return found

    def serving(self, model: str) -> set[str]:
        with self.server.control() as control:
            return {entry.version for entry in control.index() if entry.name == model and entry.state == "READY"}


@contextmanager
def site(folder: Path, **options: Any) -> Iterator[Site]:
    """Start a replica, and watch over it as ``warmswap serve`` does."""
    repository = copy_repository(folder / "model_repository")
    with LocalTriton(repository, **options) as server:
        watching = threading.Thread(target=server.watch, daemon=True)
        watching.start()
        yield Site(server, repository, folder)
    watching.join(WAIT_S)


def assert_nothing_lost(traffic: Traffic, least: int = 5) -> None:
    assert len(traffic.sent) >= least, len(traffic.sent)
    assert not traffic.failed, traffic.failed
    assert not traffic.flaps, traffic.flaps
    assert traffic.probes > 0


def shown(events: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event.get("event") == name]
