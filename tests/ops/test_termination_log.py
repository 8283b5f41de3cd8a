"""The reason of a failure, where Kubernetes looks for it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.ops.serve_process import ServeProcess
from tests.ops.toys import write_repository
from warmswap_ops import termination_log
from warmswap_ops.termination_log import MOST_BYTES, VARIABLE, write_termination_log


def test_only_a_file_that_is_there_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "termination-log"
    monkeypatch.setattr(termination_log, "DEFAULT_PATH", path)
    write_termination_log("why", {})
    assert not path.exists()
    path.write_text("of an earlier container, and longer than what comes\n")
    write_termination_log("why\nit ended", {})
    assert path.read_text() == "why it ended\n"


def test_variable_names_another_file(tmp_path: Path) -> None:
    write_termination_log("why", {VARIABLE: str(tmp_path / "log")})
    assert (tmp_path / "log").read_text() == "why\n"


def test_long_reason_is_cut(tmp_path: Path) -> None:
    write_termination_log("\u00e9" * MOST_BYTES, {VARIABLE: str(tmp_path / "log")})
    content = (tmp_path / "log").read_bytes()
    assert len(content) == MOST_BYTES
    assert content.endswith(b"\n")


@pytest.mark.parametrize("path", ["missing/folder/log", "."], ids=["no folder", "a folder"])
def test_a_file_that_cannot_be_written_is_no_failure(path: str, tmp_path: Path) -> None:
    write_termination_log("why", {VARIABLE: str(tmp_path / path)})


def test_failed_start_leaves_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "log"
    repository = write_repository(tmp_path / "repository")
    (repository / "face_detector/1/model.onnx").write_bytes(b"no graph")
    with ServeProcess(repository, env={VARIABLE: str(log)}) as serve:
        assert serve.wait() == 4
        assert log.read_text().startswith("model face_detector: ")
        assert log.read_text().strip() in serve.stderr()


@pytest.mark.triton
def test_a_good_life_leaves_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ServeProcess(write_repository(tmp_path / "repository"), env={VARIABLE: str(log)}) as serve:
        serve.phase("ready")
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0
    assert not log.exists()
