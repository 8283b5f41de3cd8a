"""Triton as its documentation starts it, and warmswap."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

from warmswap_ensemble.contract import FACE_SWAP, MODELS
from warmswap_loadtests.contenders.contender import HOST, Command, contender_environment
from warmswap_loadtests.contenders.wire import TritonWire, Wire
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.linked_repository import link_model
from warmswap_ops.backend_folder import provide_backend_folder
from warmswap_ops.ports import Ports, choose_ports
from warmswap_ops.shared_memory import SharedMemory
from warmswap_ops.triton_install import find_triton, server_environment

COMPILE_TIMEOUT_S: Final = 3600.0


class TritonDocumented:
    """``tritonserver --model-repository=...``: all models at start, auto-complete, no warm-up; see ``Contender``."""

    def __init__(self) -> None:
        """Prepare nothing yet."""
        self.name = "triton-documented"
        self.summary = "tritonserver --model-repository=R: loads all at start, auto-complete on, no warm-up"
        self.live_path, self.ready_path = "/v2/health/live", "/v2/health/ready"
        self.wire: Wire = TritonWire()
        self._folder, self._repository = Path(), Path()

    def prepare(self, repository: Path, work: Path) -> dict[str, Any]:
        """As in ``Contender``."""
        self._repository, self._folder = repository.resolve(), work.resolve() / "model_repository"
        for model in MODELS:
            link_model(self._repository / model, self._folder, warmup=False)
        return {"triton": find_triton().version}

    def command(self, port: int) -> Command:
        """As in ``Contender``."""
        install = find_triton()
        backends = provide_backend_folder(install, os.environ)
        shared_memory = SharedMemory()
        ports = choose_ports(HOST, Ports(port, 0, 0))

        def clean_up() -> None:
            shared_memory.remove()
            backends.remove()

        argv = [
            str(install.server),
            f"--model-repository={self._folder}",
            f"--backend-directory={backends.path}",
            f"--backend-config=python,shm-region-prefix-name={shared_memory.prefix}",
            f"--http-address={HOST}",
            f"--grpc-address={HOST}",
            f"--metrics-address={HOST}",
            f"--http-port={ports.http}",
            f"--grpc-port={ports.grpc}",
            f"--metrics-port={ports.metrics}",
        ]
        return Command(argv, server_environment(install, contender_environment()), clean_up)

    def files(self) -> list[Path]:
        """As in ``Contender``."""
        return [self._repository]


class Warmswap:
    """``warmswap serve``; see ``Contender``."""

    def __init__(self, *, compiled: bool) -> None:
        """Say whether the repository is compiled for this machine beforehand."""
        self.live_path, self.ready_path = "/v2/health/live", f"/v2/models/{FACE_SWAP.name}/ready"
        self.name = "warmswap-compiled" if compiled else "warmswap"
        self.summary = (
            "warmswap serve on what warmswap compile made"
            if compiled
            else "warmswap serve on the repository as exported"
        )
        self.wire: Wire = TritonWire()
        self._compiled = compiled
        self._repository = Path()

    def prepare(self, repository: Path, work: Path) -> dict[str, Any]:
        """As in ``Contender``."""
        self._repository = repository.resolve()
        if not self._compiled:
            return {}
        self._repository = work.resolve() / "compiled"
        folders = ["--repository", str(repository.resolve()), "--out", str(self._repository)]
        command = [*_WARMSWAP, "compile", *folders, "--cache", str(work.resolve() / "cache")]  # of its own: empty
        begin_s = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise BenchError(f"warmswap compile failed with code {done.returncode}: {done.stderr.strip()[-500:]}")
        return {"compile_s": time.monotonic() - begin_s}

    def command(self, port: int) -> Command:
        """As in ``Contender``."""
        options = ["--host", HOST, "--http-port", str(port), "--grpc-port", "0", "--metrics-port", "0"]
        argv = [sys.executable, "-m", "warmswap_ops", "--repository", str(self._repository), *options]
        return Command(argv, contender_environment())

    def files(self) -> list[Path]:
        """As in ``Contender``."""
        return [self._repository]


def can_compile() -> bool:
    """Whether this ``warmswap`` has the sub-command ``compile``."""
    return bool(entry_points(group="warmswap.commands", name="compile"))


_WARMSWAP: Final = (sys.executable, "-c", "import sys; from warmswap_client.cli import main; sys.exit(main())")
