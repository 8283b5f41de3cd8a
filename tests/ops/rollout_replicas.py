"""Replicas without a server: the real agent on a real repository, behind the tool's own ``Replica``.

Only Triton is played: it knows what is loaded, and each version that is has a process that calls itself its stub.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from tests.ops.serve_process import eventually
from warmswap_ensemble.manifest import version_dirs
from warmswap_ensemble.routes import (
    CONTROL_DIGEST_VARIABLE,
    PYTHON_VARIABLE,
    ROLLOUT_FOLDER_VARIABLE,
    SERVED_REPOSITORY_VARIABLE,
    Routes,
)
from warmswap_ops.access import OPEN
from warmswap_ops.control import DEFAULT_LOAD_TIMEOUT_S, DEFAULT_TIMEOUT_S, ControlClient, ModelState
from warmswap_ops.errors import ControlError, ModelLoadError, ServerUnreachableError
from warmswap_ops.rollout.agent import Agent
from warmswap_ops.rollout.calls import Arrays, ModelCaller, bytes_array
from warmswap_ops.rollout.fleet import Fleet
from warmswap_ops.rollout.replica import AGENT, Replica
from warmswap_ops.rollout.state_file import routes_of

REPOSITORY = Path(__file__).parents[2] / "model_repository"
STUB = "/backends/python/triton_python_backend_stub"
TRIAL = """\
#!/bin/sh
for job; do :; done
outcome=$(printf %s "$job" | sed 's/.*"outcome": "\\([^"]*\\)".*/\\1/')
echo '{answer}' > "$outcome"
"""
"""An interpreter that knows one program only: the trial, whose outcome is known beforehand."""


class PlayedTriton(ControlClient):
    """The control API of a server that is played.

    Attributes:
        is_up: Whether it can be reached.
        refuses: Why it loads nothing; empty = it loads everything.
        loads: Models in the order in which they were loaded.
    """

    def __init__(self, repository: Path) -> None:
        self.is_up = True
        self.refuses = ""
        self.loads: list[str] = []
        self._repository = repository
        self._stubs: dict[tuple[str, int], subprocess.Popen[bytes]] = {}

    def close(self) -> None:
        self.stop()

    def stop(self) -> None:
        """End all processes, as a crash of the server does."""
        for model, version in list(self._stubs):
            self.end(model, version)

    def start(self, model: str, version: int) -> None:
        if (model, version) in self._stubs:
            return
        path = self._repository / model / str(version) / "model"
        silent = subprocess.DEVNULL
        stub = subprocess.Popen(
            [STUB, path, "-"], executable="/bin/cat", stdin=subprocess.PIPE, stdout=silent, stderr=silent
        )
        assert eventually(lambda: Path(f"/proc/{stub.pid}/cmdline").read_bytes().startswith(STUB.encode()))
        self._stubs[model, version] = stub

    def end(self, model: str, version: int) -> None:
        self.kill(model, version)
        del self._stubs[model, version]

    def kill(self, model: str, version: int) -> None:
        """End a process; the server believes that it is there still."""
        stub = self._stubs[model, version]
        stub.kill()
        stub.communicate()

    def ready(self, model: str) -> set[int]:
        return {version for name, version in self._stubs if name == model}

    def check(self) -> None:
        if not self.is_up:
            raise ServerUnreachableError("nobody there")

    def load(
        self,
        model: str,
        config: Mapping[str, Any] | None = None,
        timeout_s: float = DEFAULT_LOAD_TIMEOUT_S,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        self.check()
        if self.refuses:
            raise ModelLoadError(model, self.refuses)
        self.loads.append(model)
        if model == AGENT:
            return
        there = [int(path.name) for path in version_dirs(self._repository / model)]
        wanted = config["version_policy"]["specific"]["versions"] if config else there[-1:]
        for version in wanted:
            if version not in there:
                raise ModelLoadError(model, f"there is no version {version}")
            self.start(model, version)
        for version in self.ready(model) - set(wanted):
            self.end(model, version)

    def unload(self, model: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.check()
        for version in self.ready(model):
            self.end(model, version)

    def index(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[ModelState]:
        self.check()
        return [ModelState(model, str(version), "READY", "") for model, version in self._stubs]

    def model_config(self, model: str, timeout_s: float = DEFAULT_TIMEOUT_S) -> dict[str, Any]:
        self.check()
        return {"name": model}


class AgentCaller(ModelCaller):
    """Calls the agent, as JSON, without a wire."""

    def __init__(self, agent: Agent, triton: PlayedTriton) -> None:
        self._agent = agent
        self._triton = triton
        self.before: Callable[[Mapping[str, Any]], None] = lambda question: None
        self.after: Callable[[Mapping[str, Any]], None] = lambda question: None

    def close(self) -> None:
        self._agent.close()

    def infer(
        self, model: str, inputs: Arrays, output_names: Sequence[str], *, version: str = "", timeout_s: float = 30.0
    ) -> dict[str, NDArray[Any]]:
        self._triton.check()
        if model not in self._triton.loads:
            raise ControlError(f"Request for unknown model: '{model}' is not found")
        question = json.loads(inputs["call"].reshape(-1)[0])
        self.before(question)
        data = inputs["data"].reshape(-1)[0] if "data" in inputs else b""
        answer = json.dumps(self._agent.call(question, data)).encode()
        self.after(question)
        return {"answer": bytes_array(answer)}


class LocalReplica(Replica):
    """A replica of this process."""

    def __init__(self, folder: Path, models: Iterable[str], trial: str) -> None:
        self.address = folder.name
        self.repository = folder / "model_repository"
        self.observed = folder / "observed"
        self.observed.mkdir(parents=True)
        python = folder / "python"
        python.write_text(TRIAL.replace("{answer}", trial))
        python.chmod(0o755)
        environ = {
            SERVED_REPOSITORY_VARIABLE: str(self.repository),
            ROLLOUT_FOLDER_VARIABLE: str(self.observed),
            CONTROL_DIGEST_VARIABLE: "",
            PYTHON_VARIABLE: str(python),
        }
        self.triton = PlayedTriton(self.repository)
        self.agent = Agent(environ, os.getpid())
        self.caller = AgentCaller(self.agent, self.triton)
        self._access, self._control, self._caller = OPEN, self.triton, self.caller
        for model in models:
            shutil.copytree(REPOSITORY / model, self.repository / model, ignore=shutil.ignore_patterns("__pycache__"))
            self.triton.start(model, 1)

    @property
    def routes(self) -> Routes:
        return routes_of(self.repository)

    def versions(self, model: str) -> list[int]:
        """Return what is on disk."""
        return [int(path.name) for path in version_dirs(self.repository / model)]

    def observe(self, *lines: Mapping[str, Any]) -> None:
        """Add what a pipeline has observed of the rollout under way."""
        with (self.observed / f"{self.routes.record['id']}.face_swap.1.observed").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


class LocalFleet(Fleet):
    """Replicas of this process; closed at the end of the ``with`` block."""

    def __init__(
        self, folder: Path, names: str = "ab", models: Iterable[str] = ("face_detector",), trial: str = '{"ok": true}'
    ) -> None:
        self.local = [LocalReplica(folder / name, models, trial) for name in names]
        super().__init__(self.local)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
