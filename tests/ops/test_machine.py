"""Finding Triton, checking the machine, building the backend folder, shared memory, ports, log."""

from __future__ import annotations

import fcntl
import io
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from warmswap_ops import preflight, triton_install
from warmswap_ops.backend_folder import provide_backend_folder
from warmswap_ops.errors import MachineError, PortInUseError
from warmswap_ops.phases import Phase
from warmswap_ops.ports import Ports, address, choose_ports
from warmswap_ops.serve_log import ServeLog
from warmswap_ops.shared_memory import SharedMemory, remove_leftovers
from warmswap_ops.triton_command import ServerOptions, server_command
from warmswap_ops.triton_install import TritonInstall, find_triton, server_environment
from warmswap_ops.triton_log import TritonLog, decisive_line, load_failure


@pytest.fixture
def install(tmp_path: Path) -> TritonInstall:
    """A container-like Triton made of empty files, without an onnxruntime backend."""
    root = tmp_path / "tritonserver"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tritonserver").touch()
    (root / "backends/python").mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py", "triton_python_backend_stub"):
        (root / "backends/python" / name).write_text(name)
    (root / "TRITON_VERSION").write_text("2.70.0\n")
    return find_triton(root)


def test_container_wins_and_its_own_onnxruntime_is_used(install: TritonInstall) -> None:
    assert (install.version, install.from_wheel, install.has_onnxruntime) == ("2.70.0", False, False)
    (install.backends / "onnxruntime").mkdir()
    found = find_triton(install.server.parents[1])
    assert found.has_onnxruntime
    assert provide_backend_folder(found, {}).path == install.backends


def test_no_triton_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_install, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"no Triton on this machine: pip install 'warmswap\[server\]'"):
        find_triton(tmp_path)


@pytest.mark.parametrize("version", [(3, 13), (3, 7)])
def test_python_without_stub_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]
) -> None:
    class Version(tuple[int, ...]):
        major, minor = version

    monkeypatch.setattr(triton_install.sys, "version_info", Version(version))  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match=f"Python {version[0]}.{version[1]} cannot run"):
        find_triton(tmp_path)


def test_environment_of_the_server(install: TritonInstall) -> None:
    given = {"LD_LIBRARY_PATH": "/mine:/a", "PATH": "/usr/bin", "ORT_DISABLE_TELEMETRY": "0"}
    env = server_environment(replace(install, library_dirs=(Path("/a"), Path("/b"))), given)
    assert env["LD_LIBRARY_PATH"] == "/a:/b:/mine"
    assert env["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert env["PYTHONDONTWRITEBYTECODE"] == "1"
    assert env["ORT_DISABLE_TELEMETRY"] == "0"
    assert server_environment(install, {})["ORT_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param("", None, id="no ldd"),
        pytest.param("\tlibc.so.6 => /lib/libc.so.6 (0x7f)", None, id="complete"),
        pytest.param("\tlibpython3.12.so.1.0 => not found", "apt-get install libpython3.12$", id="libpython"),
        pytest.param(
            "\tlibz.so.1 => not found\n\tlibexpat.so.1 => not found", "libexpat1 zlib1g$", id="several packages"
        ),
        pytest.param("\tlibodd.so.3 => not found", "<the package of libodd.so.3>", id="unknown library"),
        pytest.param(
            "./stub: /lib/libc.so.6: version `GLIBC_2.34' not found (required by ./stub)", "glibc 2.34", id="old glibc"
        ),
    ],
)
def test_ldd_output(output: str, message: str | None) -> None:
    if message is None:
        preflight.check_ldd_output(output, Path("stub"))
        return
    with pytest.raises(MachineError, match=message):
        preflight.check_ldd_output(output, Path("stub"))


@pytest.mark.parametrize(
    ("versions", "absent", "message"),
    [
        pytest.param({"numpy": "2.1.0"}, (), "numpy 2.1.0 crashes", id="numpy 2"),
        pytest.param({}, (), "numpy is not installed", id="no numpy"),
        pytest.param({"numpy": "1.26.4"}, ("onnxruntime",), "onnxruntime is not installed", id="no onnxruntime"),
        pytest.param({"numpy": "1.26.4"}, ("cv2",), "opencv is not installed", id="no opencv"),
        pytest.param({"numpy": "1.26.4", "opencv-python": "4.11"}, (), "apt-get install libgl1 libglib2.0-0", id="GL"),
        pytest.param({"numpy": "1.26.4", "opencv-python-headless": "4.11"}, (), None, id="headless"),
    ],
)
def test_python_packages(
    install: TritonInstall,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    versions: dict[str, str],
    absent: tuple[str, ...],
    message: str | None,
) -> None:
    (tmp_path / "ld.so.cache").write_bytes(b"libc.so.6\0")
    monkeypatch.setattr(preflight, "LD_CACHE", tmp_path / "ld.so.cache")
    monkeypatch.setattr(preflight, "find_spec", lambda name: None if name in absent else object())
    monkeypatch.setattr(
        preflight, "package_version", lambda *names: next((versions[name] for name in names if name in versions), None)
    )
    wheel = replace(install, from_wheel=True)
    if message is None:
        preflight.check_machine(wheel, {})
        return
    with pytest.raises(MachineError, match=message):
        preflight.check_machine(wheel, {})


def test_backend_folder_is_built_once_and_again_when_something_changed(install: TritonInstall, tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = provide_backend_folder(install, environ)
    files = {str(path.relative_to(first.path)) for path in first.path.rglob("*") if path.is_file()}
    assert files == {
        "onnxruntime/model.py",
        "python/libtriton_python.so",
        "python/triton_python_backend_stub",
        "python/triton_python_backend_utils.py",
    }
    assert os.access(first.path / "python/triton_python_backend_stub", os.X_OK)
    built_ns = first.path.stat().st_mtime_ns
    assert provide_backend_folder(install, environ) == first
    assert first.path.stat().st_mtime_ns == built_ns

    (first.path / "onnxruntime/model.py").unlink()
    assert provide_backend_folder(install, environ) == first
    assert (first.path / "onnxruntime/model.py").is_file()

    install.stub.write_text("a new stub")
    second = provide_backend_folder(install, environ)
    assert second.path != first.path
    assert {path.name for path in (tmp_path / "cache/warmswap").iterdir()} == {first.path.name, second.path.name}
    second.remove()
    assert second.path.is_dir()


def test_backend_folder_without_a_cache_is_temporary(install: TritonInstall, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = provide_backend_folder(install, {"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert folder.temporary
    assert (folder.path / "onnxruntime/model.py").is_file()
    folder.remove()
    assert not folder.path.exists()


def test_shared_memory_of_the_dead_goes_and_of_the_living_stays(tmp_path: Path) -> None:
    living = SharedMemory(tmp_path)
    (tmp_path / f"{living.prefix}region").touch()
    for name in ("warmswap-1-a-lock", "warmswap-1-a-region", "other-region"):
        (tmp_path / name).touch()
    assert remove_leftovers(tmp_path) == ["warmswap-1-a-"]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{living.prefix}lock",
        f"{living.prefix}region",
        "other-region",
    }
    living.remove()
    living.remove()
    assert {path.name for path in tmp_path.iterdir()} == {"other-region"}


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys
from warmswap_ops.shared_memory import SharedMemory
memory = SharedMemory(pathlib.Path(sys.argv[1]))
print(memory.prefix, flush=True)
os.kill(os.getpid(), 9)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    prefix = killed.stdout.strip()
    assert (tmp_path / f"{prefix}lock").exists()
    assert remove_leftovers(tmp_path) == [prefix]
    assert list(tmp_path.iterdir()) == []


def test_shared_memory_lock_is_held(tmp_path: Path) -> None:
    living = SharedMemory(tmp_path)
    with (tmp_path / f"{living.prefix}lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    living.remove()


def test_ports_are_free_and_given_ones_stay() -> None:
    chosen = choose_ports("127.0.0.1", Ports(0, 0, 0))
    assert len({chosen.http, chosen.grpc, chosen.metrics}) == 3
    assert choose_ports("127.0.0.1", Ports(chosen.http, 0, 0)).http == chosen.http


def test_taken_port_and_foreign_host_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"metrics port {port} on 127.0.0.1 .* --metrics-port"):
            choose_ports("127.0.0.1", Ports(0, 0, port))
    with pytest.raises(PortInUseError, match="grpc port"):
        choose_ports("127.0.0.1", Ports(port, port, 0))
    with pytest.raises(MachineError, match=r"cannot listen on 192\.0\.2\.1:0 \(http\)"):
        choose_ports("192.0.2.1", Ports(0, 0, 0))


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", "127.0.0.1:1"), ("0.0.0.0", "127.0.0.1:1"), ("::", "[::1]:1")]
)
def test_address_is_where_clients_connect(host: str, expected: str) -> None:
    assert address(host, 1) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Internal: TritonModelException: a b\n\nAt:\n"
            "  /x/model.py(3): initialize\n;\n",
            "version 1: a b",
            id="Python traceback",
        ),
        pytest.param(
            "load failed for model 'm': version 1 is at UNAVAILABLE state: Invalid argument: one; "
            "version 2 is at UNAVAILABLE state: Internal: two;",
            "version 1: one; version 2: two",
            id="two versions",
        ),
        pytest.param("failed to load 'm', failed to poll", "failed to load 'm', failed to poll", id="no version"),
    ],
)
def test_load_failure_is_one_line_without_prefixes(message: str, expected: str) -> None:
    assert load_failure(message) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([], "it wrote nothing", id="nothing"),
        pytest.param(['I1122 15:57:18.1 12 a.cc:1] "fine"', "", "bye"], "bye", id="the last line"),
        pytest.param(
            [
                'E1122 15:57:18.1 12 shared_library.cc:1] "CudaDriverHelper has not been initialized."',
                'E1122 15:57:18.2 12 a.cc:1] "Socket in use"',
            ],
            "Socket in use",
            id="harmless error first",
        ),
        pytest.param(
            ["tritonserver: error while loading shared libraries: libz", "x"],
            "tritonserver: error while loading shared libraries: libz",
            id="loader",
        ),
    ],
)
def test_decisive_line(lines: list[str], expected: str) -> None:
    assert decisive_line(lines) == expected


def test_log_passes_on_what_matters() -> None:
    quiet: list[str] = []
    log = TritonLog(quiet.append)
    log.add("E during the start")
    log.passing_on = True
    log.add("I0101 fine")
    log.add("W0101 odd")
    assert quiet == ["W0101 odd"]
    everything: list[str] = []
    TritonLog(everything.append, verbose=True).add("I0101 fine")
    assert everything == ["I0101 fine"]


def test_phases_for_a_script_and_for_a_human() -> None:
    stream = io.StringIO()
    phase = Phase("stages", 12.34, {"models": {"a": 1.5}})
    ServeLog(stream, io.StringIO(), json_phases=True).phase(phase)
    assert json.loads(stream.getvalue()) == {"phase": "stages", "ms": 12.3, "models": {"a": 1.5}}
    assert phase.as_text().split() == ["stages", "12", "ms", "a", "2", "ms"]
    stream.close()
    ServeLog(stream, io.StringIO(), json_phases=False).phase(phase)  # a reader that went away


@pytest.mark.triton
def test_server_knows_every_flag() -> None:
    install = find_triton()
    options = ServerOptions(install.server, Path("/r"), Path("/b"), "p", "127.0.0.1", 25, "1", "gpu", 4)
    flags = [word.split("=")[0] for word in server_command(options, Ports())[1:]]
    env = server_environment(install, os.environ)
    help_text = subprocess.run([str(install.server), "--help"], capture_output=True, text=True, env=env, check=False)
    known = {line.split()[0] for line in help_text.stdout.splitlines() + help_text.stderr.splitlines() if line.strip()}
    assert [flag for flag in flags if flag not in known] == []
