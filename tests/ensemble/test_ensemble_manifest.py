from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from warmswap_ensemble.manifest import (
    MANIFEST_NAME,
    Manifest,
    ManifestError,
    read_manifest,
    verify_files,
    version_dirs,
)

GRAPH = b"not really a graph"


def a_manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "model": "face_detector",
        "version": 1,
        "name": "toy",
        "pack": "open",
        "files": {"model.onnx": hashlib.sha256(GRAPH).hexdigest()},
        "origin": [],
        "licence": "MIT",
        "commercial_use": None,
        "exporter": "warmswap 0",
        "opset": 17,
        "parity": {},
        "settings": {"input_size_hw": [640, 640]},
    }
    return Manifest(**(values | changes))


def test_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = a_manifest()
    assert manifest.write(tmp_path) == tmp_path / MANIFEST_NAME
    assert read_manifest(tmp_path) == manifest


def edited(change: Callable[[dict[str, Any]], object]) -> str:
    values = asdict(a_manifest())
    change(values)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "cannot be read", id="empty"),
        pytest.param("{", "cannot be read", id="cut short"),
        pytest.param("\udcff", "cannot be read", id="not utf-8"),
        pytest.param("[]", "must hold a JSON object, got list", id="list"),
        pytest.param("null", "must hold a JSON object, got NoneType", id="null"),
        pytest.param("{}", "schema_version must be 1, got None", id="no schema"),
        pytest.param(edited(lambda v: v.update(schema_version=2)), "schema_version must be 1, got 2", id="new schema"),
        pytest.param(edited(lambda v: v.update(colour="red")), "unexpected keyword argument 'colour'", id="unknown"),
        pytest.param(edited(lambda v: v.pop("settings")), "missing 1 required .*'settings'", id="lacks a field"),
    ],
)
def test_manifest_that_cannot_be_used_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(tmp_path)
    assert caught.value.path == tmp_path / MANIFEST_NAME
    assert str(caught.value).startswith(str(tmp_path / MANIFEST_NAME))


def test_missing_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json: missing; export the model again"):
        read_manifest(tmp_path)


def test_files_that_fit_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(GRAPH)
    verify_files(tmp_path, a_manifest())
    verify_files(tmp_path, a_manifest(files={}))


def test_one_changed_byte_is_found(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(GRAPH[:-1] + b"?")
    with pytest.raises(ManifestError, match=r"model\.onnx: sha256 is [0-9a-f]{64}, manifest\.json says [0-9a-f]{64}"):
        verify_files(tmp_path, a_manifest())


def test_missing_file_is_found(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"model\.onnx: named in manifest\.json but cannot be read: No such file"):
        verify_files(tmp_path, a_manifest())


def test_folder_in_place_of_a_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(ManifestError, match=r"model\.onnx: .*cannot be read: Is a directory"):
        verify_files(tmp_path, a_manifest())


def test_digest_changes_with_any_file_and_not_with_their_order() -> None:
    one = a_manifest(files={"a": "1", "b": "2"})
    assert one.sha256 == a_manifest(files={"b": "2", "a": "1"}).sha256
    others = [a_manifest(files=files).sha256 for files in ({}, {"a": "1"}, {"a": "1", "b": "3"}, {"a": "1", "c": "2"})]
    assert len({one.sha256, *others}) == 5


def test_version_dirs_are_in_numeric_order(tmp_path: Path) -> None:
    for name in ("10", "9", "2", "0", "-1", "v3", "1.5", "warmup"):
        (tmp_path / name).mkdir()
    (tmp_path / "4").write_text("a file")
    assert [path.name for path in version_dirs(tmp_path)] == ["2", "9", "10"]
    assert version_dirs(tmp_path / "nowhere") == []
