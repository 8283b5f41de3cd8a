"""The graphs, manifests and other files of the committed repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.model_repository.support import REPOSITORY, ROOT, tracked_files
from warmswap_ensemble.contract import (
    FACE_SWAP,
    MODELS,
    PIPELINE_STAGES,
    PIPELINES,
    STAGES,
    ModelSpec,
    TensorSpec,
    model_spec,
)
from warmswap_ensemble.geometry import WARP_TEMPLATES
from warmswap_ensemble.manifest import read_manifest, verify_files, version_dirs
from warmswap_ensemble.self_test import read_golden, read_warmup_pictures, request_digest
from warmswap_ensemble.stage_versions import resolve_stages

ONNX_TYPES = {"UINT8": "tensor(uint8)", "INT32": "tensor(int32)", "FP32": "tensor(float)"}
STAGE_NAMES = [*(spec.name for spec in STAGES), "face_swapper_512"]
VERSIONS = [path for name in STAGE_NAMES for path in version_dirs(REPOSITORY / name)]
NEEDED_SETTINGS = {
    "face_detector": {"input_size_hw", "frame_multiple", "min_score", "first_look"},
    "face_landmarker": {"crop_size", "warp_template"},
    "face_embedder": {"crop_size", "warp_template", "embedding_length", "embedding_space", "same_person_similarity"},
    "face_swapper": {"crop_size", "warp_template", "identity"},
}
"""What ``stage_calls`` and ``pipeline`` read from a manifest."""

MOST_BYTES = 30_000_000

every_version = pytest.mark.parametrize(
    "version_dir", VERSIONS, ids=[str(path.relative_to(REPOSITORY)) for path in VERSIONS]
)


def spec_of(version_dir: Path) -> ModelSpec:
    spec = model_spec(version_dir.parent.name)
    assert spec is not None
    return spec


def session_of(version_dir: Path) -> Any:
    return onnxruntime.InferenceSession(version_dir / "model.onnx", providers=["CPUExecutionProvider"])


def assert_fits(value: Any, tensor: TensorSpec) -> None:
    """Name, datatype, a free batch dimension, and each fixed dimension fixed in the graph too."""
    assert value.name == tensor.name
    assert value.type == ONNX_TYPES[tensor.datatype]
    batch, *dims = value.shape
    assert isinstance(batch, str)
    assert len(dims) == len(tensor.shape)
    for wanted, found in zip(tensor.shape, dims, strict=True):
        assert wanted in (-1, found) or isinstance(found, str), (value.name, tensor.shape, value.shape)


def test_every_model_has_a_version() -> None:
    assert {path.parent.name for path in VERSIONS} == set(STAGE_NAMES)
    assert all(version_dirs(REPOSITORY / name) for name in MODELS)


@every_version
def test_graph_has_the_tensors_of_the_contract(version_dir: Path) -> None:
    spec, session = spec_of(version_dir), session_of(version_dir)
    for specs, values in ((spec.inputs, session.get_inputs()), (spec.outputs, session.get_outputs())):
        assert sorted(value.name for value in values) == sorted(tensor.name for tensor in specs)
        by_name = {value.name: value for value in values}
        for tensor in specs:
            assert_fits(by_name[tensor.name], tensor)


@every_version
def test_graph_answers_its_warmup_with_the_shapes_of_the_contract(version_dir: Path) -> None:
    spec, settings = spec_of(version_dir), read_manifest(version_dir).settings
    sides = settings.get("input_size_hw") or [settings["crop_size"]] * 2
    inputs = {}
    for tensor in spec.inputs:
        dtype: type[np.generic] = np.uint8 if tensor.datatype == "UINT8" else np.float32
        data = np.fromfile(version_dir.parent / "warmup" / f"{tensor.name}.raw", dtype)
        shape = (*sides, 3) if len(tensor.shape) == 3 else tuple(tensor.shape)
        inputs[tensor.name] = np.repeat(data.reshape(1, *shape), 2, axis=0)
    outputs = session_of(version_dir).run([tensor.name for tensor in spec.outputs], inputs)
    for tensor, array in zip(spec.outputs, outputs, strict=True):
        assert array.shape[0] == 2
        assert len(array.shape) == len(tensor.shape) + 1
        assert all(want in (-1, have) for want, have in zip(tensor.shape, array.shape[1:], strict=True))
        assert array.dtype == {"UINT8": np.uint8, "INT32": np.int32, "FP32": np.float32}[tensor.datatype]
        assert np.isfinite(array).all()
        np.testing.assert_allclose(array[0].astype(np.float64), array[1], atol=1e-4)
    by_name = {tensor.name: array for tensor, array in zip(spec.outputs, outputs, strict=True)}
    match spec.name:
        case "face_detector":
            assert by_name["num_faces"].tolist() == [[1], [1]]
            assert (np.diff(by_name["score"], axis=1) <= 0).all(), "highest score first, then padding of 0"
        case "face_landmarker":
            assert -0.2 < by_name["landmarks"].min() < by_name["landmarks"].max() < 1.2
        case "face_embedder":
            assert by_name["embedding"].shape[1] == settings["embedding_length"]
            np.testing.assert_allclose(np.linalg.norm(by_name["embedding"], axis=1), 1, atol=1e-4)
        case "face_swapper":
            mask = by_name["mask"]
            assert by_name["swapped_crop_rgb"].shape == (2, *sides, 3)
            assert mask.shape == (2, *sides)
            assert 0 <= mask.min() < 0.01 < 0.99 < mask.max() <= 1
            border = np.concatenate((mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]), axis=1)
            assert not border.any(), "a crop must fade out before it ends"
        case _:
            pytest.fail(f"{spec.name} is not checked here")


@every_version
def test_manifest_fits_its_folder_and_files(version_dir: Path) -> None:
    manifest = read_manifest(version_dir)
    verify_files(version_dir, manifest)
    assert (manifest.model, str(manifest.version)) == (version_dir.parent.name, version_dir.name)
    files = {path.name for path in version_dir.iterdir()} - {"manifest.json"}
    assert set(manifest.files) == files
    assert session_of(version_dir).get_modelmeta() is not None


@every_version
def test_licence_allows_commercial_use(version_dir: Path) -> None:
    manifest = read_manifest(version_dir)
    assert manifest.pack == "open"
    assert manifest.commercial_use is True
    assert set(manifest.licence.replace(" AND ", "|").split("|")) <= {"MIT", "Apache-2.0", "CC0-1.0", "BSD-3-Clause"}
    notices = (ROOT / "THIRD_PARTY_NOTICES.md").read_text(encoding="utf-8")
    for origin in manifest.origin:
        assert len(origin["sha256"]) == 64
        assert origin["package"] in notices, f"{origin['package']} is not in THIRD_PARTY_NOTICES.md"


@every_version
def test_settings_that_the_pipeline_reads_are_there(version_dir: Path) -> None:
    settings = read_manifest(version_dir).settings
    assert NEEDED_SETTINGS[spec_of(version_dir).name] <= set(settings)
    assert settings.get("warp_template", "dlib_150") in WARP_TEMPLATES
    assert 16 <= settings.get("crop_size", 16) <= 1024
    assert 0 < settings.get("min_score", 0.5) < 1
    assert -1 < settings.get("same_person_similarity", 0.5) < 1


@every_version
def test_parity_was_measured_and_passed(version_dir: Path) -> None:
    parity = read_manifest(version_dir).parity
    assert len(parity) >= 2
    for check, outputs in parity.items():
        assert outputs, check
        for name, figures in outputs.items():
            assert figures["largest_difference"] <= figures["tolerance"], (check, name)


@pytest.mark.parametrize("spec", PIPELINES, ids=lambda spec: spec.name)
def test_golden_answer_is_of_these_pictures_and_these_stages(spec: ModelSpec) -> None:
    stages = resolve_stages(spec.name, REPOSITORY, {})
    inputs = [tensor.name for tensor in spec.inputs if not tensor.optional]
    pictures = read_warmup_pictures(REPOSITORY / spec.name, inputs)
    for version_dir in version_dirs(REPOSITORY / spec.name):
        golden = read_golden(version_dir)
        assert golden is not None
        assert golden.is_asked(pictures)
        assert golden.sha256 == request_digest(pictures)
        assert golden.stages == {name: stage.sha256 for name, stage in stages.items()}
        assert tuple(golden.stages) or PIPELINE_STAGES[spec.name]
        if spec is FACE_SWAP:
            before, after = golden.similarities
            assert after - before >= 0.05
            assert len(golden.thumbnail_rgb) == 16 * 16 * 3
        else:
            assert len(golden.embedding) == stages["face_embedder"].settings["embedding_length"]


@pytest.mark.parametrize("spec", PIPELINES, ids=lambda spec: spec.name)
def test_entry_points_are_short_and_name_the_class_that_triton_wants(spec: ModelSpec) -> None:
    for version_dir in version_dirs(REPOSITORY / spec.name):
        text = (version_dir / "model.py").read_text(encoding="utf-8")
        assert "class TritonPythonModel(" in text
        assert len(text.splitlines()) < 12, "the logic belongs to warmswap_ensemble"


def test_no_file_that_triton_would_stumble_over() -> None:
    """A sub-folder of the repository is taken for a model, and one with a number for a version."""
    for path in tracked_files():
        parts = path.relative_to(REPOSITORY).parts
        assert "__pycache__" not in parts, path
        assert not any(part.startswith(".") for part in parts), path
        if len(parts) == 1:
            assert parts[0] in ("README.md", "residency.toml")
            continue
        model, *rest = parts
        assert model in MODELS or model in STAGE_NAMES, path
        match rest:
            case ["config.pbtxt"]:
                pass
            case ["configs", name]:
                assert name.endswith(".pbtxt"), path
            case ["warmup", name]:
                assert name.endswith(".raw"), path
            case [version, name]:
                assert version.isdecimal(), path
                expected = (
                    {"model.onnx", "manifest.json"}
                    if model in STAGE_NAMES
                    else {
                        "model.py",
                        "golden.json",
                    }
                )
                assert name in expected, path
            case _:
                pytest.fail(f"{path} has no business here")


def test_repository_stays_small_enough_for_git() -> None:
    files = tracked_files()
    assert len(files) > 20
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


def test_files_are_no_pointers_of_git_lfs() -> None:
    for path in tracked_files():
        assert not path.read_bytes()[:64].startswith(b"version https://git-lfs"), path


def test_json_files_end_with_a_newline() -> None:
    for path in tracked_files():
        if path.suffix == ".json":
            text = path.read_text(encoding="utf-8")
            json.loads(text)
            assert text.endswith("}\n"), path
