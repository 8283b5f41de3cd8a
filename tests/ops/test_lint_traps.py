"""Each rule of ``warmswap lint`` finds its trap, and nothing else, in a good repository with one change."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest

from warmswap_ensemble.contract import FACE_EMBEDDER
from warmswap_ensemble.manifest import MANIFEST_NAME, Manifest
from warmswap_ops.commands import lint as command
from warmswap_ops.errors import EXIT_FINDINGS, RepositoryError, UsageError
from warmswap_ops.finding import Finding, Severity
from warmswap_ops.lint import explain, lint, read_versions
from warmswap_ops.lint_config import MAX_TEXT_BYTES, read_config_on_disk
from warmswap_ops.lint_rules import RULES, identity_rules

ROOT = Path(__file__).resolve().parents[2]
OWN_REPOSITORY = ROOT / "model_repository"
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


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository without findings, and beside it a file that starts it."""
    folder = tmp_path / "repository"
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


def make_sparse(repository: Path) -> None:
    for name in ("config.pbtxt", "configs/gpu.pbtxt"):
        with (repository / "face_embedder" / name).open("a") as file:
            file.write('default_model_filename: "large.onnx"\n')
    with (repository / "face_embedder/1/large.onnx").open("wb") as file:
        file.truncate(2**31)


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


def rules_that_speak(repository: Path) -> set[str]:
    return {finding.rule for finding in find(repository)}


# What cannot be wrong alone: the contract or the manifest has a word in it too.
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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("exec tritonserver --model-store /m --load-model face_analysis --model-control-mode explicit", 1),
        ("web: tritonserver --model-control-mode=explicit --load-model='*'", 1),
        ('CMD ["tritonserver", "--model-control-mode=explicit", \\\n "--load-model", "face_analysis"]', 2),
        ("args:\n- --model-control-mode=explicit\n- --load-model\n- face_analysis\n", 3),
        ("#!/bin/sh\n# starts it\n/opt/tritonserver/bin/tritonserver --model-repository=/models\n", 3),
        ("tritonserver --model-repository=/models --model-control-mode=explicit", None),
        ("tritonserver --model-repository=/models --model-control-mode=poll", 1),
    ],
)
def test_launch_files_of_every_kind(repository: Path, text: str, line: int | None) -> None:
    (repository / LAUNCH).write_text(text)
    found = find(repository)
    assert {finding.rule for finding in found} == ({"pipelines_are_loaded_after_the_start"} if line else set())
    assert [finding.line for finding in found] == ([line] if line else [])


def test_what_looks_like_a_pipeline_is_one(repository: Path) -> None:
    (repository / "face_analysis").rename(repository / "chain")
    replace("chain/config.pbtxt", '"face_analysis"', '"chain"')(repository)
    (repository / LAUNCH).write_text("tritonserver --model-repository=/m")
    assert rules_that_speak(repository) == set()
    (repository / "chain/1/model.py").write_text("pb_utils.InferenceRequest(model_name='x')")
    assert rules_that_speak(repository) == {"pipelines_are_loaded_after_the_start"}


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


def test_own_repository_is_clean() -> None:
    """Bytecode is what Triton's stub leaves there; it is a warning, so also a repository that was served passes."""
    found = lint(read_versions(OWN_REPOSITORY, "commercial"), RULES)
    assert [finding for finding in found if finding.rule != "bytecode_is_not_in_versions"] == []
    assert run("--repository", str(OWN_REPOSITORY)) == 0


def run(*arguments: str) -> int:
    parser = ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def test_exit_code_counts_errors_and_warnings_only_if_strict(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--repository", str(repository))
    assert run(*at, "--strict") == 0
    replace(CPU, "    count: 1\n", "    count: 2\n")(repository)
    assert run(*at) == 0
    capsys.readouterr()
    assert run(*at, "--strict") == EXIT_FINDINGS
    place = f"{repository / CPU}:14: warning: 2 instances"
    assert any(line.startswith(place) for line in capsys.readouterr().out.splitlines())
    replace(CPU, "model_warmup", "model_warmups")(repository)
    assert run(*at, "--json") == EXIT_FINDINGS
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["rule"], finding["line"], finding["severity"]) == ("config_can_be_read", 21, "error")
    assert run(*at, "--rule", "threads_are_limited", "--rule", "models_are_warmed") == 0
    with pytest.raises(UsageError, match="no rule misspelt"):
        run(*at, "--rule", "misspelt")


def test_rules_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list-rules") == 0
    assert "conv_search_is_heuristic: On a GPU" in capsys.readouterr().out
    assert run("--list-rules", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["rules"]) == len(RULES)


def config_as_folder(repository: Path) -> None:
    (repository / CPU).unlink()
    (repository / CPU).mkdir()


def config_as_pipe(repository: Path) -> None:
    (repository / CPU).unlink()
    os.mkfifo(repository / CPU)


def config_as_broken_link(repository: Path) -> None:
    (repository / GPU).unlink()
    (repository / GPU).symlink_to("nowhere")


def huge_config(repository: Path) -> None:
    with (repository / CPU).open("ab") as file:
        file.truncate(8 * MAX_TEXT_BYTES)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (config_as_folder, "not a regular file"),
        (config_as_pipe, "not a regular file"),
        (config_as_broken_link, "No such file"),
        (huge_config, "are not read"),
        (write(CPU, random.Random(1).randbytes(4096)), "UTF-8"),
        (write(CPU, b"\x00\x01\x02"), r"\x00"),
        (write(CPU, b"input " + b"{" * 100_000), "Expected"),
        (write(CPU, b"name: " + b'"\\' * 100_000), "name:"),
    ],
)
def test_what_is_no_configuration_is_one_finding(repository: Path, change: Change, text: str) -> None:
    change(repository)
    (finding,) = find(repository)
    assert finding.rule == "config_can_be_read"
    assert text in finding.what
    assert len(finding.what) < 400
    assert finding.what.isprintable()


def test_empty_configuration_lacks_what_a_model_needs(repository: Path) -> None:
    (repository / PIPE).write_bytes(b"")
    expected = {"inputs_and_outputs_are_written", "instance_count_is_explicit", "models_are_warmed"}
    assert expected <= rules_that_speak(repository)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("x" * 300, "File name too long"),
        (r"\000", "which is not there"),
        ("../config.pbtxt/x", "which is not there"),
        (".", "which is not there"),
    ],
)
def test_odd_file_names_are_findings(repository: Path, name: str, what: str) -> None:
    replace(CPU, "crop.raw", name)(repository)
    (finding,) = find(repository)
    assert (finding.rule, what in finding.what) == ("warmup_files_are_complete", True)
    replace(CPU, "# The good one.", f'default_model_filename: "{name}"')(repository)
    assert "versions_hold_their_model" in rules_that_speak(repository) or name == "."


@pytest.mark.parametrize(("data", "reason"), [(b"[" * 100_000, "cannot be read"), (bytes(2 * MAX_TEXT_BYTES), "bytes")])
def test_manifest_that_is_none_is_one_finding(repository: Path, data: bytes, reason: str) -> None:
    (repository / "face_embedder/1" / MANIFEST_NAME).write_bytes(data)
    (finding,) = find(repository)
    assert (finding.rule, reason in finding.what) == ("manifest_is_readable", True)


def test_folder_that_cannot_be_listed_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied", "/models/private")

    monkeypatch.setattr("warmswap_ops.lint.version_dirs", refuse)
    with pytest.raises(RepositoryError, match="/models/private cannot be listed: Permission denied"):
        find(repository)


def test_damaged_bytes_never_break_it(repository: Path) -> None:
    """A byte of a real configuration changed, lost or doubled: findings or none, in bounded time, no traceback."""
    chance = random.Random(20)
    originals = [path.read_bytes() for path in sorted(OWN_REPOSITORY.glob("*/**/*.pbtxt"))] + [PIPELINE.encode()]
    unread = 0
    rules = [rule for rule in RULES if rule.__name__ != "files_are_those_of_the_manifest"]
    for _ in range(400):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 2)] = chance.choice(
                [b"", b"{", b"}", b'"', b"-", b"<", chance.randbytes(2)]
            )
        (repository / CPU).write_bytes(data)
        config = read_config_on_disk(repository / CPU, "face_embedder")
        unread += config.problem is not None
        for finding in lint(read_versions(repository, "any"), rules):
            assert finding.what
            assert finding.line is None or 1 <= finding.line <= data.count(b"\n") + 1
    assert 100 < unread < 400


def test_lines_of_every_way_to_write_a_field(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text(
        "# input { }\n"
        "instance_group <\n"
        "  count: 1\n"
        ">\n"
        "instance_group: [ { count: 2 },\n"
        '  { name: "a" "b"\n'
        "    gpus: [ 0,\n"
        "            1 ] } ]\n"
        'parameters { value { string_value: "}" }\n'
        '  key: "late" }\n'
    )
    config = read_config_on_disk(path, "any")
    assert config.problem is None
    assert [config.line(("instance_group", index), "count") for index in range(3)] == [3, 5, 6]
    assert config.line(("instance_group", 2), ("gpus", 1)) == 8
    assert config.line(("parameters", "late")) == 9
    assert config.line("model_warmup") is None
