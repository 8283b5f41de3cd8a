"""Graph surgery on graphs of a few nodes, each against plain NumPy (make test-export)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.tiny_models import emap, embedder, save, swapper, swapper_weights

pytestmark = pytest.mark.export

FEATURES = 4
SETTINGS = {"crop_size": 128, "warp_template": "arcface_128", "identity": ["source_embedding"]}
PUBLISHED = "published graph, plain NumPy"


def loaded(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def run(model: Any, **inputs: Any) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


def run_in_half(model: Any, **inputs: Any) -> Any:
    """Run a graph as a GPU does: ONNX Runtime computes half precision on a CPU in single precision."""
    from onnx.reference import ReferenceEvaluator

    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, inputs)[0]


def rename(model: Any, names: Mapping[str, str]) -> Any:
    """Rename tensors; the text form takes plain words only."""
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    return model


def parse(text: str, constants: Mapping[str, Any] | None = None, opset: int = 17) -> Any:
    import onnx.parser
    from onnx import numpy_helper

    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items())
    return model


# ---------------------------------------------------------------- batching


def legacy_heads(sigmoid: bool) -> Any:
    """Two heads as mmdet exported them first: (N, A*C, H, W) to (H*W*N*A, C)."""
    rng = np.random.default_rng(0)
    last = "score = Sigmoid (flat_1)" if sigmoid else "score = Identity (flat_1)"
    return parse(
        f"""legacy (float[1, 3, 6, 8] x) => (float[96, 1] score, float[96, 4] bbox)
        {{
            s = Conv (x, ws)
            t_1 = Transpose <perm = [2, 3, 0, 1]> (s)
            flat_1 = Reshape (t_1, one)
            {last}
            b = Conv (x, wb)
            t_2 = Transpose <perm = [2, 3, 0, 1]> (b)
            bbox = Reshape (t_2, four)
        }}""",
        {
            "ws": rng.normal(size=(2, 3, 1, 1)).astype(np.float32),
            "wb": rng.normal(size=(8, 3, 1, 1)).astype(np.float32),
            "one": np.array([-1, 1], np.int64),
            "four": np.array([-1, 4], np.int64),
        },
    )


@pytest.mark.parametrize("sigmoid", [True, False])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_legacy_heads_get_a_batch_axis(batch: int, sigmoid: bool) -> None:
    from warmswap_export.batching import open_batch, separate_batch_from_anchors

    model = legacy_heads(sigmoid)
    x = np.random.default_rng(1).normal(size=(batch, 3, 6, 8)).astype(np.float32)
    alone = [run(model, x=x[row : row + 1]) for row in range(batch)]
    expected = [np.stack(heads) for heads in zip(*alone, strict=True)]

    assert separate_batch_from_anchors(model) == 2
    open_batch(model)

    for actual, wanted in zip(run(model, x=x), expected, strict=True):
        assert actual.shape == wanted.shape
        np.testing.assert_allclose(actual, wanted, atol=1e-6)


def test_heads_of_another_form_are_left_alone() -> None:
    from warmswap_export.batching import separate_batch_from_anchors

    model = parse(
        "other (float[1, 8] x) => (float[8] a, float[1, 8] b, float[2] c) "
        "{ a = Reshape (x, all) b = Transpose <perm = [0, 1]> (x) }",
        {"all": np.array([-1], np.int64), "c": np.zeros(2, np.float32)},
    )

    assert separate_batch_from_anchors(model) == 0


RESIZE = 'Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'
STATIC_SIZES = {
    "constant": ("", "sizes", {"sizes": np.array([1, 2, 8, 12], np.int64)}),
    "concat": (
        """shape = Shape (x)
           kept = Slice (shape, zero, two)
           sizes = Concat <axis = 0> (kept, spatial)""",
        "sizes",
        {
            "zero": np.array([0], np.int64),
            "two": np.array([2], np.int64),
            "spatial": np.array([8, 12], np.int64),
        },
    ),
}


@pytest.mark.parametrize("form", STATIC_SIZES)
def test_a_resize_to_a_fixed_size_takes_other_frames(tmp_path: Path, form: str) -> None:
    """As opset 11 writes ``interpolate(x, size=y.shape[2:])``, with empty ``roi`` and ``scales``."""
    from warmswap_export.batching import open_batch, open_frame_size
    from warmswap_export.published import read_published, up_to_date

    before, sizes, constants = STATIC_SIZES[form]
    text = f"""static (float[1, 2, 8, 12] fine, float[1, 2, 4, 6] x) => (float[1, 2, 8, 12] sum)
        {{
            {before}
            larger = {RESIZE} (x, roi, none, {sizes})
            sum = Add (fine, larger)
        }}"""
    empty = {name: np.zeros(0, np.float32) for name in ("roi", "none")}
    path = save(tmp_path / "net.onnx", text, {**constants, **empty}, opset=11)
    model = up_to_date(read_published(path), path)
    rng = np.random.default_rng(2)
    fine, x = rng.normal(size=(3, 2, 20, 16)).astype(np.float32), rng.normal(size=(3, 2, 10, 8)).astype(np.float32)

    assert open_frame_size(model) == 1
    open_batch(model)

    (actual,) = run(model, fine=fine, x=x)
    np.testing.assert_allclose(actual, fine + x.repeat(2, axis=2).repeat(2, axis=3), atol=1e-6)


def test_a_reshape_that_holds_the_batch_of_one_keeps_the_batch() -> None:
    from warmswap_export.batching import open_batch

    model = parse(
        "static (float[1, 8, 2, 3] x) => (float[1, 12, 4] y, float[1, 48] z) "
        "{ y = Reshape (x, rows) z = Reshape (x, flat) }",
        {"rows": np.array([1, -1, 4], np.int64), "flat": np.array([1, -1], np.int64)},
    )
    x = np.random.default_rng(3).normal(size=(5, 8, 2, 3)).astype(np.float32)

    open_batch(model)

    y, z = run(model, x=x)
    np.testing.assert_array_equal(y, x.reshape(5, 12, 4))
    np.testing.assert_array_equal(z, x.reshape(5, 48))


def test_a_reshape_shape_that_others_share_is_changed_for_the_reshape_alone() -> None:
    from warmswap_export.batching import open_batch

    model = parse(
        "shared (float[1, 4] x) => (float[1, 2, 2] y, float[1, 2, 2] z) "
        "{ y = Reshape (x, shape) f = Cast <to = 1> (shape) s = ReduceSum <keepdims = 0> (f) z = Add (y, s) }",
        {"shape": np.array([1, 2, 2], np.int64)},
    )
    x = np.zeros((3, 4), np.float32)

    open_batch(model)

    assert run(model, x=x)[1].min() == 5.0


# ---------------------------------------------------------------- precision


INSTANCE_NORM = """norm (float[1, 4, 16, 16] x) => (float[1, 4, 16, 16] y)
    {
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        mean = ReduceMean <axes = [2, 3], keepdims = 1> (a)
        centred = Sub (a, mean)
        square = Mul (centred, centred)
        variance = ReduceMean <axes = [2, 3], keepdims = 1> (square)
        safe = Add (variance, epsilon)
        deviation = Sqrt (safe)
        normal = Div (centred, deviation)
        scaled = Mul (normal, gain)
        y = Conv <pads = [1, 1, 1, 1]> (scaled, w)
    }"""
NORM_WEIGHTS = {
    "w": (np.eye(4)[:, :, None, None] * np.pad(np.ones((1, 1)), 1)).astype(np.float32),
    "epsilon": np.array(1e-8, np.float32),
    "gain": np.array(0.5, np.float32),
}


def large_values() -> Any:
    return np.random.default_rng(4).normal(0, 1000, (2, 4, 16, 16)).astype(np.float32)


def test_half_precision_keeps_written_out_norms_finite() -> None:
    import onnx

    from warmswap_export.precision import at_precision

    x = large_values()[:1]
    (single,) = run(parse(INSTANCE_NORM, NORM_WEIGHTS), x=x)

    half = at_precision(parse(INSTANCE_NORM, NORM_WEIGHTS), "fp16")

    onnx.checker.check_model(half)
    answer = run_in_half(half, x=x)
    np.testing.assert_allclose(run(half, x=x)[0], answer, atol=0.01)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer, single, atol=0.01)
    assert {10} <= {tensor.data_type for tensor in half.graph.initializer}, "the weights of the network are half"


def test_without_its_protection_the_norm_would_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    from warmswap_export import precision

    monkeypatch.setattr(precision, "_statistics", lambda model: set())
    answer = run_in_half(precision.at_precision(parse(INSTANCE_NORM, NORM_WEIGHTS), "fp16"), x=large_values()[:1])
    (single,) = run(parse(INSTANCE_NORM, NORM_WEIGHTS), x=large_values()[:1])

    assert not np.allclose(answer, single, atol=0.01)


def test_half_precision_keeps_inputs_and_outputs_and_what_is_named() -> None:
    from warmswap_export.precision import at_precision

    weights = {name: np.full((2, 2), 0.1, np.float32) for name in ("one", "two")}
    model = parse("two (float[N, 2] x) => (float[N, 2] y) { h = MatMul (x, one) y = MatMul (h, two) }", weights)

    half = at_precision(model, "fp16", ["y"])

    kinds = {tensor.name: tensor.data_type for tensor in half.graph.initializer}
    assert sorted(kinds.values()) == [1, 10]
    assert {value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)} == {1}
    (by_two,) = (node for node in half.graph.node if node.op_type == "MatMul" and "two" in "".join(node.input))
    assert kinds[by_two.input[1]] == 1


def test_single_precision_is_the_network_itself() -> None:
    from warmswap_export.precision import at_precision

    model = parse(INSTANCE_NORM, NORM_WEIGHTS)

    assert at_precision(model, "fp32") is model


# ---------------------------------------------------------------- swappers


def swap_inputs(length: int = 512, batch: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    crops = [rng.integers(0, 256, (batch, 128, 128, 3), dtype=np.uint8) for _ in range(2)]
    vectors = rng.normal(size=(batch, length)).astype(np.float32)
    return {
        "target_crop_rgb": crops[0],
        "source_crop_rgb": crops[1],
        "target_landmarks": np.zeros((batch, 68, 2), np.float32),
        "source_landmarks": np.zeros((batch, 68, 2), np.float32),
        "source_embedding": vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    }


def build(
    network: Path, options: Mapping[str, Any] | None = None, precision: str = "fp32", **more: Path
) -> tuple[Callable[[Mapping[str, Any]], Mapping[str, Any]], Any]:
    """Return what runs the graph of the contract, and the built stage."""
    from warmswap_ensemble.contract import FACE_SWAPPER
    from warmswap_export.architectures import neural_swapper
    from warmswap_export.built import StageSource
    from warmswap_export.parity import GraphRunner, check_contract

    source = StageSource({"network": network, **more}, options or {}, SETTINGS, precision)
    built = neural_swapper.build(source)
    runner = GraphRunner(built.graph.SerializeToString())
    check_contract(runner, FACE_SWAPPER)
    return runner, built


def by_hand(target: Any, identity: Any, weights: Mapping[str, Any] | None = None) -> Any:
    """The tiny swapper in NumPy: (N, 3, S, S) and (N, 512) to (N, 3, S, S)."""
    weights = weights or swapper_weights()
    padded: Any = np.pad(target.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    kernel = weights["blur"].astype(np.float64)
    height, width = target.shape[2:]
    blurred = sum(
        np.einsum("nchw,oc->nohw", padded[:, :, i : i + height, j : j + width], kernel[:, :, i, j])
        for i in range(3)
        for j in range(3)
    )
    colour = identity.astype(np.float64) @ weights["style"].astype(np.float64)
    return 1 / (1 + np.exp(-(blurred + colour[:, :, None, None])))


def pixels(crop: Any) -> Any:
    return crop.transpose(0, 3, 1, 2) / 255.0


def as_crop(output: Any) -> Any:
    return np.clip(output * 255, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def assert_crops_equal(actual: Any, expected: Any) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual.astype(int) - expected.astype(int)).max() <= 1
    assert actual.std() > 1


def test_the_plain_swapper_is_what_numpy_says(tmp_path: Path) -> None:
    inputs = swap_inputs()
    runner, built = build(swapper(tmp_path / "net.onnx"))

    answer = runner(inputs)["swapped_crop_rgb"]

    assert_crops_equal(answer, as_crop(by_hand(pixels(inputs["target_crop_rgb"]), inputs["source_embedding"])))
    assert_crops_equal(answer, np.asarray(built.references[PUBLISHED](inputs)["swapped_crop_rgb"]))


def test_the_answer_is_brought_back_by_mean_and_deviation(tmp_path: Path) -> None:
    inputs = swap_inputs()
    mean, std = np.array([0.1, 0.2, 0.3]).reshape(3, 1, 1), np.array([0.5, 0.4, 0.6]).reshape(3, 1, 1)
    options = {"mean_rgb": [0.1, 0.2, 0.3], "std_rgb": [0.5, 0.4, 0.6], "output_std_mean": True}
    runner, _ = build(swapper(tmp_path / "net.onnx"), options)

    output = by_hand((pixels(inputs["target_crop_rgb"]) - mean) / std, inputs["source_embedding"])

    assert_crops_equal(runner(inputs)["swapped_crop_rgb"], as_crop(output * std + mean))


@pytest.mark.parametrize("unit_length", [True, False])
def test_the_projection_is_the_last_tensor_of_the_file(tmp_path: Path, unit_length: bool) -> None:
    inputs = swap_inputs()
    path = swapper(tmp_path / "net.onnx", last={"buff2fs": emap()})
    runner, built = build(path, {"project": True, "unit_length": unit_length})

    latent = inputs["source_embedding"] @ emap()
    if unit_length:
        latent = latent / np.linalg.norm(latent, axis=1, keepdims=True)

    answer = runner(inputs)["swapped_crop_rgb"]
    assert_crops_equal(answer, as_crop(by_hand(pixels(inputs["target_crop_rgb"]), latent)))
    if unit_length:
        for reference in built.references.values():
            assert_crops_equal(answer, np.asarray(reference(inputs)["swapped_crop_rgb"]))


def test_a_converter_comes_before_the_unit_length(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    matrix, shift = rng.normal(size=(512, 512)).astype(np.float32), rng.normal(size=512).astype(np.float32)
    text = "c (float[1, 512] input) => (float[1, 512] output) { h = MatMul (input, m) output = Add (h, b) }"
    converter = save(tmp_path / "converter.onnx", text, {"m": matrix, "b": shift})
    inputs = swap_inputs()
    network = swapper(tmp_path / "net.onnx")
    runner, _ = build(network, {"converter": True, "unit_length": True}, converter=converter)

    latent = inputs["source_embedding"] @ matrix + shift
    latent = latent / np.linalg.norm(latent, axis=1, keepdims=True)

    assert_crops_equal(runner(inputs)["swapped_crop_rgb"], as_crop(by_hand(pixels(inputs["target_crop_rgb"]), latent)))


def test_the_source_may_be_the_crop_itself(tmp_path: Path) -> None:
    text = """crop (float[1, 3, 128, 128] source, float[1, 3, 128, 128] target) => (float[1, 3, 128, 128] output)
        { s = Mul (source, quarter) t = Mul (target, half) output = Add (s, t) }"""
    parts = {"quarter": np.array(0.25, np.float32), "half": np.array(0.5, np.float32)}
    inputs = swap_inputs()
    runner, _ = build(save(tmp_path / "net.onnx", text, parts), {"identity": "crop"})

    output = 0.25 * pixels(inputs["source_crop_rgb"]) + 0.5 * pixels(inputs["target_crop_rgb"])

    assert_crops_equal(runner(inputs)["swapped_crop_rgb"], as_crop(output))


def test_the_source_may_be_a_crop_that_is_embedded_inside(tmp_path: Path) -> None:
    inputs = swap_inputs()
    inside = embedder(tmp_path / "arcface.onnx", side=128)
    options = {"identity": "embedded_crop", "embedder_mean_rgb": [120.0, 110.0, 100.0], "embedder_size": 128}
    runner, _ = build(swapper(tmp_path / "net.onnx"), options, embedder=inside)

    crop = inputs["source_crop_rgb"].transpose(0, 3, 1, 2).astype(np.float32)
    crop = (crop - np.array([120, 110, 100], np.float32).reshape(3, 1, 1)) / np.float32(127.5)
    latent = np.concatenate([run(loaded(inside), data=crop[row : row + 1])[0] for row in range(2)])

    assert_crops_equal(runner(inputs)["swapped_crop_rgb"], as_crop(by_hand(pixels(inputs["target_crop_rgb"]), latent)))


@pytest.mark.parametrize("source_first", [True, False])
def test_names_of_old_exports_are_found_by_their_shapes(tmp_path: Path, source_first: bool) -> None:
    path = swapper(tmp_path / "net.onnx", target="pix", source="vec", output="out", source_first=source_first)
    model = loaded(path)
    path.write_bytes(rename(model, {"pix": "input", "vec": "onnx::Gemm_1", "out": "781"}).SerializeToString())
    inputs = swap_inputs()

    runner, built = build(path)

    answer = runner(inputs)["swapped_crop_rgb"]
    assert_crops_equal(answer, as_crop(by_hand(pixels(inputs["target_crop_rgb"]), inputs["source_embedding"])))
    assert_crops_equal(answer, np.asarray(built.references[PUBLISHED](inputs)["swapped_crop_rgb"]))


@pytest.mark.parametrize("name", ["swapped_crop_rgb", "mask", "identity", "latent", "image_rgb"])
def test_names_of_ours_inside_a_published_file_do_no_harm(tmp_path: Path, name: str) -> None:
    path = swapper(tmp_path / "net.onnx")
    path.write_bytes(rename(loaded(path), {"blurred": name}).SerializeToString())
    inputs = swap_inputs()

    runner, _ = build(path)

    expected = as_crop(by_hand(pixels(inputs["target_crop_rgb"]), inputs["source_embedding"]))
    assert_crops_equal(runner(inputs)["swapped_crop_rgb"], expected)


def test_a_name_that_cannot_be_kept_apart_is_told(tmp_path: Path) -> None:
    from warmswap_export.errors import ExportError

    path = swapper(tmp_path / "net.onnx")
    path.write_bytes(rename(loaded(path), {"blurred": "source_embedding"}).SerializeToString())

    with pytest.raises(ExportError, match="cannot be chained, both have source_embedding"):
        build(path)


@pytest.mark.parametrize("length", [128, 512, 700])
def test_embeddings_of_another_length_are_filled_up_or_cut(tmp_path: Path, length: int) -> None:
    inputs = swap_inputs(length)
    runner, built = build(swapper(tmp_path / "net.onnx"), {"unit_length": True})

    latent = np.concatenate((inputs["source_embedding"], np.zeros((2, 512), np.float32)), axis=1)[:, :512]
    latent = latent / np.linalg.norm(latent, axis=1, keepdims=True)

    answer = runner(inputs)["swapped_crop_rgb"]
    assert_crops_equal(answer, as_crop(by_hand(pixels(inputs["target_crop_rgb"]), latent)))
    assert_crops_equal(answer, np.asarray(built.references[PUBLISHED](inputs)["swapped_crop_rgb"]))


HALF_INSIDE = """half (float[1, 3, 128, 128] target, float[1, 512] source) => (float[1, 3, 128, 128] output)
    {
        source_half = Cast <to = 10> (source)
        target_half = Cast <to = 10> (target)
        shift = MatMul (source_half, style)
        colour = Reshape (shift, colours)
        conv = Conv <pads = [1, 1, 1, 1]> (target_half, blur)
        normal = BatchNormalization (conv, scale, offset, mean, variance)
        shifted = Add (normal, colour)
        answer = Sigmoid (shifted)
        output = Cast <to = 1> (answer)
    }"""
PLAIN_NORM = {
    "scale": np.array([0.5, 1, 2]), "offset": np.array([0.1, 0, -0.1]), "mean": np.zeros(3), "variance": np.ones(3),
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("form", ["half inside", "half inputs and outputs"])
def test_a_file_that_is_published_in_half_precision_keeps_the_contract(
    tmp_path: Path, form: str, precision: str
) -> None:
    weights = swapper_weights(np.float16)
    norm = {name: np.asarray(value, np.float16) for name, value in PLAIN_NORM.items()}
    path = tmp_path / "net.onnx"
    if form == "half inside":
        save(path, HALF_INSIDE, {**weights, **norm}, last={"buff2fs": emap().astype(np.float16)})
    else:
        swapper(path, kind="float16", weights=weights, last={"buff2fs": emap().astype(np.float16)})
    inputs = swap_inputs()

    runner, built = build(path, {"project": True, "unit_length": True}, precision)

    answer = runner(inputs)["swapped_crop_rgb"].astype(int)
    assert answer.std() > 1
    published = built.references[PUBLISHED](inputs)["swapped_crop_rgb"]
    assert np.abs(answer - published.astype(int)).max() <= (1 if precision == "fp32" else 6)


def test_an_embedder_with_half_inputs_and_outputs_keeps_the_contract(tmp_path: Path) -> None:
    from warmswap_ensemble.contract import FACE_EMBEDDER
    from warmswap_export.architectures import arcface
    from warmswap_export.built import StageSource
    from warmswap_export.parity import GraphRunner, check_contract

    rng = np.random.default_rng(8)
    text = """half (float16[1, 3, 112, 112] data) => (float16[1, 512] embedding)
        { c = Conv <strides = [5, 5]> (data, k) m = GlobalAveragePool (c) f = Flatten (m) embedding = MatMul (f, w) }"""
    weights = {"k": rng.normal(size=(8, 3, 5, 5)), "w": rng.normal(size=(8, 512))}
    path = save(tmp_path / "net.onnx", text, {name: value.astype(np.float16) for name, value in weights.items()})
    settings = {"crop_size": 112, "embedding_length": 512}

    built = arcface.build(StageSource({"network": path}, {}, settings))

    runner = GraphRunner(built.graph.SerializeToString())
    check_contract(runner, FACE_EMBEDDER)
    inputs = {"aligned_crop_rgb": rng.integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)}
    assert list(built.references) == [PUBLISHED], "InsightFace feeds single precision"
    for reference in built.references.values():
        np.testing.assert_allclose(runner(inputs)["embedding"], reference(inputs)["embedding"], atol=2e-3)


def test_batch_norms_are_folded_only_where_their_weights_are_their_own() -> None:
    from warmswap_export.graph import fold_batch_norms

    norm = {name: np.asarray(value, np.float32) for name, value in PLAIN_NORM.items()}
    shared = parse(
        """shared (float[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y, float[1, 3, 4, 4] z)
        {
            a = Conv (x, w, b)
            y = BatchNormalization (a, scale, offset, mean, variance)
            c = Conv (y, w, b)
            z = BatchNormalization (c, scale, offset, mean, variance)
        }""",
        {
            "w": np.random.default_rng(9).normal(size=(3, 3, 1, 1)).astype(np.float32),
            "b": np.ones(3, np.float32),
            **norm,
        },
    )
    x = np.random.default_rng(10).normal(size=(1, 3, 4, 4)).astype(np.float32)
    before = run(shared, x=x)

    fold_batch_norms(shared)

    for actual, expected in zip(run(shared, x=x), before, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- suppression and matching


def random_boxes(kind: str, rng: np.random.Generator, count: int) -> tuple[Any, Any]:
    corner = rng.uniform(0, 200, (count, 2))
    side = rng.uniform(4, 80, (count, 2))
    score = rng.uniform(0, 1, count)
    if kind in ("ties", "touching"):
        corner, side = np.round(corner / 20) * 20, np.full((count, 2), 20.0)
        score = np.round(score, 1) if kind == "ties" else score
    if kind == "touching":
        side += rng.integers(-1, 2, (count, 2))
    if kind == "small":
        side = rng.uniform(0, 3, (count, 2))
    return np.concatenate((corner, corner + side), axis=1).astype(np.float32), score.astype(np.float32)


@pytest.mark.parametrize("kind", ["random", "ties", "touching", "small"])
def test_suppression_is_the_plain_greedy_one(kind: str) -> None:
    from warmswap_ensemble.contract import MAX_FACES
    from warmswap_export.architectures.anchors import IOU_THRESHOLD, SCORE_FLOOR, pad_faces, suppress
    from warmswap_export.graph import append_nms

    model = parse(
        """pass (float[N, K, 4] b, float[N, K] s, float[N, K, 5, 2] k)
            => (float[N, K, 4] candidate_bbox, float[N, K] candidate_score, float[N, K, 5, 2] candidate_kps)
        { candidate_bbox = Identity (b) candidate_score = Identity (s) candidate_kps = Identity (k) }"""
    )
    whole = append_nms(
        model, max_faces=MAX_FACES, iou_threshold=IOU_THRESHOLD, score_floor=SCORE_FLOOR, num_kps=5, whole_pixels=True
    )
    rng = np.random.default_rng(12)
    count = MAX_FACES + 300
    for _ in range(5):
        bbox, score = zip(*(random_boxes(kind, rng, count) for _ in range(2)), strict=True)
        kps = rng.uniform(0, 200, (2, count, 5, 2)).astype(np.float32)
        kept = [suppress(boxes, scores) for boxes, scores in zip(bbox, score, strict=True)]
        expected = pad_faces([(bbox[row][rows], score[row][rows], kps[row][rows]) for row, rows in enumerate(kept)])

        answers = run(whole, b=np.stack(bbox), s=np.stack(score), k=kps)

        for name, answer in zip(("bbox", "score", "kps", "num_faces"), answers, strict=True):
            np.testing.assert_array_equal(answer, expected[name], err_msg=name)
        assert min(map(len, kept)) > 10


def faces(*rows: tuple[float, float, float]) -> dict[str, Any]:
    """Return a detector's answer for one picture: x, y and score of each face, 100 px wide."""
    from warmswap_export.architectures.anchors import pad_faces

    bbox = np.array([[x, y, x + 100, y + 100] for x, y, _ in rows], np.float32).reshape(-1, 4)
    score = np.array([s for _, _, s in rows], np.float32)
    return dict(pad_faces([(bbox, score, np.repeat(bbox[:, None, :2], 5, axis=1))]))


def test_faces_are_matched_by_overlap_and_lost_ones_are_counted() -> None:
    from warmswap_export.parity import match_faces

    expected = faces((0, 0, 0.9), (300, 0, 0.8), (600, 0, 0.7), (900, 0, 0.3))
    actual = faces((301, 0, 0.85), (0, 2, 0.84), (660, 0, 0.7))

    found = match_faces(actual, expected)

    assert found == pytest.approx({"bbox": 2.0, "kps": 2.0, "score": 0.06, "lost": 1.0}, abs=1e-5)
    assert match_faces(expected, expected) == {"bbox": 0.0, "kps": 0.0, "score": 0.0, "lost": 0.0}
    assert match_faces(faces(), expected)["lost"] == 3.0


@pytest.mark.parametrize("output", ["bbox", "kps", "score"])
def test_a_face_that_is_not_a_number_does_not_pass(output: str) -> None:
    from warmswap_export.parity import match_faces

    expected, actual = (faces((0, 0, 0.9), (300, 0, 0.8)) for _ in range(2))
    actual[output][0, 0] = np.nan

    found = match_faces(actual, expected)

    assert not (found[output] <= 1e9 and found["lost"] == 0.0)


# ---------------------------------------------------------------- chains and published files


def test_graphs_with_tensors_of_the_same_name_are_not_chained() -> None:
    from warmswap_export.errors import ExportError
    from warmswap_export.graph import chain

    def first() -> Any:
        return parse("a (float[2] x) => (float[2] y) { y = Relu (x) }")

    def second(inner: str) -> Any:
        return rename(
            parse("b (float[2] z) => (float[2] out) { inner = Relu (z) out = Relu (inner) }"), {"inner": inner}
        )

    joined = chain(first(), second("inner"), "a/", {"y": "z"})
    np.testing.assert_array_equal(run(joined, x=np.array([-1, 2], np.float32))[0], [0, 2])
    for clash in ("a/y", "x"):
        with pytest.raises(ExportError, match=f"cannot be chained, both have {clash}"):
            chain(first(), second(clash), "a/", {"y": "z"})


def test_a_published_file_is_its_network_and_a_tampered_one_is_refused(tmp_path: Path) -> None:
    import onnx
    import torch
    from onnx import numpy_helper

    from warmswap_export.checkpoints import load_into
    from warmswap_export.errors import WeightsError
    from warmswap_export.networks.registry import create_network
    from warmswap_export.published import check_published, publish
    from warmswap_export.twins import random_network

    torch.save(random_network("crossface", 3).state_dict(), tmp_path / "net.pth")
    network = create_network("crossface")
    load_into(network, tmp_path / "net.pth")
    path = publish(network, tmp_path / "net.onnx")
    assert check_published(network, path) < 1e-4

    for change in (0.5, float("nan")):
        model = onnx.load(path)
        tensor = max(model.graph.initializer, key=lambda item: numpy_helper.to_array(item).size)
        values = numpy_helper.to_array(tensor) * np.float32(change)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        onnx.save(model, tmp_path / "tampered.onnx")
        with pytest.raises(WeightsError, match=r"tampered.onnx differs from its network by \S+ \(relative\), allowed"):
            check_published(network, tmp_path / "tampered.onnx")
