"""The portable onnxruntime backend against real ONNX Runtime, with a fake of Triton's module."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from tests.fakes import pb_utils
from tests.ops.toys import OUT_OF_TABLE, write_graph

CONFIG: dict[str, Any] = {
    "max_batch_size": 8,
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1"]}],
    "output": [
        {"name": "double", "data_type": "TYPE_FP32", "dims": ["-1"]},
        {"name": "looked_up", "data_type": "TYPE_INT32", "dims": ["-1"]},
    ],
}
INVALID_ARG, INTERNAL, CANCELLED = (
    pb_utils.TritonError.INVALID_ARG,
    pb_utils.TritonError.INTERNAL,
    pb_utils.TritonError.CANCELLED,
)


@pytest.fixture
def model_class() -> Iterator[Any]:
    """Import the backend as the stub does: the classes of pb_utils come after the import."""
    pb_utils.install()
    forget()
    backend = importlib.import_module("warmswap_ops.onnxruntime_backend.model")
    pb_utils.install_classes()
    yield backend.TritonPythonModel
    forget()
    pb_utils.uninstall()


def forget() -> None:
    for name in [name for name in sys.modules if name.startswith("warmswap_ops.onnxruntime_backend")]:
        del sys.modules[name]


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "1").mkdir()
    write_graph(tmp_path / "1/model.onnx")
    return tmp_path


def load(model_class: Any, model_dir: Path, kind: str = "CPU", **changes: Any) -> Any:
    model = model_class()
    model.initialize(
        {
            "model_config": json.dumps(CONFIG | changes),
            "model_name": "net",
            "model_repository": str(model_dir),
            "model_version": "1",
            "model_instance_kind": kind,
            "model_instance_device_id": "0",
        }
    )
    return model


def refusal(model_class: Any, model_dir: Path, kind: str = "CPU", **changes: Any) -> str:
    with pytest.raises(pb_utils.TritonModelException) as caught:
        load(model_class, model_dir, kind, **changes)
    return str(caught.value)


def request(x: Any, *outputs: str, name: str = "x", cancelled: bool = False) -> pb_utils.InferenceRequest:
    array = x if isinstance(x, np.ndarray) else np.array(x, np.float32)
    return pb_utils.InferenceRequest("toy", outputs or ("double",), [pb_utils.Tensor(name, array)], cancelled=cancelled)


def count_runs(model: Any) -> list[int]:
    """Return a list that grows by the batch size of every run."""
    session = model._session
    sizes: list[int] = []
    run = session.run

    def counting(names: list[str], inputs: dict[str, Any]) -> Any:
        sizes.append(len(inputs["x"]))
        return run(names, inputs)

    session.run = counting
    return sizes


def doubles(responses: list[Any]) -> list[Any]:
    return [response.output_tensors()[0].as_numpy().tolist() for response in responses]


def test_no_requests_no_responses(model_class: Any, model_dir: Path) -> None:
    assert load(model_class, model_dir).execute([]) == []


def test_several_requests_are_one_run_and_come_back_in_order(model_class: Any, model_dir: Path) -> None:
    model = load(model_class, model_dir)
    sizes = count_runs(model)
    responses = model.execute([request([[1, 2]]), request([[3, 4], [5, 6]]), request([[7, 8]])])
    assert doubles(responses) == [[[2, 4]], [[6, 8], [10, 12]], [[14, 16]]]
    assert sizes == [4]


def test_other_shapes_are_another_run(model_class: Any, model_dir: Path) -> None:
    model = load(model_class, model_dir)
    sizes = count_runs(model)
    responses = model.execute([request([[1, 2]]), request([[3]]), request([[5, 6]])])
    assert doubles(responses) == [[[2, 4]], [[6]], [[10, 12]]]
    assert sorted(sizes) == [1, 2]


def test_one_request_is_not_copied(model_class: Any, model_dir: Path) -> None:
    model = load(model_class, model_dir)
    seen: list[Any] = []
    run = model._session.run

    def seeing(names: list[str], inputs: dict[str, Any]) -> Any:
        seen.append(inputs["x"])
        return run(names, inputs)

    model._session.run = seeing
    array = np.array([[1, 2]], np.float32)
    model.execute([request(array)])
    assert seen[0] is array


def test_each_request_gets_the_outputs_it_asked_for(model_class: Any, model_dir: Path) -> None:
    responses = load(model_class, model_dir).execute(
        [request([[1]], "double"), request([[2]], "looked_up"), request([[3]], "looked_up", "double")]
    )
    names = [[tensor.name() for tensor in response.output_tensors()] for response in responses]
    assert names == [["double"], ["looked_up"], ["looked_up", "double"]]
    assert responses[2].output_tensors()[0].as_numpy().tolist() == [[3]]


@pytest.mark.parametrize(
    ("bad", "code", "words"),
    [
        pytest.param(request(np.array([[1.0]], np.float64)), INVALID_ARG, "must be float32, got float64", id="dtype"),
        pytest.param(request([1.0]), INVALID_ARG, "must be [-1, -1], got [1]", id="rank"),
        pytest.param(request([[1.0]], name="y"), INVALID_ARG, "unknown input 'y'", id="name"),
        pytest.param(pb_utils.InferenceRequest("toy", ["double"]), INVALID_ARG, "missing input x", id="missing"),
        pytest.param(request([[OUT_OF_TABLE, 0]], "looked_up"), INTERNAL, "onnxruntime failed", id="run"),
        pytest.param(request([[1, 2]], cancelled=True), CANCELLED, "cancelled", id="cancelled"),
    ],
)
def test_one_bad_request_does_not_fail_its_neighbours(
    model_class: Any, model_dir: Path, bad: Any, code: int, words: str
) -> None:
    model = load(model_class, model_dir)
    before, failed, after = model.execute([request([[1, 2]]), bad, request([[5, 6]])])
    assert doubles([before, after]) == [[[2, 4]], [[10, 12]]]
    assert failed.has_error()
    assert failed.error().code() == code
    assert words in failed.error().message()


def test_without_batch_dimension_every_request_is_a_run(model_class: Any, model_dir: Path) -> None:
    both = {"dims": ["-1", "-1"]}
    model = load(
        model_class,
        model_dir,
        max_batch_size=0,
        input=[CONFIG["input"][0] | both],
        output=[tensor | both for tensor in CONFIG["output"]],
    )
    sizes = count_runs(model)
    assert doubles(model.execute([request([[1]]), request([[2]])])) == [[[2]], [[4]]]
    assert sizes == [1, 1]


def test_graph_that_mixes_rows_is_run_one_by_one(model_class: Any, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    write_first_row(tmp_path / "1/model.onnx")
    model = load(model_class, tmp_path, output=[{"name": "row", "data_type": "TYPE_FP32", "dims": ["-1"]}])
    answers = doubles(model.execute([request([[1, 2]], "row"), request([[3, 4]], "row")]))
    assert answers == [[[1, 2]], [[3, 4]]]


def write_first_row(path: Path) -> None:
    """Write a graph that keeps the first row of a batch only."""
    graph = helper.make_graph(
        [helper.make_node("Compress", ["x", "first"], ["row"], axis=0)],
        "first",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "K"])],
        [helper.make_tensor_value_info("row", TensorProto.FLOAT, ["M", "K"])],
        [helper.make_tensor("first", TensorProto.BOOL, [1], [True])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_model_file_may_be_named_or_a_folder(model_class: Any, tmp_path: Path) -> None:
    (tmp_path / "1/net.onnx").mkdir(parents=True)
    write_graph(tmp_path / "1/net.onnx/model.onnx")
    model = load(model_class, tmp_path, default_model_filename="net.onnx")
    assert doubles(model.execute([request([[1]])])) == [[[2]]]


def parameter(key: str, value: str) -> dict[str, Any]:
    return {"parameters": {key: {"string_value": value}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"default_model_filename": "none.onnx"}, "there is no", id="no file"),
        pytest.param(parameter("intra_op_threads", "1"), "unknown parameter 'intra_op_threads'", id="typo"),
        pytest.param(parameter("intra_op_thread_count", "two"), "whole number, got 'two'", id="not a number"),
        pytest.param(parameter("enable_mem_arena", "maybe"), "boolean (true or false), got 'maybe'", id="not boolean"),
        pytest.param(parameter("execution_mode", "2"), "must be 0 or 1, got 2", id="execution mode"),
        pytest.param(parameter("cudnn_conv_algo_search", "3"), "one of 0, 1, 2, got '3'", id="conv search"),
        pytest.param({"input": []}, "the graph has inputs that config.pbtxt lacks: x", id="input missing"),
        pytest.param(
            {"output": [{"name": "z", "data_type": "TYPE_FP32", "dims": [-1]}]},
            "config.pbtxt has output 'z', the graph has outputs double, looked_up",
            id="output name",
        ),
        pytest.param(
            {"input": [{"name": "x", "data_type": "TYPE_UINT8", "dims": [-1]}]},
            "config.pbtxt says TYPE_UINT8, the graph tensor(float)",
            id="dtype",
        ),
        pytest.param(
            {"output": [{"name": "double", "data_type": "TYPE_FP32", "dims": [4]}]},
            "config.pbtxt says [-1, 4] with the batch dimension, the graph [-1, -1]",
            id="output fixed here, open in the graph",
        ),
        pytest.param(
            {"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [-1, 3]}]},
            "config.pbtxt says [-1, -1, 3] with the batch dimension, the graph [-1, -1]",
            id="rank",
        ),
        pytest.param({"model_operations": {"op_library_filename": ["/no/ops.so"]}}, "/no/ops.so", id="operators"),
        pytest.param(
            {"optimization": {"execution_accelerators": {"cpu_execution_accelerator": [{"name": "openvino"}]}}},
            "accelerator openvino needs OpenVINOExecutionProvider",
            id="openvino",
        ),
        pytest.param(
            {"optimization": {"execution_accelerators": {"cpu_execution_accelerator": [{"name": "magic"}]}}},
            "unknown execution accelerator 'magic'",
            id="unknown accelerator",
        ),
    ],
)
def test_what_does_not_fit_fails_the_load(model_class: Any, model_dir: Path, changes: Any, words: str) -> None:
    assert words in refusal(model_class, model_dir, **changes)


def test_gpu_instance_without_cuda_is_refused_and_not_run_on_the_cpu(model_class: Any, model_dir: Path) -> None:
    assert "KIND_GPU needs CUDAExecutionProvider" in refusal(model_class, model_dir, kind="GPU")


def test_gpu_accelerators_of_a_cpu_instance_are_not_looked_at(model_class: Any, model_dir: Path) -> None:
    accelerators = {"gpu_execution_accelerator": [{"name": "magic"}]}
    assert load(model_class, model_dir, optimization={"execution_accelerators": accelerators})


def test_settings_reach_the_session(model_class: Any, model_dir: Path) -> None:
    values = {"intra_op_thread_count": "2", "enable_mem_arena": "Off", "memory.enable_memory_arena_shrinkage": "cpu:0"}
    parameters = {key: {"string_value": value} for key, value in values.items()}
    model = load(model_class, model_dir, parameters=parameters, optimization={"graph": {"level": -1}})
    options = model._session._session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.enable_cpu_mem_arena is False
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"


def test_graph_levels_and_cuda_options_are_those_of_the_original() -> None:
    settings = import_without_model("settings")
    configs = {level: {"optimization": {"graph": {"level": level}}} for level in (-1, 0, 1, 2)}
    levels = {level: settings.read_settings(config).graph_level for level, config in configs.items()}
    assert levels == {-1: "ORT_ENABLE_BASIC", 0: "ORT_ENABLE_ALL", 1: "ORT_ENABLE_EXTENDED", 2: "ORT_DISABLE_ALL"}
    assert settings.read_settings(parameter("cudnn_conv_algo_search", "1")).cuda_options == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kNextPowerOfTwo",
        "gpu_mem_limit": str(2**64 - 1),
        "do_copy_in_default_stream": "1",
    }


def test_providers_of_a_gpu_instance() -> None:
    accelerators = import_without_model("accelerators")
    available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    wanted = [
        {"name": "tensorrt", "parameters": {"precision_mode": "FP16", "max_workspace_size_bytes": "9"}},
        {"name": "cuda", "parameters": {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}},
    ]
    config = {"optimization": {"execution_accelerators": {"gpu_execution_accelerator": wanted}}}
    providers = accelerators.choose_providers(config, "GPU", "1", {"cudnn_conv_algo_search": "EXHAUSTIVE"}, available)
    assert providers == [
        ("TensorrtExecutionProvider", {"trt_fp16_enable": "1", "trt_max_workspace_size": "9", "device_id": "1"}),
        ("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_algo_search": "EXHAUSTIVE", "device_id": "1"}),
        ("CPUExecutionProvider", {}),
    ]
    for name, key in (("tensorrt", "trt_fp16"), ("cuda", "use_tf23")):
        wanted[:] = [{"name": name, "parameters": {key: "1"}}]
        with pytest.raises(Exception, match=f"unknown parameter '{key}' for the {name}"):
            accelerators.choose_providers(config, "GPU", "0", {}, available)


def import_without_model(name: str) -> Any:
    pb_utils.install_classes()
    try:
        return importlib.import_module(f"warmswap_ops.onnxruntime_backend.{name}")
    finally:
        pb_utils.uninstall()


def test_strings_go_in_as_bytes_and_come_out_as_text(model_class: Any, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "echo",
        [helper.make_tensor_value_info("x", TensorProto.STRING, ["N", "K"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["N", "K"])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "1/model.onnx")
    tensor = {"data_type": "TYPE_STRING", "dims": [-1]}
    model = load(model_class, tmp_path, input=[tensor | {"name": "x"}], output=[tensor | {"name": "y"}])
    words = np.array([["é".encode(), b"b"]], np.object_)
    assert doubles(model.execute([request(words, "y")])) == [[["é", "b"]]]


def test_module_level_use_of_late_classes_would_be_seen() -> None:
    early = pb_utils.install()
    assert not hasattr(early, "TritonError")
    pb_utils.uninstall()
