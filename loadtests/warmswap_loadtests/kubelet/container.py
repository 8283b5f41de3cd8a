"""One container: a real process, where possible as process 1 of a PID namespace, with ``/dev/shm`` and memory limit."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from warmswap_loadtests.contenders.contender import HOST, contender_environment
from warmswap_loadtests.errors import BenchError
from warmswap_loadtests.kubelet.memory_limit import MemoryGroup
from warmswap_loadtests.kubelet.pod_spec import PodSpec
from warmswap_ops.ports import Ports

OPTIONS: Final = ("http", "grpc", "metrics")
STOP_PATIENCE_S: Final = 10.0
TAIL_LINES: Final = 6
_TRITON: Final = "tritonserver"
_STUB: Final = "triton_python_backend_stub"
_DIE_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
_OPTION: Final = re.compile(r"--([a-z-]+)(?:=(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Machine:
    """What differs between a node of a cluster and this machine.

    Attributes:
        repository: Instead of the image's or the volume's.
        folder: An existing folder for logs and caches.
    """

    repository: Path
    folder: Path


def local_command(spec: PodSpec, ports: Ports, repository: Path) -> list[str]:
    """Return the container's command for this machine: this Python, loopback, other ports, another repository.

    Raises:
        BenchError: it starts something else than Python, or does not say the options that must be replaced.
    """
    words = [*spec.command, *spec.args]
    if not re.fullmatch(r"(.*/)?python3?(\.\d+)?", words[0]):
        raise BenchError(f"the container starts {words[0]!r}, only python can be run here")
    replaced = {
        "host": HOST,
        "http-port": str(ports.http),
        "grpc-port": str(ports.grpc),
        "metrics-port": str(ports.metrics),
        "repository": str(repository),
    }
    command = [sys.executable]
    rest = iter(words[1:])
    for word in rest:
        found = _OPTION.fullmatch(word)
        if found is None or found[1] not in replaced:
            command.append(word)
        elif found[2] is None:
            next(rest, None)  # its value is the next word
    return [*command, *(f"--{name}={value}" for name, value in replaced.items())]


class Container:
    """A container that was just started.

    It is killed when the thread that started it ends.
    """

    def __init__(self, spec: PodSpec, command: Sequence[str], machine: Machine, name: str) -> None:
        """Start it.

        Args:
            spec: Environment and limits.
            command: What to run, see ``local_command``.
            machine: Where.
            name: A new one; for its log and its control group.
        """
        self.log = machine.folder / f"{name}.log"
        self._cwd = tempfile.TemporaryDirectory(prefix="warmswap-pod-")  # empty: Triton's stub imports from there
        cache = Path(self._cwd.name) / "cache"
        cache.mkdir()
        env = {**contender_environment(), **_portable(spec.env, machine), "XDG_CACHE_HOME": str(cache)}
        self.group = (
            MemoryGroup.create(f"warmswap-{os.getpid()}-{name}", spec.memory_bytes) if spec.memory_bytes else None
        )
        self.is_isolated = can_isolate()
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*_wrapper(spec, self.group, self.is_isolated), *command],
                env=env,
                cwd=self._cwd.name,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """Its exit code, 128 + n when signal n ended it; ``None`` = it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code

    def terminate(self) -> None:
        """Send SIGTERM to process 1."""
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            os.kill(self._first().pid, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to all, as the kernel does when process 1 of a namespace is killed."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def kill_server(self) -> None:
        """Send SIGKILL to tritonserver alone.

        Raises:
            BenchError: there is none.
        """
        self._kill_one(_TRITON, "")

    def kill_stub(self, model: str) -> None:
        """Send SIGKILL to one process of a model.

        Raises:
            BenchError: there is none.
        """
        self._kill_one(_STUB, f"/{model}/")

    def log_tail(self) -> str:
        """Return the last lines that it wrote, as one."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-TAIL_LINES:] if line.strip())

    def close(self) -> None:
        """Kill what is left, and clean up."""
        family = self._family()
        self.kill()
        self._process.wait(STOP_PATIENCE_S)
        psutil.wait_procs(family, timeout=STOP_PATIENCE_S)
        if self.group is not None:
            self.group.remove()
        self._cwd.cleanup()

    def _first(self) -> psutil.Process:
        """Return process 1 of the container: below the shell that waits for it, if there is that."""
        top = psutil.Process(self._process.pid)
        below = top.children() if self.is_isolated else []
        return below[0] if below else top

    def _family(self) -> list[psutil.Process]:
        try:
            top = psutil.Process(self._process.pid)
            return [top, *top.children(recursive=True)][::-1]  # children first, or they would be told to end
        except psutil.NoSuchProcess:
            return []

    def _kill_one(self, program: str, argument: str) -> None:
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if words and words[0].endswith(program) and argument in " ".join(words):
                    process.kill()
                    return
        raise BenchError(f"the container has no process {program} {argument}")


@functools.cache
def can_isolate() -> bool:
    """Whether this machine lets us make PID and mount namespaces (root, in most places)."""
    if shutil.which("unshare") is None:
        return False
    try:
        test = [*_unshare(1024 * 1024), "true"]
        return subprocess.run(test, capture_output=True, timeout=STOP_PATIENCE_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _wrapper(spec: PodSpec, group: MemoryGroup | None, isolated: bool) -> list[str]:
    """Return what starts the command: it dies with us, joins its group, and gets its namespaces."""
    wrapper = list(_DIE_WITH_PARENT)
    if group is not None:
        wrapper += ["sh", "-c", f'{group.join} && exec "$@"', "sh"]
    return wrapper + (_unshare(spec.shared_memory_bytes) if isolated else [])


def _unshare(shared_memory_bytes: int) -> list[str]:
    """Return what starts a command as process 1 of a new PID namespace.

    The shell that waits for it is outside, and gives its exit code, 128 + n after signal n; ``unshare --fork`` of
    util-linux 2.38 gives 1 there.
    """
    mounts = f"mount -t proc proc /proc && mount -t tmpfs -o size={shared_memory_bytes} tmpfs /dev/shm"
    inside = f'{mounts} && exec {" ".join(_DIE_WITH_PARENT)} "$@"'
    return ["unshare", "--pid", "--mount", "sh", "-c", 'sh -c "$0" sh "$@"; exit $?', inside]


def _portable(env: Mapping[str, str], machine: Machine) -> dict[str, str]:
    """Return the manifest's environment without the paths of its image."""
    return {
        name: str(machine.repository) if name == "WARMSWAP_REPOSITORY" else value
        for name, value in env.items()
        if name == "WARMSWAP_REPOSITORY" or not value.startswith("/")
    }
