"""Model processes that die, and those that are ended: real processes that call themselves stubs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ops.serve_process import eventually
from warmswap_ops import stub_watch
from warmswap_ops.stub_watch import StubWatch, has_dead_stub

NAME = "/backends/python/triton_python_backend_stub"


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child of this process, which plays the server; it ends with the code that it reads."""
    script = tmp_path / "face_embedder/1/model.onnx"
    script.parent.mkdir(parents=True)
    script.write_text("read code\nexit $code\n")
    child = subprocess.Popen([NAME, script], executable="/bin/sh", stdin=subprocess.PIPE)
    assert eventually(lambda: Path(f"/proc/{child.pid}/cmdline").read_bytes().startswith(NAME.encode()))
    yield child
    child.kill()
    child.communicate()


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_killed_stub_is_told_from_the_second_look_on(stub: subprocess.Popen[bytes]) -> None:
    watch = StubWatch(os.getpid())
    assert watch.dead() == []
    assert not has_dead_stub(os.getpid())
    os.kill(stub.pid, signal.SIGKILL)
    assert eventually(lambda: is_zombie(stub.pid))
    assert watch.dead() == []
    (dead,) = watch.dead()
    assert (dead.pid, dead.model, dead.reason, dead.cause) == (
        stub.pid,
        "face_embedder",
        "killed",
        "was killed by SIGKILL",
    )
    assert has_dead_stub(os.getpid())


def test_exit_code_is_told(stub: subprocess.Popen[bytes]) -> None:
    watch = StubWatch(os.getpid())
    assert stub.stdin is not None
    stub.stdin.write(b"3\n")
    stub.stdin.close()
    assert eventually(lambda: is_zombie(stub.pid))
    watch.dead()
    (dead,) = watch.dead()
    assert (dead.reason, dead.cause) == ("exited", "exited with code 3")


def test_stub_that_its_server_has_waited_for_was_not_a_death(stub: subprocess.Popen[bytes]) -> None:
    watch = StubWatch(os.getpid())
    os.kill(stub.pid, signal.SIGKILL)
    assert eventually(lambda: is_zombie(stub.pid))
    assert watch.dead() == []
    stub.wait()
    assert watch.dead() == []
    assert not has_dead_stub(os.getpid())


def test_kernel_out_of_memory_is_told(
    stub: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The kernel's counter is a file here: no test may exhaust the machine's memory."""
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 1\noom_kill 1\n")
    monkeypatch.setattr(stub_watch, "_memory_events", lambda: [tmp_path / "missing", events])
    watch = StubWatch(os.getpid())
    events.write_text("low 0\noom 2\noom_kill 2\n")
    os.kill(stub.pid, signal.SIGKILL)
    assert eventually(lambda: is_zombie(stub.pid))
    watch.dead()
    (dead,) = watch.dead()
    assert (dead.reason, dead.cause) == ("oom_killed", "was killed by the kernel: out of memory")


def test_kernel_counts_somewhere() -> None:
    assert stub_watch.oom_kills() >= 0
    assert any(path.is_file() for path in stub_watch._memory_events())
