"""Exports the open pack again, from its sources, and compares it with what is committed (make test-export)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from warmswap_ensemble.contract import STAGES, swapper_variant
from warmswap_ensemble.manifest import read_manifest

if TYPE_CHECKING:
    from warmswap_export.export import PackBuild

pytestmark = pytest.mark.export

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"
STAGE_NAMES = [*(spec.name for spec in STAGES), "face_swapper_512"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from warmswap_export.export import export_pack
    from warmswap_export.packs import load_pack

    out = tmp_path_factory.mktemp("repository")
    export_pack(load_pack("open"), out)
    return out


@pytest.fixture(scope="module")
def build() -> PackBuild:
    from warmswap_export.export import PackBuild
    from warmswap_export.packs import load_pack

    return PackBuild(load_pack("open"))


@pytest.mark.parametrize("model", STAGE_NAMES)
def test_the_export_is_the_committed_file_bit_for_bit(exported: Path, model: str) -> None:
    committed, again = REPOSITORY / model / "1", exported / model / "1"

    assert (again / "model.onnx").read_bytes() == (committed / "model.onnx").read_bytes()
    ours, theirs = read_manifest(again), read_manifest(committed)
    assert (ours.files, ours.origin, ours.settings) == (theirs.files, theirs.origin, theirs.settings)


@pytest.mark.parametrize("model", STAGE_NAMES)
def test_warmup_samples_are_the_committed_ones(exported: Path, model: str) -> None:
    committed = {path.name: path.read_bytes() for path in (REPOSITORY / model / "warmup").iterdir()}
    again = {path.name: path.read_bytes() for path in (exported / model / "warmup").iterdir()}

    assert again.keys() == committed.keys()
    for name, data in committed.items():
        dtype = np.uint8 if name.endswith("_rgb.raw") else np.float32
        differences = np.abs(np.frombuffer(again[name], dtype).astype(float) - np.frombuffer(data, dtype).astype(float))
        if dtype is np.uint8:  # another CPU rounds the keypoints otherwise: edges move by hundredths of a pixel
            assert differences.max() <= 8, name
            assert differences.mean() <= 0.01, name  # 0.0013 at most, measured on another CPU
        else:
            assert differences.max() <= 1e-3, name


def test_verify_passes_on_the_committed_repository() -> None:
    answer = _warmswap("verify", "--repository", str(REPOSITORY), "--json")

    assert answer.returncode == 0, answer.stderr
    versions = json.loads(answer.stdout)["versions"]
    assert [version["model"] for version in versions] == STAGE_NAMES
    assert all(version["passed"] and version["parity"] for version in versions)


def test_verify_fails_on_a_file_that_was_changed(exported: Path) -> None:
    path = exported / "face_landmarker" / "1" / "model.onnx"
    data = path.read_bytes()
    try:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        answer = _warmswap("verify", "--repository", str(exported), "--stage", "face_landmarker")
    finally:
        path.write_bytes(data)

    assert answer.returncode == 1
    assert "sha256" in answer.stdout


def test_an_export_never_overwrites_another_model_unasked(exported: Path) -> None:
    from warmswap_export.errors import ExportError
    from warmswap_export.export import export_pack
    from warmswap_export.packs import load_pack

    path = exported / "face_swapper" / "1" / "model.onnx"
    data = path.read_bytes()
    try:
        path.write_bytes(b"something else")
        with pytest.raises(ExportError, match="--version"):
            export_pack(load_pack("open"), exported, stages=["face_swapper"])
        assert path.read_bytes() == b"something else"
        export_pack(load_pack("open"), exported, stages=["face_swapper"], force=True)
        assert path.read_bytes() == data
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("model", STAGE_NAMES)
def test_a_graph_with_one_wrong_weight_is_refused(build: PackBuild, model: str) -> None:
    import onnx
    from onnx import numpy_helper

    from warmswap_export.errors import ParityError
    from warmswap_export.parity import refuse_misses

    graph = onnx.ModelProto.FromString(build.stage(model).graph.SerializeToString())
    tensors = [item for item in graph.graph.initializer if numpy_helper.to_array(item).dtype.kind in "fu"]
    if model == "face_swapper" or swapper_variant(
        model
    ):  # it has no weights: change a constant of the colour match instead
        constants = [
            attribute.t
            for node in graph.graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value" and numpy_helper.to_array(attribute.t).dtype.kind == "f"
        ]
        changed = next(item for item in constants if float(numpy_helper.to_array(item).max()) == 0.75)
    else:
        changed = max(tensors, key=lambda item: numpy_helper.to_array(item).size)
    values = numpy_helper.to_array(changed)
    wrong = np.flip(values) if values.size > 1 else values + values.dtype.type(1)
    changed.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(wrong).reshape(values.shape), changed.name))

    with pytest.raises(ParityError, match=model):
        refuse_misses(model, build.measure(model, graph.SerializeToString()))


def test_an_answer_that_is_not_a_number_is_refused(build: PackBuild) -> None:
    from warmswap_export.built import Arrays, BuiltStage
    from warmswap_export.errors import ParityError
    from warmswap_export.parity import GraphRunner, measure_parity, refuse_misses

    built = build.stage("face_embedder")

    def not_a_number(inputs: Arrays) -> Mapping[str, Any]:
        return {"embedding": np.full((len(inputs["aligned_crop_rgb"]), 128), np.nan, np.float32)}

    broken = BuiltStage(built.graph, {"broken": not_a_number}, built.tolerances)
    differences = measure_parity(GraphRunner(built.graph.SerializeToString()), broken, build.samples("face_embedder"))

    with pytest.raises(ParityError, match="broken"):
        refuse_misses("face_embedder", differences)


def test_a_file_that_is_no_graph_is_refused(build: PackBuild) -> None:
    from warmswap_export.errors import ParityError

    with pytest.raises(ParityError, match="ONNX Runtime"):
        build.measure("face_swapper", b"not a graph")


def test_crops_of_any_size_are_resized_inside(build: PackBuild) -> None:
    crop = build.samples("face_landmarker")["crop_rgb"]
    larger = np.repeat(np.repeat(crop, 2, axis=1), 2, axis=2)

    small, large = (build.run("face_landmarker", {"crop_rgb": each})["landmarks"] for each in (crop, larger))

    np.testing.assert_allclose(large, small, atol=0.01)


def test_batch_norms_folded_into_convolutions_change_nothing() -> None:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from warmswap_export.graph import OPSET, fold_batch_norms

    rng = np.random.default_rng(7)
    weights = {
        "w1": rng.normal(size=(6, 3, 3, 3)),
        "w2": rng.normal(size=(6, 2, 2, 2)),
        **{f"{name}{i}": rng.uniform(0.5, 2, size) for i, size in ((1, 6), (2, 4)) for name in ("s", "b", "m", "v")},
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c1", "s1", "b1", "m1", "v1"], ["n1"]),
        helper.make_node("ConvTranspose", ["n1", "w2"], ["c2"], strides=[2, 2], group=2),
        helper.make_node("BatchNormalization", ["c2", "s2", "b2", "m2", "v2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 16, 16])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    x = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]

    assert fold_batch_norms(model) == 2
    assert [node.op_type for node in model.graph.node] == ["Conv", "ConvTranspose"]
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


def test_unknown_packs_and_stages_are_named() -> None:
    unknown_pack = _warmswap("export", "nosuch")
    unknown_stage = _warmswap("verify", "--stage", "face_painter")

    assert unknown_pack.returncode == 2
    assert "open" in unknown_pack.stderr.split("there are: ")[1]
    assert unknown_stage.returncode == 1
    assert "face_painter" in unknown_stage.stderr


def _warmswap(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from warmswap_client.cli import main; sys.exit(main())", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
