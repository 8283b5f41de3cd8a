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


@pytest.mark.parametrize(("allowed", "written"), [(True, True), (False, False), (None, "unknown")])
def test_commercial_use_is_yes_no_or_unknown(allowed: bool | None, written: object, tmp_path: Path) -> None:
    path = a_manifest(commercial_use=allowed).write(tmp_path)
    values = json.loads(path.read_text())
    assert values["commercial_use"] == written
    assert read_manifest(tmp_path).commercial_use is allowed


def test_manifest_of_an_older_exporter_still_reads(tmp_path: Path) -> None:
    values = asdict(a_manifest())
    for name in ("licence_note", "twin_seed", "precision"):
        del values[name]
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(values))
    manifest = read_manifest(tmp_path)
    assert manifest == a_manifest()
    assert (manifest.licence_note, manifest.twin_seed, manifest.precision) == ("", None, "fp32")
    assert manifest.commercial_use is None, "null means unknown"


def test_new_fields_come_back_and_a_seed_makes_a_twin(tmp_path: Path) -> None:
    manifest = a_manifest(licence_note="Research only.", twin_seed=0, precision="fp16")
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    assert manifest.twin
    assert not a_manifest().twin


WRONG_VALUES = [
    ("model", 7, "a text"),
    ("version", "1", "a whole number above 0"),
    ("version", True, "a whole number above 0"),
    ("version", 0, "a whole number above 0"),
    ("version", 1.0, "a whole number above 0"),
    ("name", None, "a text"),
    ("pack", [], "a text"),
    ("files", [], "an object of file name to sha256"),
    ("files", {"model.onnx": 1}, "an object of file name to sha256"),
    ("origin", {}, "a list of objects of texts"),
    ("origin", ["pypi"], "a list of objects of texts"),
    ("origin", [{"package": 1}], "a list of objects of texts"),
    ("licence", None, "a text"),
    ("commercial_use", "yes", 'true, false or "unknown"'),
    ("commercial_use", "true", 'true, false or "unknown"'),
    ("commercial_use", "Unknown", 'true, false or "unknown"'),
    ("commercial_use", 1, 'true, false or "unknown"'),
    ("commercial_use", 0, 'true, false or "unknown"'),
    ("commercial_use", [], 'true, false or "unknown"'),
    ("exporter", 1, "a text"),
    ("opset", "17", "a whole number"),
    ("parity", [], "an object of objects"),
    ("parity", {"pytorch": 1}, "an object of objects"),
    ("settings", None, "an object"),
    ("licence_note", None, "a text"),
    ("twin_seed", "7", "a whole number or null"),
    ("twin_seed", False, "a whole number or null"),
    ("precision", 16, "a text"),
    ("compiled", True, 'an object with "files" and "source", or null'),
    ("compiled", {"files": {"model.compiled.onnx": "0"}}, 'an object with "files" and "source", or null'),
]


@pytest.mark.parametrize(("field", "value", "expected"), WRONG_VALUES)
def test_wrong_value_is_named_with_file_field_and_what_was_expected(
    field: str, value: object, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text(json.dumps(asdict(a_manifest()) | {field: value}))
    with pytest.raises(ManifestError) as caught:
        read_manifest(tmp_path)
    assert str(caught.value) == f"{path}: {field} must be {expected}, got {json.dumps(value)}"


def test_every_field_is_checked() -> None:
    assert {field for field, _, _ in WRONG_VALUES} == asdict(a_manifest()).keys() - {"schema_version"}


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
    for name in ("10", "9", "2", "0", "01", "-1", "v3", "1.5", "warmup"):
        (tmp_path / name).mkdir()
    (tmp_path / "4").write_text("a file")
    assert [path.name for path in version_dirs(tmp_path)] == ["2", "9", "10"]
    assert version_dirs(tmp_path / "nowhere") == []
