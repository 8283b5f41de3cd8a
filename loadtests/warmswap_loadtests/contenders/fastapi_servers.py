"""The baselines: FastAPI on uvicorn, over the pipeline and the ONNX files that Triton serves too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from warmswap_loadtests.contenders.baseline_model import REPOSITORY_VARIABLE, TUNING
from warmswap_loadtests.contenders.contender import HOST, Command, contender_environment
from warmswap_loadtests.contenders.wire import FormWire, Wire


class FastApiServer:
    """One of the two applications in this package; see ``Contender``."""

    def __init__(self, name: str, app: str, live_path: str, ready_path: str, summary: str) -> None:
        """Say which application, and where its probes are."""
        self.name, self.summary = name, summary
        self.live_path, self.ready_path = live_path, ready_path
        self.wire: Wire = FormWire()
        self._app = f"warmswap_loadtests.contenders.{app}:app"
        self._repository = Path()

    def prepare(self, repository: Path, work: Path) -> dict[str, Any]:
        """As in ``Contender``."""
        self._repository = repository.resolve()
        return {"tuning": str(TUNING)}

    def command(self, port: int) -> Command:
        """As in ``Contender``."""
        options = ["--host", HOST, "--port", str(port), "--log-level", "warning", "--no-access-log"]
        env = {**contender_environment(), REPOSITORY_VARIABLE: str(self._repository)}
        return Command([sys.executable, "-m", "uvicorn", self._app, *options], env)

    def files(self) -> list[Path]:
        """As in ``Contender``."""
        return [self._repository]


def naive() -> FastApiServer:
    """Return the server whose first request loads the model."""
    summary = "FastAPI and uvicorn, the first request loads the models, /health always says ok"
    return FastApiServer("naive", "naive_app", "/health", "/health", summary)


def preloading() -> FastApiServer:
    """Return the server that is ready when it has loaded the model and run it once."""
    summary = "FastAPI and uvicorn, loads the models and runs them once at start, /readyz says when"
    return FastApiServer("preloading", "preloading_app", "/healthz", "/readyz", summary)
