from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.client.support import answer_all, fail_first
from warmswap_client import client as client_module
from warmswap_client.cli import EXTRAS, GROUP, main
from warmswap_client.fake_transport import FakeTransport, analysis_answer

Install = Callable[[FakeTransport], FakeTransport]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a fake server behind every URL."""

    def put(fake: FakeTransport) -> FakeTransport:
        monkeypatch.setattr(client_module, "make_transport", lambda endpoint: fake)
        return fake

    return put


@pytest.fixture
def picture(tmp_path: Path) -> str:
    (tmp_path / "a.jpg").write_bytes(b"picture")
    return str(tmp_path / "a.jpg")


def add_command(monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int]) -> None:
    """Register the command ``serve`` as another area would."""
    module: Any = ModuleType("fake_command")
    module.HELP = "a command of another area"
    module.add_arguments = lambda parser: parser.add_argument("--json", action="store_true")
    module.run = run
    monkeypatch.setitem(__import__("sys").modules, "fake_command", module)
    entries = {EntryPoint("serve", "fake_command", GROUP), EntryPoint("export", "no_such_module", GROUP)}
    monkeypatch.setattr("warmswap_client.cli.entry_points", lambda group: entries)


def test_every_registered_command_has_an_extra() -> None:
    assert {entry.name for entry in entry_points(group=GROUP)} == EXTRAS.keys()


def test_overview_lists_commands_and_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add_command(monkeypatch, lambda args: 0)
    assert main(["--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "serve a command of another area" in out
    assert "export (not installed: pip install 'warmswap[export]')" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("warmswap ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([], "usage: warmswap", id="nothing"),
        pytest.param(["stat"], "did you mean 'status'?", id="typo"),
        pytest.param(["xyzzy"], "choose from analyze, bench", id="unknown"),
    ],
)
def test_usage_errors_exit_with_2(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.out == ""


def test_bad_arguments_exit_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["wait", "--timeout", "0"], ["swap"], ["wait", "--timeout", "soon"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: warmswap " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "message", "exit_code", "kind", "code"),
    [
        ("INTERNAL", "stage_failed: x", 1, "ServerFailedError", "stage_failed"),
        ("UNAVAILABLE", "overloaded: x", 1, "ServerBusyError", "overloaded"),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", 3, "UnknownModelError", None),
        ("UNAVAILABLE", "Connection refused", 3, "ServerUnreachableError", None),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", 4, "RequestTimeoutError", None),
        ("INVALID_ARGUMENT", "no_face: none\nTraceback", 5, "NoFaceError", "no_face"),
    ],
)
def test_failures_have_exit_codes_and_one_line(
    install: Install,
    capsys: pytest.CaptureFixture[str],
    picture: str,
    status: str,
    message: str,
    exit_code: int,
    kind: str,
    code: str | None,
) -> None:
    install(FakeTransport(fail_first(9, status, message)))
    assert main(["analyze", picture]) == exit_code
    human = capsys.readouterr()
    assert human.err.startswith("error: ")
    assert (human.err.count("\n"), human.out) == (1, "")

    assert main(["analyze", picture, "--json"]) == exit_code
    machine = capsys.readouterr()
    error = json.loads(machine.err)["error"]
    assert (error["type"], error["code"]) == (kind, code)
    assert error["message"] in human.err
    assert (machine.err.count("\n"), machine.out) == (1, "")


@pytest.mark.parametrize("arguments", [["--url", "ftp://x"], ["no-such-file.jpg"]], ids=["url", "file"])
def test_wrong_url_and_missing_file_are_usage_errors(
    install: Install, capsys: pytest.CaptureFixture[str], picture: str, arguments: list[str]
) -> None:
    install(FakeTransport(answer_all))
    assert main(["analyze", *([picture] if len(arguments) == 2 else []), *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_error_of_another_area_exits_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class LauncherError(Exception):
        exit_code = 7

    def run(args: argparse.Namespace) -> int:
        raise LauncherError("the port is taken")

    add_command(monkeypatch, run)
    assert main(["serve"]) == 7
    assert capsys.readouterr().err == "error: the port is taken\n"


def test_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    add_command(monkeypatch, run)
    with pytest.raises(ZeroDivisionError):
        main(["serve"])


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    add_command(monkeypatch, run)
    assert main(["serve"]) == 130
    assert capsys.readouterr().err == "error: stopped\n"


def test_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(args: argparse.Namespace) -> int:
        import no_such_library  # type: ignore[import-not-found]  # noqa: F401

        return 0

    add_command(monkeypatch, run)
    assert main(["serve"]) == 1
    assert "needs the module 'no_such_library'" in (message := capsys.readouterr().err)
    assert "pip install 'warmswap[server]'" in message
    assert main(["export"]) == 1
    assert "pip install 'warmswap[export]'" in capsys.readouterr().err


def test_analyze_prints_embeddings_only_on_request(
    install: Install, capsys: pytest.CaptureFixture[str], picture: str
) -> None:
    fake = install(FakeTransport(lambda request: analysis_answer(2, embedding_dim=3)))
    assert main(["analyze", picture, "--json", "--min-score", "0.5", "--max-faces", "4"]) == 0
    faces = json.loads(capsys.readouterr().out)["faces"]
    assert [set(face) for face in faces] == [{"bbox", "score", "kps"}] * 2
    assert faces[0]["kps"]["nose"] == [50.0, 50.0]
    assert fake.requests[0].parameters == {"min_score": "0.5", "max_faces": 4}

    assert main(["analyze", picture, "--json", "--embedding"]) == 0
    assert json.loads(capsys.readouterr().out)["faces"][1]["embedding"] == [0.25, 0.25, 0.25]

    assert main(["analyze", picture]) == 0
    assert "2 faces" in capsys.readouterr().out


def test_status_of_a_ready_server(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(FakeTransport(answer_all))
    assert main(["status", "--url", "grpc://fake", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["url"], status["live"], status["ready"]) == ("grpc://fake:8001", True, True)
    assert status["server"] == {"name": "warmswap/0.1.0 onnxruntime/1.32.0", "version": "2.51.0"}
    assert status["runtime"] == {"triton": "2.51.0", "warmswap": "0.1.0", "onnxruntime": "1.32.0"}
    assert {"name": "face_swap", "version": "1", "state": "READY", "reason": ""} in status["models"]
    assert main(["status"]) == 0
    assert "face_swap ready" in capsys.readouterr().out


def test_status_exits_with_1_while_the_pipeline_is_not_ready(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(FakeTransport(answer_all, ready={"face_analysis"}))
    assert main(["status", "--json"]) == 1
    status = json.loads(capsys.readouterr().out)
    assert (status["live"], status["ready"]) == (True, False)


def test_status_of_nobody_still_prints_json(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(FakeTransport(answer_all))
    main(["status", "--json"])
    keys = json.loads(capsys.readouterr().out).keys()
    install(FakeTransport(answer_all, reachable=False))
    assert main(["status", "--json"]) == 3
    captured = capsys.readouterr()
    status = json.loads(captured.out)
    assert (status["live"], status["ready"], status["models"]) == (False, False, [])
    assert keys <= status.keys()
    assert json.loads(captured.err)["error"]["type"] == "ServerUnreachableError"
    assert main(["status"]) == 3
    assert capsys.readouterr().out == ""


def test_wait(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    fake = install(FakeTransport(answer_all))
    assert main(["wait", "--timeout", "1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["model"], answer["ready"]) == ("face_swap", True)
    fake.ready = set()
    assert main(["wait", "--timeout", "0.15", "--model", "face_analysis", "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "face_analysis" in json.loads(captured.err)["error"]["message"]
