"""Licences, identity spaces and twins with the real models and the real Triton."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pictures import COLLINS_PATH, HOPPER_PATH
from tests.e2e.repositories import REPOSITORY, copy_repository
from tests.e2e.serve import Serve, warmswap
from warmswap_ensemble.contract import MODELS
from warmswap_ops.control import ControlClient
from warmswap_ops.errors import EXIT_FINDINGS, LicenceError, ModelLoadError, RepositoryError, UsageError
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return copy_repository(tmp_path / "model_repository")


def change_manifest(repository: Path, model: str, **values: Any) -> None:
    path = repository / model / "1/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def want_arcface(repository: Path) -> None:
    settings = json.loads((repository / "face_swapper/1/manifest.json").read_text())["settings"]
    wanted = {"identity": ["source_embedding"], "embedding_space": "arcface_w600k_r50", "embedding_length": 512}
    change_manifest(repository, "face_swapper", settings={**settings, **wanted})


MISMATCH = (
    "face_swapper 1 wants embeddings of the space arcface_w600k_r50 (512 numbers), but face_embedder 1 makes "
    "dlib_resnet_v1 (128 numbers): pin another version with parameter stage_version.face_embedder"
)


def refusal(serve: Serve, exit_code: int) -> str:
    """Return why a start was refused: one line, and before the server was started."""
    assert serve.wait() == exit_code, serve.errors()
    (line,) = serve.errors().splitlines()
    assert [phase["phase"] for phase in serve.phases()] == ["failed"]
    message = str(json.loads(line)["error"]["message"])
    assert serve.phases()[0]["error"] == message
    serve.assert_nothing_left()
    return message


def test_swapper_whose_embeddings_nobody_makes_is_refused_before_the_server_starts(
    repository: Path, tmp_path: Path
) -> None:
    want_arcface(repository)
    with Serve(repository, tmp_path) as serve:
        assert MISMATCH in refusal(serve, RepositoryError.exit_code)


def test_swapper_whose_embeddings_nobody_makes_is_refused_by_the_pipeline_itself(repository: Path) -> None:
    """Loaded later through the control API, where no launcher looks."""
    want_arcface(repository)
    with LocalTriton(repository, pipelines=("face_analysis",)) as server, ControlClient(server.grpc_url) as control:
        with pytest.raises(ModelLoadError) as caught:
            control.load("face_swap")
        assert MISMATCH in str(caught.value)


def test_policy_commercial_serves_the_shipped_repository(repository: Path, tmp_path: Path) -> None:
    with Serve(repository, tmp_path, "--policy=commercial") as serve:
        preflight = serve.phase("preflight")
        assert (preflight["policy"], preflight["licences"]) == ("commercial", [])
        ready = serve.phase("ready")
        assert ready["versions"] == dict.fromkeys(MODELS, "1")
        assert ready["twins"] == []
        assert serve.errors() == ""
        serve.terminate()
        assert serve.wait() == 0


@pytest.mark.parametrize(
    ("allowed", "word"), [(False, "commercial use forbidden"), ("unknown", "unknown whether commercial use is allowed")]
)
def test_policy_commercial_refuses_what_is_not_cleared(
    repository: Path, tmp_path: Path, allowed: object, word: str
) -> None:
    change_manifest(repository, "face_embedder", commercial_use=allowed, licence_note="Nobody may sell this.")
    with Serve(repository, tmp_path, "--policy=commercial") as serve:
        message = refusal(serve, LicenceError.exit_code)
    for words in ("face_embedder 1, dlib ResNet v1, licence MIT AND CC0-1.0", word, "Nobody may sell this.", "remove"):
        assert words in message
    assert "face_swapper" not in message


def test_policy_of_the_environment_counts_and_a_wrong_one_is_named(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_manifest(repository, "face_embedder", commercial_use=False)
    for value, exit_code, words in (
        ("commercial", LicenceError.exit_code, "face_embedder 1"),
        ("comercial", UsageError.exit_code, "$WARMSWAP_POLICY must be commercial or any, got 'comercial'"),
    ):
        monkeypatch.setitem(os.environ, "WARMSWAP_POLICY", value)
        with Serve(repository, tmp_path) as serve:
            assert words in refusal(serve, exit_code)


def test_policy_any_warns_and_twins_are_loud_everywhere(repository: Path, tmp_path: Path) -> None:
    change_manifest(repository, "face_swapper", commercial_use="unknown", twin_seed=0)
    with Serve(repository, tmp_path, "--verbose") as serve:
        ready = serve.phase("ready")
        assert serve.phase("preflight")["licences"] == [
            {
                "model": "face_swapper",
                "version": 1,
                "name": "geometric",
                "licence": "Apache-2.0",
                "commercial_use": "unknown",
            }
        ]
        assert ready["twins"] == ["face_swapper 1"]
        files = ("--source", COLLINS_PATH, "--target", HOPPER_PATH, "--output", tmp_path / "out.jpg")
        swapped = warmswap("swap", "--json", "--url", f"grpc://{ready['urls']['grpc']}", *files)
        assert swapped.returncode == 0
        assert json.loads(swapped.stdout)["twins"] == ["face_swapper 1"]
        assert swapped.stderr.startswith("warning: face_swapper 1: twins with random weights")
        lines = serve.errors().splitlines()
        assert lines[0].startswith("warning: licence: face_swapper 1, geometric, licence Apache-2.0, unknown whether")
        assert lines[1].startswith("warning: TWIN: face_swapper 1, geometric: its weights are random numbers (seed 0)")
        logged = [line for line in lines[2:] if "face_swap 1: the weights of face_swapper 1 are random numbers" in line]
        assert logged
        assert all(line.startswith("W") for line in logged)
        serve.terminate()
        assert serve.wait() == 0


def flip_a_bit(repository: Path) -> None:
    path = repository / "face_swapper/1/model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_lint_of_the_shipped_repository_is_clean() -> None:
    linted = warmswap("lint", "--repository", REPOSITORY, "--policy", "commercial", "--json")
    assert linted.returncode == 0, linted.stdout
    report = json.loads(linted.stdout)
    # A server that ran from this repository left bytecode behind, which is a warning.
    assert [finding for finding in report["findings"] if finding["rule"] != "bytecode_is_not_in_versions"] == []
    assert {(version["model"], version["version"]) for version in report["versions"]} == {
        (name, 1) for name in (*MODELS, "face_swapper_512")
    }
    stages = [version for version in report["versions"] if version["name"]]
    assert {version["commercial_use"] for version in stages} == {True}
    assert {version["twin_seed"] for version in stages} == {None}
    assert {version["model"]: version["embedding_space"] for version in stages} == {
        "face_detector": None,
        "face_landmarker": None,
        "face_embedder": "dlib_resnet_v1",
        "face_swapper": None,
        "face_swapper_512": None,
    }
    text = warmswap("lint", "--repository", REPOSITORY).stdout.splitlines()
    assert text.index("") == 1 + len(report["versions"])


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [(want_arcface, "swapper_has_an_embedder"), (flip_a_bit, "files_are_those_of_the_manifest")],
)
def test_lint_finds_what_serve_would_refuse(repository: Path, spoil: Callable[[Path], None], rule: str) -> None:
    spoil(repository)
    linted = warmswap("lint", "--repository", repository, "--json")
    assert linted.returncode == EXIT_FINDINGS
    assert [finding["rule"] for finding in json.loads(linted.stdout)["findings"]] == [rule]
