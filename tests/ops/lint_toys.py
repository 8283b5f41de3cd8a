"""A small repository in which ``warmswap lint`` finds nothing, and ways to spoil it."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

from warmswap_ensemble.contract import FACE_EMBEDDER
from warmswap_ensemble.manifest import Manifest
from warmswap_ops.finding import Finding
from warmswap_ops.lint import lint, read_versions
from warmswap_ops.lint_rules import RULES

CPU, GPU, PIPE, LAUNCH = (
    "face_embedder/config.pbtxt",
    "face_embedder/configs/gpu.pbtxt",
    "face_analysis/config.pbtxt",
    "launch.yaml",
)

EMBEDDER = """\
# The good one.
name: "face_embedder"
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "aligned_crop_rgb" data_type: TYPE_UINT8 dims: [ -1, -1, 3 ] } ]
output [
  {
    name: "embedding"
    data_type: TYPE_FP32
    dims: [ -1 ]
  }
]
instance_group [
  {
    count: 1
    kind: KIND_CPU
  }
]
parameters { key: "enable_mem_pattern" value: { string_value: "1" } }
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
model_warmup [
  {
    name: "one"
    batch_size: 1
    inputs {
      key: "aligned_crop_rgb"
      value: { data_type: TYPE_UINT8 dims: [ 8, 8, 3 ] input_data_file: "crop.raw" }
    }
  },
  {
    name: "two"
    batch_size: 2
    inputs {
      key: "aligned_crop_rgb"
      value: { data_type: TYPE_UINT8 dims: [ 8, 8, 3 ] input_data_file: "crop.raw" }
    }
  }
]
"""
ON_GPU = """\
dynamic_batching {
  preferred_batch_size: [ 1, 2 ]
}
parameters {
  key: "cudnn_conv_algo_search"
  value: { string_value: "1" }
}
optimization {
  graph { level: 0 }
  execution_accelerators {
    gpu_execution_accelerator : [ {
      name : "cuda"
      parameters { key: "use_tf32" value: "1" }
    }, {
      name : "tensorrt"
      parameters { key: "trt_engine_cache_enable" value: "true" }
      parameters { key: "trt_engine_cache_path" value: "/cache" }
      parameters { key: "trt_engine_cache_prefix" value: "embedder" }
      parameters { key: "trt_profile_min_shapes" value: "aligned_crop_rgb:1x8x8x3" }
      parameters { key: "trt_profile_opt_shapes" value: "aligned_crop_rgb:2x8x8x3" }
      parameters { key: "trt_profile_max_shapes" value: "aligned_crop_rgb:16x8x8x3" }
    } ]
  }
}
"""
PIPELINE = """\
name: "face_analysis"
backend: "python"
max_batch_size: 0
input [ { name: "image" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "bbox" data_type: TYPE_FP32 dims: [ -1, 4 ] },
  { name: "score" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "kps" data_type: TYPE_FP32 dims: [ -1, 5, 2 ] },
  { name: "embedding" data_type: TYPE_FP32 dims: [ -1, -1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
dynamic_batching {
  default_queue_policy {
    max_queue_size: 32
    timeout_action: REJECT
  }
}
parameters {
  key: "max_image_bytes"
  value: { string_value: "33554432" }
}
model_warmup [ {
  name: "golden" batch_size: 1
  inputs { key: "image"
    value: { data_type: TYPE_STRING dims: [ 1 ] input_data_file: "image.raw" } }
} ]
"""
LAUNCH_YAML = """\
containers:
  - name: triton
    image: nvcr.io/nvidia/tritonserver:24.10-py3
    command: [tritonserver]
    args:
      # - --load-model=face_analysis
      - --model-repository=/models
      - --model-control-mode=explicit
      - --load-model=face_embedder
"""


def write_good_repository(folder: Path) -> Path:
    """Write a repository without findings, and into it a file that starts it."""
    for name in ("face_embedder/1", "face_embedder/configs", "face_embedder/warmup", "face_analysis/warmup"):
        (folder / name).mkdir(parents=True)
    (folder / "face_analysis/1").mkdir()
    (folder / "face_analysis/1/model.py").write_text("")
    (folder / "face_embedder/1/model.onnx").write_bytes(b"graph")
    digest = hashlib.sha256(b"graph").hexdigest()
    settings = {"embedding_space": "dlib", "embedding_length": 128}
    files = {"model.onnx": digest}
    manifest = Manifest(FACE_EMBEDDER.name, 1, "toy", "toy", files, [], "MIT", True, "test", 17, {}, settings)
    manifest.write(folder / "face_embedder/1")
    (folder / "face_embedder/warmup/crop.raw").write_bytes(bytes(8 * 8 * 3))
    (folder / "face_analysis/warmup/image.raw").write_bytes(struct.pack("<I", 3) + b"jpg")
    (folder / CPU).write_text(EMBEDDER)
    (folder / GPU).write_text(EMBEDDER.replace("KIND_CPU", "KIND_GPU") + ON_GPU)
    (folder / PIPE).write_text(PIPELINE)
    (folder / LAUNCH).write_text(LAUNCH_YAML)
    return folder


def find(repository: Path) -> list[Finding]:
    return lint(read_versions(repository, "any", [repository / LAUNCH]), RULES)


Change = Callable[[Path], object]


def replace(file: str, old: str, new: str, count: int = 1) -> Change:
    def change(repository: Path) -> None:
        text = (repository / file).read_text()
        assert old in text
        (repository / file).write_text(text.replace(old, new, count))

    return change


def write(file: str, data: bytes = b"") -> Change:
    def change(repository: Path) -> None:
        (repository / file).parent.mkdir(parents=True, exist_ok=True)
        (repository / file).write_bytes(data)

    return change


def remove(file: str) -> Change:
    return lambda repository: (repository / file).unlink()


def rename(file: str, new: str) -> Change:
    return lambda repository: (repository / file).rename(repository / new)


def rules_that_speak(repository: Path) -> set[str]:
    return {finding.rule for finding in find(repository)}


# What cannot be wrong alone: the contract or the manifest has a word in it too.
