from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.toys import PIPELINE_NAMES, STAGE_NAMES, write_repository, write_stage
from warmswap_ops.config_text import VersionPolicy, parse_version_policy
from warmswap_ops.errors import RepositoryError
from warmswap_ops.repository import find_repository, read_repository, verify


@pytest.mark.parametrize(
    ("config", "served"),
    [
        pytest.param("", [10], id="Triton's default"),
        pytest.param("version_policy { latest { num_versions: 2 } }", [2, 10], id="latest"),
        pytest.param("version_policy: { all { } }", [1, 2, 10], id="all"),
        pytest.param("version_policy { specific { versions: [ 1, 2 ] } }", [1, 2], id="specific"),
        pytest.param("version_policy { specific { versions: 1 versions: 7 } }", [1], id="specific, one is not there"),
        pytest.param("# version_policy { all { } }", [10], id="comment"),
        pytest.param('name: "version_policy { all {} }"', [10], id="in a string"),
        pytest.param("parameters { key: 'version_policy' }", [10], id="in a string of one quote"),
        pytest.param('input [ { name: "}" } ] version_policy{all{}}', [1, 2, 10], id="after braces in a string"),
    ],
)
def test_version_policy(config: str, served: list[int]) -> None:
    assert parse_version_policy(config).choose([1, 2, 10]) == served


def test_policy_without_rules_is_the_latest() -> None:
    assert VersionPolicy().choose([3, 12, 4]) == [12]


def test_repository_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("given", "variable", "here/model_repository"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    environ = {"WARMSWAP_REPOSITORY": str(tmp_path / "variable")}
    assert find_repository(tmp_path / "given", environ) == tmp_path / "given"
    assert find_repository(None, environ) == tmp_path / "variable"
    assert find_repository(None, {}) == tmp_path / "here/model_repository"
    monkeypatch.chdir(tmp_path)
    assert find_repository(None, {}) == Path(__file__).resolve().parents[2] / "model_repository"
    with pytest.raises(RepositoryError, match=r"--repository: .*nowhere is not a folder"):
        find_repository(tmp_path / "nowhere", environ)


def test_every_served_version_is_read_and_verified(tmp_path: Path) -> None:
    write_repository(tmp_path)
    served = read_repository(tmp_path, STAGE_NAMES, PIPELINE_NAMES)
    assert [(version.model, version.version) for version in served] == [
        (name, 1) for name in (*STAGE_NAMES, *PIPELINE_NAMES)
    ]
    assert all((version.manifest is not None) == (version.model in STAGE_NAMES) for version in served)
    verify(served)
    (tmp_path / "face_landmarker/1/model.onnx").unlink()
    with pytest.raises(RepositoryError, match=r"model face_landmarker: .*model\.onnx.*cannot be read"):
        verify(served)


def test_versions_that_are_not_served_may_be_corrupt(tmp_path: Path) -> None:
    folder = write_stage(tmp_path, "face_embedder")
    (tmp_path / "face_embedder/2").mkdir()
    for name in ("model.onnx", "manifest.json"):
        text = (folder / name).read_bytes().replace(b'"version": 1', b'"version": 2')
        (tmp_path / "face_embedder/2" / name).write_bytes(text)
    (folder / "model.onnx").write_bytes(b"half a file")
    verify(read_repository(tmp_path, ["face_embedder"], []))


def test_named_configuration_decides_what_is_served(tmp_path: Path) -> None:
    write_stage(tmp_path, "face_embedder")
    (tmp_path / "face_embedder/configs").mkdir()
    (tmp_path / "face_embedder/configs/gpu.pbtxt").write_text("version_policy { specific { versions: 9 } }")
    assert read_repository(tmp_path, ["face_embedder"], [])
    with pytest.raises(RepositoryError, match="no version"):
        read_repository(tmp_path, ["face_embedder"], [], "gpu")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="lacks face_detector, face_swap"):
        read_repository(tmp_path, ["face_detector"], ["face_swap"])
    folder = write_stage(tmp_path, "face_detector")
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace("face_detector", "other"))
    with pytest.raises(RepositoryError, match="belongs to other version 1"):
        read_repository(tmp_path, ["face_detector"], [])
    (folder / "manifest.json").unlink()
    with pytest.raises(RepositoryError, match=r"face_detector: .*manifest\.json: missing"):
        read_repository(tmp_path, ["face_detector"], [])
    (tmp_path / "face_detector/config.pbtxt").unlink()
    with pytest.raises(RepositoryError, match=r"config\.pbtxt cannot be read"):
        read_repository(tmp_path, ["face_detector"], [])
