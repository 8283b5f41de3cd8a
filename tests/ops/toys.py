"""Toy models with the names of the contract: small enough to load at once, real enough to go through everything."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from onnx import TensorProto, ValueInfoProto, helper, save

from warmswap_ensemble.contract import FACE_SWAPPER, PIPELINE_STAGES, PIPELINES, STAGES
from warmswap_ensemble.manifest import Manifest

STAGE_NAMES = tuple(spec.name for spec in STAGES)
PIPELINE_NAMES = tuple(spec.name for spec in PIPELINES)
OUT_OF_TABLE = -200_000.0
DYNAMIC_BATCHING = "dynamic_batching { max_queue_delay_microseconds: 200000 preferred_batch_size: [ 4 ] }"

_STAGE_CONFIG = """\
backend: "onnxruntime"
max_batch_size: 8
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ -1 ] }} ]
output [
  {{ name: "double" data_type: TYPE_FP32 dims: [ -1 ] }},
  {{ name: "looked_up" data_type: TYPE_INT32 dims: [ -1 ] }}
]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
model_warmup [ {{ name: "two" batch_size: 2 inputs {{ key: "x"
  value: {{ data_type: TYPE_FP32 dims: [ 4 ] zero_data: true }} }} }} ]
{extra}
"""

_PIPELINE_CONFIG = """\
backend: "python"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
model_warmup [ { name: "golden" batch_size: 1 inputs { key: "x"
  value: { data_type: TYPE_FP32 dims: [ 2 ] input_data_file: "golden.raw" } } } ]
"""

_PIPELINE = """\
import time

import numpy as np
import triton_python_backend_utils as pb_utils

STAGES = {stages!r}
GOLDEN = {golden!r}


class TritonPythonModel:
    def initialize(self, args):
        time.sleep({initialize_s!r})

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        time.sleep(max(0.0, float(x[-1]) - 1000.0))  # 1002 = sleep for two seconds
        y = x.reshape(1, -1)
        for stage in STAGES:
            for _ in range(1000):  # a pipeline waits for stages that are loaded at the same time
                answer = pb_utils.InferenceRequest(
                    model_name=stage, requested_output_names=["double"], inputs=[pb_utils.Tensor("x", y)]
                ).exec()
                if not answer.has_error() or "not ready" not in answer.error().message():
                    break
                time.sleep(0.01)
            if answer.has_error():
                message = "stage_failed: " + answer.error().message()
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
            y = pb_utils.get_output_tensor_by_name(answer, "double").as_numpy()
        if x.tolist() == [1.0, 2.0] and y.ravel().tolist() != GOLDEN:
            message = "self_test_failed: the answer is " + str(y.ravel().tolist()) + ", golden is " + str(GOLDEN)
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(message))
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", y.reshape(-1))])
"""


def write_graph(path: Path) -> None:
    """Write a graph: ``double`` = 2x, ``looked_up`` = int(x), from a table; x outside the table fails the run."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["double"]),
            helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT32),
            helper.make_node("Gather", ["table", "whole"], ["looked_up"]),
        ],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "K"])],
        [
            helper.make_tensor_value_info("double", TensorProto.FLOAT, ["N", "K"]),
            helper.make_tensor_value_info("looked_up", TensorProto.INT32, ["N", "K"]),
        ],
        [
            helper.make_tensor("table", TensorProto.INT32, [100_000], list(range(100_000))),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_hanging_graph(path: Path) -> None:
    """Write a graph with the same tensors whose run does not end."""
    shape = ["N", "K"]

    def tensor(name: str, dims: list[str], data_type: int = TensorProto.FLOAT) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, data_type, dims)

    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["y"], ["y_next"])],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("y", shape)],
        [tensor("go_on", [], TensorProto.BOOL), tensor("y_next", shape)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["turns", "start", "x"], ["double"], body=body),
            helper.make_node("Cast", ["x"], ["looked_up"], to=TensorProto.INT32),
        ],
        "hanging",
        [tensor("x", shape)],
        [tensor("double", shape), tensor("looked_up", shape, TensorProto.INT32)],
        [
            helper.make_tensor("turns", TensorProto.INT64, [], [2**62]),
            helper.make_tensor("start", TensorProto.BOOL, [], [True]),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_manifest(folder: Path, model: str, version: int = 1) -> None:
    digests = {"model.onnx": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()}
    settings = {"identity": ["source_crop_rgb"]} if model == FACE_SWAPPER.name else {}
    Manifest(model, version, "toy", "toy", digests, [], "MIT", True, "test", 17, {}, settings).write(folder)


def write_stage(repository: Path, name: str, *, extra: str = "", version: int = 1) -> Path:
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(_STAGE_CONFIG.format(extra=extra))
    write_graph(folder / "model.onnx")
    write_manifest(folder, name, version)
    return folder


def write_pipeline(
    repository: Path, name: str, *, initialize_s: float = 0.0, golden_factor: float | None = None
) -> None:
    stages = PIPELINE_STAGES[name]
    factor = 2.0 ** len(stages) if golden_factor is None else golden_factor
    folder = repository / name / "1"
    folder.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(_PIPELINE_CONFIG)
    (folder / "model.py").write_text(
        _PIPELINE.format(stages=stages, golden=[factor, 2 * factor], initialize_s=initialize_s)
    )
    (repository / name / "warmup").mkdir()
    (repository / name / "warmup" / "golden.raw").write_bytes(np.array([1, 2], np.float32).tobytes())


def write_repository(
    repository: Path, *, initialize_s: float = 0.0, golden_factor: float | None = None, batching: str = ""
) -> Path:
    """Write all models of the contract; ``batching`` names a stage that waits for others to fill its batch."""
    for name in STAGE_NAMES:
        write_stage(repository, name, extra=DYNAMIC_BATCHING if name == batching else "")
    for name in PIPELINE_NAMES:
        write_pipeline(repository, name, initialize_s=initialize_s, golden_factor=golden_factor)
    return repository
