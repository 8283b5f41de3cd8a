"""A real MLflow registry, in a SQLite file, as the source of a candidate."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ops.mounts import with_tmpfs
from tests.ops.test_candidate_sources import OPEN
from tests.ops.toys import write_pipeline, write_stage
from warmswap_ensemble.contract import FACE_SWAP
from warmswap_ops.errors import MachineError, OpsError, RepositoryError, UsageError
from warmswap_ops.provisioning.content import tree_digest
from warmswap_ops.provisioning.source import file_sha256
from warmswap_ops.rollout.sources import mlflow_registry
from warmswap_ops.rollout.sources.mlflow_registry import register_candidate
from warmswap_ops.rollout.sources.open_candidate import OpenedCandidate, open_candidate

for name, value in mlflow_registry._DEFAULTS.items():
    os.environ.setdefault(name, value)  # before the import, as the module does it
import mlflow  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "model_repository/face_swapper/1"
NAME = "face_swapper"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a registry that is still to be made."""
    uri = f"sqlite:///{tmp_path}/registry/mlflow.db"
    (tmp_path / "registry").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    yield uri
    assert not (tmp_path / "mlruns").exists()


@pytest.fixture
def client(registry: str) -> Any:
    return mlflow.MlflowClient(tracking_uri=registry, registry_uri=registry)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def run(source: str, work: Path, sha256: str | None = None) -> OpenedCandidate:
    return open_candidate(source, work, sha256=sha256, progress=lambda count: None)


def assert_refused(kind: type[OpsError], words: str, source: str, work: Path, sha256: str | None = None) -> str:
    with pytest.raises(kind, match=words) as caught:
        run(source, work, sha256)
    assert not work.exists() or not list(work.iterdir())
    return str(caught.value)


def artefact(tmp_path: Path, name: str) -> Path:
    (path,) = (tmp_path / "registry").rglob(name)
    return path


def test_what_was_registered_comes_back(registry: str, client: Any, work: Path) -> None:
    assert register_candidate(COMMITTED, NAME, "champion", None) == "models:/face_swapper/1"
    opened = run("models:/face_swapper@champion", work, tree_digest(COMMITTED))
    assert {path.name: file_sha256(path) for path in opened.folder.iterdir()} == {
        path.name: file_sha256(path) for path in COMMITTED.iterdir()
    }
    assert opened.digest == tree_digest(COMMITTED)
    version = client.get_model_version(NAME, "1")
    assert opened.origin == f"models:/face_swapper@champion (version 1, run {version.run_id})"
    assert run("models:/face_swapper/1", work).origin == f"models:/face_swapper/1 (version 1, run {version.run_id})"
    known = client.get_run(version.run_id)
    assert known.info.status == "FINISHED"
    assert known.data.params["licence"] == "Apache-2.0"
    assert known.data.params["name"] == "geometric"
    assert version.tags == {"warmswap.digest": opened.digest}


def test_an_alias_leads_where_it_was_set_last(registry: str, client: Any, tmp_path: Path, work: Path) -> None:
    stage = write_stage(tmp_path / "repository", NAME)
    assert register_candidate(COMMITTED, NAME, "champion", registry) == "models:/face_swapper/1"
    assert register_candidate(stage.parent, NAME, None, registry) == "models:/face_swapper/2"
    assert "version 1, " in run("models:/face_swapper@champion", work).origin
    client.set_registered_model_alias(NAME, "champion", "2")
    opened = run("models:/face_swapper@champion", work)
    assert "version 2, " in opened.origin
    assert opened.digest == tree_digest(stage)


def test_a_pipeline_without_a_manifest_comes_back(registry: str, tmp_path: Path, work: Path) -> None:
    write_pipeline(tmp_path / "repository", FACE_SWAP.name)
    folder = tmp_path / "repository" / FACE_SWAP.name / "1"
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.pyc").write_bytes(b"")
    source = register_candidate(folder, FACE_SWAP.name, None, None)
    assert run(source, work).digest == tree_digest(folder)
    artefact(tmp_path, "model.py").write_text("raise SystemExit")
    shutil.rmtree(work)
    assert_refused(RepositoryError, "was registered with [0-9a-f]{64}: corrupt or replaced", source, work)


def by_hand(client: Any, folder: Path) -> str:
    """Register artefacts as another program would."""
    run_id = client.create_run(mlflow_registry._experiment(client, os.environ["MLFLOW_TRACKING_URI"])).info.run_id
    client.log_artifacts(run_id, str(folder), "any")
    client.create_registered_model("other")
    version = client.create_model_version("other", f"runs:/{run_id}/any", run_id).version
    return f"models:/other/{version}"


def test_the_manifest_may_lie_anywhere(registry: str, client: Any, tmp_path: Path, work: Path) -> None:
    shutil.copytree(COMMITTED, tmp_path / "model/extra/face_swapper")
    (tmp_path / "model/MLmodel").write_text("flavors: {}")
    opened = run(by_hand(client, tmp_path / "model"), work)
    assert opened.digest == tree_digest(COMMITTED)


def test_no_manifest_or_two_are_refused(registry: str, client: Any, tmp_path: Path, work: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/MLmodel").write_text("flavors: {}")
    assert_refused(RepositoryError, "holds neither a manifest.json", by_hand(client, tmp_path / "model"), work)
    for name in ("one", "two"):
        shutil.copytree(COMMITTED, tmp_path / "model" / name)
    client.delete_registered_model("other")
    assert_refused(RepositoryError, "holds 2 versions", by_hand(client, tmp_path / "model"), work)


def test_what_is_not_registered_is_refused(registry: str, work: Path) -> None:
    register_candidate(COMMITTED, NAME, "champion", None)
    for source, words in [
        ("models:/face_swapper@challenger", "alias challenger not found"),
        ("models:/face_swapper/2", "version=2.* not found"),
        ("models:/face_detector/1", "not found"),
        ("models:/face_detector@champion", "not found"),
    ]:
        assert registry in assert_refused(RepositoryError, words, source, work)
    assert_refused(RepositoryError, f"not {'0' * 64}", "models:/face_swapper/1", work, "0" * 64)


def test_artefacts_that_were_changed_are_refused(registry: str, tmp_path: Path, work: Path) -> None:
    source = register_candidate(COMMITTED, NAME, None, None)
    content = artefact(tmp_path, "model.onnx").read_bytes()
    artefact(tmp_path, "model.onnx").write_bytes(content + b"\0")
    assert_refused(RepositoryError, "corrupt or replaced", source, work)
    artefact(tmp_path, "model.onnx").unlink()
    assert_refused(RepositoryError, "corrupt or replaced", source, work)
    shutil.rmtree(artefact(tmp_path, "manifest.json").parent)
    assert_refused(RepositoryError, "Failed to download artifacts", source, work)


def test_a_changed_artefact_of_another_program_is_refused(
    registry: str, client: Any, tmp_path: Path, work: Path
) -> None:
    source = by_hand(client, COMMITTED)
    with artefact(tmp_path, "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert_refused(RepositoryError, "sha256 is .*, manifest.json says", source, work)


def test_no_registry_is_said_and_none_is_made(registry: str, tmp_path: Path, work: Path) -> None:
    assert_refused(MachineError, "there is no registry .*mlflow.db; set MLFLOW_TRACKING_URI", "models:/a/1", work)
    assert not list((tmp_path / "registry").iterdir())


def test_a_registry_that_does_not_answer_is_said_without_its_password(
    registry: str, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    message = assert_refused(MachineError, "cannot reach or use models:/a/1 in http://127.0.0.1:9", "models:/a/1", work)
    assert "secret" not in message
    with pytest.raises(RepositoryError, match="unsupported URI 'ftp://nowhere'"):
        register_candidate(COMMITTED, NAME, None, "ftp://nowhere")


def test_a_corrupt_registry_is_said(registry: str, tmp_path: Path, work: Path) -> None:
    (tmp_path / "registry/mlflow.db").write_bytes(b"no database" * 1000)
    assert_refused(MachineError, "cannot reach or use", "models:/a/1", work)


def test_what_is_no_version_is_not_registered(registry: str, tmp_path: Path) -> None:
    stage = write_stage(tmp_path / "repository", NAME)
    (stage / "model.onnx").write_bytes(b"")
    for folder, words in ((stage, "corrupt or replaced"), (tmp_path / "missing", "no such folder")):
        with pytest.raises(RepositoryError, match=words):
            register_candidate(folder, NAME, None, None)
    for alias in ("latest", "v1", "a b", ""):
        with pytest.raises(UsageError, match="alias"):
            register_candidate(COMMITTED, NAME, alias, None)
    assert not list((tmp_path / "registry").iterdir())


def test_a_name_that_a_registry_does_not_take_is_refused(registry: str, client: Any) -> None:
    with pytest.raises(RepositoryError, match="MLflow refuses a/b"):
        register_candidate(COMMITTED, "a/b", None, None)
    (known,) = client.search_runs([client.get_experiment_by_name(mlflow_registry.EXPERIMENT).experiment_id])
    assert known.info.status == "FAILED"


def test_a_full_disk_is_said_and_leaves_nothing(registry: str, work: Path) -> None:
    register_candidate(COMMITTED, NAME, None, None)
    assert sum(path.stat().st_size for path in COMMITTED.iterdir()) > 64 << 10
    work.mkdir()
    command = [*with_tmpfs(work, "64k"), sys.executable, "-c", OPEN, "models:/face_swapper/1", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, cwd=ROOT)
    assert done.stdout.startswith("MachineError: cannot write into")
    assert "No space left" in done.stdout
    assert done.stdout.splitlines()[1:] == ["[]"]


def test_nothing_is_told_to_anybody() -> None:
    command = [
        sys.executable,
        "-c",
        "from warmswap_ops.rollout.sources import mlflow_registry as m; m._import()\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled as off; print(off())",
    ]
    environment = {
        name: text for name, text in os.environ.items() if name not in mlflow_registry._DEFAULTS and name != "CI"
    }
    environment.pop("PYTEST_CURRENT_TEST", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    assert done.stdout.strip() == "True"
