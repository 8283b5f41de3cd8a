"""Each rule of ``warmswap lint`` finds its trap, and nothing else, in a good repository with one change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ops.lint_toys import (
    CPU,
    EMBEDDER,
    GPU,
    LAUNCH,
    LAUNCH_YAML,
    PIPE,
    PIPELINE,
    Change,
    find,
    remove,
    rename,
    replace,
    rules_that_speak,
    write,
    write_good_repository,
)
from warmswap_ensemble.manifest import MANIFEST_NAME
from warmswap_ops.finding import Severity
from warmswap_ops.lint import explain
from warmswap_ops.lint_rules import RULES, identity_rules

ROOT = Path(__file__).resolve().parents[2]


def make_sparse(repository: Path) -> None:
    for name in ("config.pbtxt", "configs/gpu.pbtxt"):
        with (repository / "face_embedder" / name).open("a") as file:
            file.write('default_model_filename: "large.onnx"\n')
    with (repository / "face_embedder/1/large.onnx").open("wb") as file:
        file.truncate(2**31)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_good_repository(tmp_path / "repository")


IMAGE_FILE = 'input_data_file: "image.raw"'
CROP_FILE = 'input_data_file: "crop.raw"'
SEARCH = 'key: "cudnn_conv_algo_search"\n  value: { string_value: "1" }'
POLICY = "  default_queue_policy {\n    max_queue_size: 32\n    timeout_action: REJECT\n  }\n"
IN_CUDA = 'parameters { key: "use_tf32" value: "1" }'

# rule, severity, file, what the named line holds (None: no line), change
TRAPS: list[tuple[str, Severity, str, str | None, Change]] = [
    ("every_folder_is_a_model", "error", "scripts", None, write("scripts/notes.txt")),
    ("models_have_a_version", "error", "face_analysis", None, rename("face_analysis/1", "face_analysis/first")),
    ("versions_are_plain_numbers", "error", "face_analysis/0", None, write("face_analysis/0/model.py")),
    ("versions_are_plain_numbers", "error", "face_analysis/02", None, write("face_analysis/02/model.py")),
    ("versions_are_plain_numbers", "error", "face_analysis/1.bak", None, write("face_analysis/1.bak/model.py")),
    ("versions_hold_their_model", "error", "face_analysis/1", None, remove("face_analysis/1/model.py")),
    (
        "bytecode_is_not_in_versions",
        "warning",
        "face_analysis/1/__pycache__",
        None,
        write("face_analysis/1/__pycache__/model.pyc"),
    ),
    ("config_can_be_read", "error", CPU, "max_batchsize", replace(CPU, "max_batch_size", "max_batchsize")),
    ("config_can_be_read", "error", CPU, "KIND_CPUS", replace(CPU, "KIND_CPU", "KIND_CPUS")),
    ("config_can_be_read", "error", CPU, 'name: "embedding', replace(CPU, 'name: "embedding"', 'name: "embedding')),
    ("config_can_be_read", "error", CPU, None, write(CPU, b"\xff\xfe\x00")),
    ("config_names_its_folder", "error", CPU, '"embedder"', replace(CPU, '"face_embedder"', '"embedder"')),
    ("instance_count_is_explicit", "error", CPU, "{", replace(CPU, "    count: 1\n    kind", "    kind")),
    ("instance_count_is_explicit", "warning", PIPE, "instance_group", replace(PIPE, "kind: KIND_CPU ", "")),
    (
        "instance_count_is_explicit",
        "error",
        PIPE,
        None,
        replace(PIPE, "instance_group [ { count: 1 kind: KIND_CPU } ]", ""),
    ),
    ("onnxruntime_has_one_instance", "warning", CPU, "{", replace(CPU, "    count: 1\n", "    count: 2\n")),
    (
        "parameters_are_known",
        "error",
        CPU,
        "enable_mem_patern",
        replace(CPU, "enable_mem_pattern", "enable_mem_patern"),
    ),
    ("parameters_are_known", "error", PIPE, "parameters", replace(PIPE, "max_image_bytes", "max_image_byte")),
    ("threads_are_limited", "warning", CPU, '"0"', replace(CPU, 'string_value: "2"', 'string_value: "0"')),
    ("graph_level_fits_the_file", "error", GPU, "level: 2", replace(GPU, "level: 0", "level: 2")),
    ("config_fits_the_contract", "error", CPU, "TYPE_FP16", replace(CPU, "TYPE_FP32", "TYPE_FP16")),
    ("config_fits_the_contract", "error", PIPE, '"kps"', replace(PIPE, "-1, 5, 2", "-1, 68, 2")),
    (
        "config_fits_the_contract",
        "error",
        PIPE,
        "bbox",
        replace(PIPE, '  { name: "score" data_type: TYPE_FP32 dims: [ -1 ] },\n', ""),
    ),
    ("config_fits_the_contract", "error", CPU, "max_batch_size: 8", replace(CPU, "size: 16", "size: 8")),
    ("queues_are_limited", "error", PIPE, "default_queue_policy", replace(PIPE, "    max_queue_size: 32\n", "")),
    ("queues_are_limited", "error", PIPE, "DELAY", replace(PIPE, "REJECT", "DELAY")),
    ("queues_are_limited", "error", PIPE, None, replace(PIPE, f"dynamic_batching {{\n{POLICY}}}\n", "")),
    (
        "cpu_stage_does_not_batch",
        "warning",
        CPU,
        "dynamic_batching",
        replace(CPU, "parameters", "dynamic_batching { }\nparameters"),
    ),
    (
        "accelerator_keys_are_not_overwritten",
        "error",
        GPU,
        "gpu_mem_limit",
        replace(GPU, IN_CUDA, IN_CUDA.replace("use_tf32", "gpu_mem_limit")),
    ),
    ("conv_search_is_heuristic", "error", GPU, "parameters", replace(GPU, SEARCH, SEARCH.replace('"1"', '"0"'))),
    ("conv_search_is_heuristic", "error", GPU, "parameters", replace(GPU, SEARCH, SEARCH.replace('"1"', '"2"'))),
    ("conv_search_is_heuristic", "error", GPU, None, replace(GPU, f"parameters {{\n  {SEARCH}\n}}\n", "")),
    (
        "tensorrt_keeps_its_engines",
        "error",
        GPU,
        "}, {",
        replace(GPU, "trt_engine_cache_path", "trt_timing_cache_path"),
    ),
    ("tensorrt_keeps_its_engines", "warning", GPU, "}, {", replace(GPU, "trt_engine_cache_prefix", "trt_x")),
    ("tensorrt_knows_its_shapes", "warning", GPU, "}, {", replace(GPU, "trt_profile_opt_shapes", "trt_x")),
    ("models_are_warmed", "error", PIPE, None, lambda r: (r / PIPE).write_text(PIPELINE[: PIPELINE.index("model_w")])),
    ("batches_are_warmed", "warning", CPU, "{", replace(CPU, "batch_size: 2", "batch_size: 1")),
    ("preferred_batches_are_warmed", "error", GPU, "[ 2, 4 ]", replace(GPU, "[ 1, 2 ]", "[ 2, 4 ]")),
    ("warmup_batch_size_is_served", "error", CPU, "batch_size: 0", replace(CPU, "batch_size: 1\n", "batch_size: 0\n")),
    (
        "warmup_batch_size_is_served",
        "error",
        CPU,
        "batch_size: 99",
        replace(CPU, "batch_size: 2\n", "batch_size: 99\n"),
    ),
    ("warmup_batch_size_is_served", "error", PIPE, "golden", replace(PIPE, "batch_size: 1", "batch_size: 2")),
    ("warmup_is_not_zeros", "warning", CPU, "inputs", replace(CPU, CROP_FILE, "zero_data: false")),
    ("warmup_dims_are_fixed", "error", CPU, "inputs", replace(CPU, "8, 8, 3", "-1, 8, 3")),
    ("warmup_fits_the_inputs", "error", CPU, "inputs", replace(CPU, "TYPE_UINT8 dims: [ 8", "TYPE_INT8 dims: [ 8")),
    ("warmup_fits_the_inputs", "error", CPU, "inputs", replace(CPU, "[ 8, 8, 3 ]", "[ 8, 6, 4 ]")),
    ("warmup_files_are_complete", "error", CPU, "inputs", replace(CPU, CROP_FILE, 'input_data_file: "crop.rw"')),
    ("warmup_files_are_complete", "error", PIPE, "inputs", write("face_analysis/warmup/image.raw", b"\x09\0\0\0jpg")),
    ("warmup_files_are_complete", "error", PIPE, "inputs", write("face_analysis/warmup/image.raw", b"\x09\0")),
    ("warmup_files_are_complete", "warning", PIPE, "inputs", write("face_analysis/warmup/image.raw", b"\0\0\0\0jpg")),
    ("launch_files_can_be_read", "error", LAUNCH, None, write(LAUNCH, b"\xff\xff")),
    ("launch_files_can_be_read", "error", LAUNCH, None, remove(LAUNCH)),
    (
        "pipelines_are_loaded_after_the_start",
        "error",
        LAUNCH,
        "--load-model=face_analysis",
        replace(LAUNCH, "# - --load", "- --load"),
    ),
    (
        "pipelines_are_loaded_after_the_start",
        "error",
        LAUNCH,
        "command: [tritonserver]",
        replace(LAUNCH, "      - --model-control-mode=explicit\n", ""),
    ),
    (
        "manifest_is_readable",
        "error",
        f"face_embedder/1/{MANIFEST_NAME}",
        None,
        remove(f"face_embedder/1/{MANIFEST_NAME}"),
    ),
]


@pytest.mark.parametrize(
    ("rule", "severity", "file", "line", "change"),
    TRAPS,
    ids=[f"{index}-{trap[0]}" for index, trap in enumerate(TRAPS)],
)
def test_one_change_is_one_finding(
    repository: Path, rule: str, severity: Severity, file: str, line: str | None, change: Change
) -> None:
    change(repository)
    found = find(repository)
    assert [(f.rule, f.severity, str(f.file.relative_to(repository))) for f in found] == [(rule, severity, file)], found
    assert found[0].what
    assert found[0].why
    assert found[0].fix
    if line is None:
        assert found[0].line is None
    else:
        assert found[0].line is not None
        assert line in found[0].file.read_text().splitlines()[found[0].line - 1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            replace(CPU, EMBEDDER[EMBEDDER.index("output") : EMBEDDER.index("instance")], ""),
            {"inputs_and_outputs_are_written", "config_fits_the_contract"},
        ),
        (
            replace(PIPE, f"TYPE_STRING dims: [ 1 ] {IMAGE_FILE}", "TYPE_FP32 dims: [ 1 ] random_data: true"),
            {"warmup_is_not_random", "warmup_fits_the_inputs"},
        ),
        (make_sparse, {"graphs_fit_into_protobuf"}),
        (remove("face_embedder/1/model.onnx"), {"versions_hold_their_model", "files_are_those_of_the_manifest"}),
    ],
)  # fmt: skip
def test_rules_that_speak_together(repository: Path, change: Change, expected: set[str]) -> None:
    change(repository)
    assert rules_that_speak(repository) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda repository: None,
        replace(GPU, IN_CUDA, 'parameters { key: "cudnn_conv_use_max_workspace" value: "1" }'),
        replace(CPU, 'key: "enable_mem_pattern"', 'key: "warmswap.anything"'),
        replace(PIPE, 'key: "max_image_bytes"', 'key: "stage_version.face_embedder"'),
        replace(LAUNCH, LAUNCH_YAML, "FROM nvcr.io/nvidia/tritonserver:24.10-py3\nCMD warmswap serve --json\n"),
        write("face_analysis/initial_state/zeros.raw"),
    ],
)
def test_good_repositories_have_no_findings(repository: Path, change: Change) -> None:
    change(repository)
    assert find(repository) == []


def test_compiled_graphs_need_no_optimiser(repository: Path) -> None:
    replace(GPU, "level: 0", "level: 2")(repository)
    path = repository / "face_embedder/1" / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "compiled": {"for": "x86-64-v3"}}))
    assert "graph_level_fits_the_file" not in rules_that_speak(repository)


def test_every_rule_is_tested_and_explained() -> None:
    together = {"inputs_and_outputs_are_written", "warmup_is_not_random", "graphs_fit_into_protobuf"}
    tested = {trap[0] for trap in TRAPS} | together | {rule.__name__ for rule in identity_rules.RULES}
    assert tested == {rule.__name__ for rule in RULES}
    documented = (ROOT / "deploy/README.md").read_text()
    for rule in RULES:
        wants, why = explain(rule)
        assert wants
        assert why
        assert f"| `{rule.__name__}` | {wants} | {why} |" in documented
