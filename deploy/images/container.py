"""Runs an image as a pod does, as far as a machine without a container engine can: ``unshare``, binds, ``chroot``.

The program is process 1 of its own pid namespace and sees the image read-only, with only ``/tmp``, ``/dev/shm`` and
``/var/cache/warmswap`` to write to. It runs as the image's user (or any other), without a way to gain privileges. It
shares the network of the machine, so that its servers can listen on the loopback interface and be called from outside.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from images.machine import ImageError

START_S: Final = 300.0
STOP_S: Final = 60.0
DEVICES: Final = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to run, where it differs from the image's own configuration.

    Attributes:
        user: ``uid:gid``; ``None`` = the image's.
        shm_mib: Room in ``/dev/shm``.
        models: Mounted read-only at ``/models``, as a volume would be.
        env: More environment.
    """

    user: str | None = None
    shm_mib: int = 512
    models: Path | None = None
    env: Mapping[str, str] | None = None


class Container:
    """A running image; gone at the end of the ``with`` block, whatever happened."""

    def __init__(
        self, root: Path, config: Mapping[str, Any], arguments: Sequence[str], settings: Settings = Settings()
    ) -> None:
        """Start it.

        Args:
            root: Where the image's file system is mounted.
            config: The image's OCI configuration (``Env``, ``User``, ``Entrypoint``, ...).
            arguments: In place of the image's ``Cmd``.
            settings: What differs from the configuration.

        Raises:
            ImageError: the image has no user, or root.
        """
        self._user = settings.user or str(config.get("User", ""))
        if self._user.split(":")[0] in ("", "0", "root"):
            raise ImageError(f"the image runs as {self._user or 'root'!r}; it must name a uid other than 0")
        self._env = [
            *config.get("Env", []),
            "HOME=/",
            *(f"{key}={value}" for key, value in (settings.env or {}).items()),
        ]
        self._cwd = str(config.get("WorkingDir") or "/")
        self._root = root
        self._shm: int | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="warmswap-image-"))
        command = [*config["Entrypoint"], *arguments]
        script = self._folder / "start"
        script.write_text(self._script(settings, command), encoding="utf-8")
        self._output = self._folder / "output"
        self._errors = self._folder / "errors"
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-eu", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Kill what still runs, and remove the files."""
        if self._process.poll() is None:
            self._process.kill()  # --kill-child: process 1 goes with it, and all others of its namespace
        self._process.wait(STOP_S)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._shm is not None:
            os.close(self._shm)

    def phase(self, name: str, timeout_s: float = START_S) -> dict[str, Any]:
        """Wait for a phase that the launcher reports with ``--json``.

        Raises:
            ImageError: it ended without, or the time is over.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            ended = self._process.poll() is not None
            lines = self._output.read_text(encoding="utf-8").split("\n")[:-1]
            for phase in (json.loads(line) for line in lines if line.startswith("{")):
                if phase.get("phase") == name:
                    return dict(phase)
            if ended:
                raise ImageError(f"ended with {self._process.returncode} before {name!r}: {self.errors()}")
            if time.monotonic() > deadline_s:
                raise ImageError(f"not {name!r} after {timeout_s:g} s: {lines[-3:]} {self.errors()}")
            time.sleep(0.05)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one more command in it, as ``kubectl exec`` does."""
        uid, _, gid = self._user.partition(":")
        pid = str(self._pid())
        enter = ["nsenter", f"--target={pid}", "--mount", "--pid", "--ipc", "--uts", "--root", f"--wd=/proc/{pid}/cwd"]
        identity = [f"--setuid={uid}", f"--setgid={gid or 0}"]
        return subprocess.run(
            [*enter, *identity, "env", "-i", *self._env, *command], capture_output=True, text=True, timeout=STOP_S
        )

    def terminate(self) -> None:
        """Send SIGTERM to process 1, as the kubelet does."""
        pid = self._pid()
        self._shm = os.open(f"/proc/{pid}/root/dev/shm", os.O_RDONLY | os.O_DIRECTORY)  # outlives the mount
        os.kill(pid, signal.SIGTERM)

    def leftovers(self) -> list[str]:
        """Return what the ended container has left in its ``/dev/shm``."""
        if self._shm is None:
            raise ImageError("call terminate() first")
        return sorted(os.listdir(self._shm))

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for the end; return the exit code."""
        return self._process.wait(timeout_s)

    def errors(self) -> str:
        """Return what it wrote to stderr."""
        return self._errors.read_text(encoding="utf-8").strip()

    def user_ids(self) -> tuple[int, int]:
        """Return uid and gid of process 1."""
        status = Path(f"/proc/{self._pid()}/status").read_text(encoding="utf-8")
        fields = {line.split(":")[0]: line.split()[1:] for line in status.splitlines()}
        return int(fields["Uid"][1]), int(fields["Gid"][1])

    def _pid(self) -> int:
        """Process 1 of the container, as the machine numbers it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text(encoding="utf-8")
        if not children.strip():
            raise ImageError(f"it does not run: {self.errors()}")
        return int(children.split()[0])

    def _script(self, settings: Settings, command: Sequence[str]) -> str:
        root = shlex.quote(str(self._root))
        lines = [
            f"mkdir -p {root}/models",  # the runtime makes mount points; this is a container, the image stays as it is
            "mount --make-rprivate /",
            f"mount --bind {root} {root}",
            f"mount -o remount,bind,ro {root}",
            f"mount -t proc -o nosuid,nodev,noexec proc {root}/proc",
            f"mount -t tmpfs -o nosuid,mode=0755 tmpfs {root}/dev",
            f"mkdir {root}/dev/shm",
            *(f"touch {root}/dev/{name}; mount --bind /dev/{name} {root}/dev/{name}" for name in DEVICES),
            f"mount -t tmpfs -o nosuid,nodev,mode=1777,size={settings.shm_mib}m tmpfs {root}/dev/shm",
            f"mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs {root}/tmp",
            f"mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs {root}/var/cache/warmswap",
        ]
        if settings.models is not None:
            models = shlex.quote(str(settings.models))
            lines += [f"mount --bind {models} {root}/models", f"mount -o remount,bind,ro {root}/models"]
        change = ["setpriv", "--no-new-privs", "chroot", f"--userspec={self._user}", "--groups=", str(self._root)]
        start = ["env", "-i", *self._env, f"--chdir={self._cwd}", *command]
        lines.append("exec " + shlex.join([*change, *start]))
        return "\n".join(lines) + "\n"
