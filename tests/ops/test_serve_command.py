"""``warmswap serve`` as a process: failures in one line, signals at every moment, nothing left behind."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, InferInput

from tests.ops.serve_process import ServeProcess, eventually, processes_with, shared_memory
from tests.ops.toys import write_manifest, write_repository
from warmswap_ops.errors import MachineError, OpsError, PortInUseError, RepositoryError, ServerError
from warmswap_ops.launcher import LocalTriton
from warmswap_ops.ports import Ports, choose_ports

pytestmark = pytest.mark.triton

SLOW_S = 6.0
AS_PID_1 = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repository")


@pytest.fixture
def slow_repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repository", initialize_s=SLOW_S)


@pytest.fixture
def pid_1() -> tuple[str, ...]:
    probe = subprocess.run([*AS_PID_1, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"may not make a PID namespace: {probe.stderr.decode().strip()}")
    return AS_PID_1


def assert_nothing_left(serve: ServeProcess, launcher_pid: int) -> None:
    assert processes_with(str(serve.repository)) == []
    assert processes_with(f"warmswap-{launcher_pid}-") == []
    assert shared_memory(launcher_pid) == []


def corrupt_graph(repository: Path) -> None:
    folder = repository / "face_embedder/1"
    (folder / "model.onnx").write_bytes(b"not a graph")
    write_manifest(folder, "face_embedder")


def replace_graph(repository: Path) -> None:
    path = repository / "face_embedder/1/model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")


def remove_model(repository: Path) -> None:
    (repository / "face_swap").rename(repository / "face_away")


def misname_output(repository: Path) -> None:
    config = repository / "face_swapper/config.pbtxt"
    config.write_text(config.read_text().replace('"looked_up"', '"looked_at"'))


def misspell_parameter(repository: Path) -> None:
    config = repository / "face_swapper/config.pbtxt"
    config.write_text(config.read_text().replace("intra_op_thread_count", "intra_op_threads"))


def break_pipeline(repository: Path) -> None:
    model = repository / "face_swap/1/model.py"
    model.write_text(model.read_text().replace("import time", "import no_such_module"))


def kill_in_initialize(repository: Path) -> None:
    model = repository / "face_swap/1/model.py"
    model.write_text(model.read_text().replace("time.sleep(0.0)", "import os; os._exit(3)"))


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        pytest.param(corrupt_graph, OpsError, ["model face_embedder", "model.onnx", "Protobuf"], id="corrupt"),
        pytest.param(replace_graph, RepositoryError, ["model face_embedder", "sha256"], id="sha256"),
        pytest.param(remove_model, RepositoryError, ["lacks face_swap"], id="missing"),
        pytest.param(misname_output, OpsError, ["model face_swapper", "looked_at", "looked_up"], id="output"),
        pytest.param(misspell_parameter, OpsError, ["face_swapper", "'intra_op_threads'"], id="parameter"),
        pytest.param(break_pipeline, OpsError, ["model face_swap", "no_such_module"], id="import"),
        pytest.param(kill_in_initialize, OpsError, ["model face_swap"], id="stub dies"),
    ],
)
def test_failed_start_names_model_and_cause_and_leaves_nothing(
    repository: Path, spoil: object, kind: type[OpsError], words: list[str]
) -> None:
    assert callable(spoil)
    spoil(repository)
    before = set(shared_memory(os.getpid()))
    with pytest.raises(kind) as caught, LocalTriton(repository, load_timeout_s=20.0):
        pass
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code != 0
    assert processes_with(str(repository)) == []
    assert not set(shared_memory(os.getpid())) - before


def test_warm_up_off_the_golden_answer_fails_the_start(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", golden_factor=3.0)
    with ServeProcess(repository) as serve:
        failed = serve.phase("failed")
        assert serve.wait() == 7
        assert "golden is [3.0, 6.0]" in failed["error"]
        assert serve.stderr() == f"error: {failed['error']}\n"
        assert_nothing_left(serve, serve.pid)


def test_refusal_that_crashes_the_server_is_still_named(tmp_path: Path) -> None:
    """Triton 24.10 dies of SIGSEGV in about 4 of 10 such starts; the tries make sure that some do."""
    repository = write_repository(tmp_path / "repository", golden_factor=3.0)
    for _ in range(3):
        with pytest.raises(OpsError, match=r"model face_\w+ failed to load: .*golden is"), LocalTriton(repository):
            pass


def test_load_that_takes_too_long_is_named(slow_repository: Path) -> None:
    with pytest.raises(OpsError, match=r"not ready after 1 s"), LocalTriton(slow_repository, load_timeout_s=1.0):
        pass


def test_given_port_that_is_taken_is_named(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"http port {port}"), LocalTriton(repository, ports=Ports(port, 0, 0)):
            pass


def test_port_that_is_taken_after_the_check_is_chosen_again(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answers = [Ports(port, 0, 0)]

        def race(host: str, wanted: Ports) -> Ports:
            chosen = real(host, wanted)
            return Ports(answers.pop().http, chosen.grpc, chosen.metrics) if answers else chosen

        real = choose_ports
        monkeypatch.setattr("warmswap_ops.triton_server.choose_ports", race)
        with LocalTriton(repository) as server:
            assert server.ports.http != port
        assert answers == []


def test_missing_library_is_named_with_its_package(repository: Path, tmp_path: Path) -> None:
    ldd = tmp_path / "bin/ldd"
    ldd.parent.mkdir()
    ldd.write_text("#!/bin/sh\necho '\tlibpython3.11.so.1.0 => not found'\n")
    ldd.chmod(0o755)
    with ServeProcess(repository, env={"PATH": f"{ldd.parent}:{os.environ['PATH']}"}) as serve:
        assert serve.wait() == MachineError.exit_code
        assert "libpython3.11.so.1.0: apt-get install libpython3.11" in serve.stderr()


def test_read_only_cache_is_no_obstacle_and_the_temporary_folder_goes(repository: Path, tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.touch()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with ServeProcess(repository, env={"XDG_CACHE_HOME": str(no_folder), "TMPDIR": str(temporary)}) as serve:
        serve.phase("ready")
        assert list(temporary.glob("warmswap-backends-*"))
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_load_stops_at_once(slow_repository: Path, number: signal.Signals) -> None:
    with ServeProcess(slow_repository) as serve:
        serve.phase("stages")
        time.sleep(0.3)
        sent_s = time.monotonic()
        serve.send(number)
        assert serve.wait() == 0
        assert time.monotonic() - sent_s < 2.0
        assert_nothing_left(serve, serve.pid)


@pytest.mark.parametrize("delay_s", [0.15, 0.25, 0.35, 0.5, 0.8])
def test_signal_at_any_moment_of_the_start_leaves_nothing(repository: Path, delay_s: float) -> None:
    with ServeProcess(repository) as serve:
        assert eventually(lambda: "SigCgt" in _status(serve.pid) and _catches(serve.pid, signal.SIGTERM))
        time.sleep(delay_s)
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0
        assert_nothing_left(serve, serve.pid)


def test_drain_finishes_in_flight_requests(repository: Path) -> None:
    with ServeProcess(repository, "--drain-delay=1") as serve:
        url = serve.phase("ready")["urls"]["grpc"]
        answers: list[object] = []
        with InferenceServerClient(url) as client:
            client.async_infer("face_swap", [_sleeping(3.0)], lambda result, error: answers.append(error or result))
            time.sleep(0.3)
            serve.send(signal.SIGTERM)
            serve.phase("draining")
            assert client.is_model_ready("face_swap")  # still serving, until endpoints are gone
            stopped = serve.phase("stopped")
            assert eventually(lambda: bool(answers))
        assert stopped["reason"] == "all requests finished"
        assert serve.wait() == 0
        assert [answer.as_numpy("y").tolist() for answer in answers] == [[16.0, 16 * 1003.0]]  # type: ignore[attr-defined]
        assert_nothing_left(serve, serve.pid)


def test_idle_http_connection_does_not_spoil_the_exit_code(repository: Path) -> None:
    with ServeProcess(repository, "--exit-timeout=2") as serve:
        host, port = serve.phase("ready")["urls"]["http"].removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=10)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().read() == b""
        serve.send(signal.SIGTERM)
        assert serve.wait(15) == 0
        connection.close()
        assert_nothing_left(serve, serve.pid)


def test_second_signal_kills_at_once(repository: Path) -> None:
    with ServeProcess(repository) as serve:
        url = serve.phase("ready")["urls"]["grpc"]
        with InferenceServerClient(url) as client:
            client.async_infer("face_swap", [_sleeping(20.0)], lambda result, error: None)
            time.sleep(0.3)
            serve.send(signal.SIGTERM)
            serve.phase("draining")
            time.sleep(0.3)
            sent_s = time.monotonic()
            serve.send(signal.SIGTERM)
            assert serve.wait() == 128 + signal.SIGTERM
            assert time.monotonic() - sent_s < 2.0
        assert_nothing_left(serve, serve.pid)


def test_death_of_the_server_ends_the_launcher(repository: Path) -> None:
    with ServeProcess(repository) as serve:
        serve.phase("ready")
        server_pid = next(pid for pid in processes_with(str(repository)) if _is_server(pid))
        os.kill(server_pid, signal.SIGKILL)
        assert serve.wait() == ServerError.exit_code
        assert "tritonserver was killed by SIGKILL" in serve.stderr()
        assert_nothing_left(serve, serve.pid)


def test_death_of_the_launcher_ends_the_server_and_the_next_one_cleans_up(repository: Path) -> None:
    with ServeProcess(repository) as serve:
        serve.phase("ready")
        os.kill(serve.pid, signal.SIGKILL)
        assert eventually(lambda: processes_with(str(repository)) == [])
        dead_pid = serve.pid
    with ServeProcess(repository) as successor:
        successor.phase("ready")
        assert shared_memory(dead_pid) == []
        successor.send(signal.SIGTERM)
        assert successor.wait() == 0


def test_process_1_stops_at_once_during_load(slow_repository: Path, pid_1: tuple[str, ...]) -> None:
    with ServeProcess(slow_repository, wrapper=pid_1) as serve:
        serve.phase("stages")
        sent_s = time.monotonic()
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0
        assert time.monotonic() - sent_s < 2.0
        assert processes_with(str(slow_repository)) == []
        assert shared_memory(1) == []


def test_process_1_drains_and_reaps_orphans(repository: Path, pid_1: tuple[str, ...]) -> None:
    with ServeProcess(repository, wrapper=pid_1) as serve:
        serve.phase("ready")
        launcher_pid = serve.launcher_pid()
        assert _namespace_pid(launcher_pid) == 1
        stub_pid = next(pid for pid in processes_with(str(repository)) if not _is_server(pid))
        orphan = ("nsenter", f"--target={launcher_pid}", "--pid", "--mount", sys.executable, "-c", _ORPHAN)
        subprocess.run(orphan, check=True, timeout=20)
        assert eventually(lambda: not _zombies(launcher_pid), timeout_s=10)
        assert stub_pid in processes_with(str(repository))
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0
        assert processes_with(str(repository)) == []
        assert shared_memory(1) == []


_ORPHAN = "import os, time\nif os.fork() == 0:\n    time.sleep(0.3)"


def _sleeping(seconds: float) -> InferInput:
    array = np.array([1, 1000 + seconds], np.float32)
    given = InferInput("x", [2], "FP32")
    given.set_data_from_numpy(array)
    return given


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def _catches(pid: int, number: signal.Signals) -> bool:
    lines = [line for line in _status(pid).splitlines() if line.startswith("SigCgt:")]
    return bool(lines) and bool(int(lines[0].split()[1], 16) >> (number - 1) & 1)


def _namespace_pid(pid: int) -> int:
    line = next(line for line in _status(pid).splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


def _is_server(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(b"tritonserver")


def _zombies(parent: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/status"):
        status = _status(int(path.parent.name))
        if f"PPid:\t{parent}\n" in status and "State:\tZ" in status:
            found.append(path.parent.name)
    return found
