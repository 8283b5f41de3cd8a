"""Every ``config.pbtxt`` against the contract and the rules of the house."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.model_repository.support import CONFIGS, REPOSITORY, model_of, name_of, parse
from warmswap_ensemble.contract import MODELS, PIPELINE_SETTINGS, PIPELINES, STAGES, ModelSpec, TensorSpec, model_spec

TRITON_TYPES = {"UINT8": "TYPE_UINT8", "INT32": "TYPE_INT32", "FP32": "TYPE_FP32", "BYTES": "TYPE_STRING"}
BYTES_PER_ELEMENT = {"TYPE_UINT8": 1, "TYPE_INT32": 4, "TYPE_FP32": 4}

every_config = pytest.mark.parametrize(
    "config", CONFIGS, ids=[str(config.relative_to(REPOSITORY).with_suffix("")) for config in CONFIGS]
)


def spec_of(config: Path) -> ModelSpec:
    spec = model_spec(model_of(config))
    assert spec is not None
    return spec


def test_folders_are_the_models_of_the_contract_and_a_variant() -> None:
    folders = {path.name for path in REPOSITORY.iterdir() if path.is_dir()}
    assert folders == {*MODELS, "face_swapper_512"}
    assert all((REPOSITORY / name / "config.pbtxt").is_file() for name in folders)


def as_tensors(tensors: Any) -> list[tuple[str, str, tuple[int, ...], bool]]:
    return [(t.name, name_of("DataType", t.data_type), tuple(t.dims), getattr(t, "optional", False)) for t in tensors]


def expected_tensors(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int, ...], bool]]:
    return [(spec.name, TRITON_TYPES[spec.datatype], spec.shape, spec.optional) for spec in specs]


@every_config
def test_tensors_are_those_of_the_contract(config: Path) -> None:
    parsed, spec = parse(config), spec_of(config)
    assert parsed.name == model_of(config)
    assert as_tensors(parsed.input) == expected_tensors(spec.inputs)
    assert as_tensors(parsed.output) == expected_tensors(spec.outputs)


@every_config
def test_backend_and_batch_fit_the_kind_of_model(config: Path) -> None:
    parsed, spec = parse(config), spec_of(config)
    assert parsed.backend == ("python" if spec in PIPELINES else "onnxruntime")
    if spec.max_batch == 0:
        assert parsed.max_batch_size == 0
    else:
        assert parsed.max_batch_size >= spec.max_batch


@every_config
def test_instances_are_counted_explicitly(config: Path) -> None:
    """Without a count Triton starts one for each GPU, or two on the CPU: nobody would know which."""
    groups = parse(config).instance_group
    assert len(groups) == 1
    assert groups[0].count >= 1
    kind = name_of("ModelInstanceGroup.Kind", groups[0].kind)
    is_for_gpus = config.stem == "gpu" and spec_of(config) in STAGES
    assert kind == ("KIND_GPU" if is_for_gpus else "KIND_CPU")


@every_config
def test_queue_is_bounded_and_refuses(config: Path) -> None:
    parsed = parse(config)
    if config.stem != "gpu" and spec_of(config) in STAGES:
        # Triton 24.10 lets requests of a dynamic batcher sleep half a second behind a busy instance.
        assert not parsed.HasField("dynamic_batching")
        return
    assert parsed.HasField("dynamic_batching")
    policy = parsed.dynamic_batching.default_queue_policy
    assert policy.max_queue_size > 0
    assert name_of("ModelQueuePolicy.TimeoutAction", policy.timeout_action) == "REJECT"
    assert 0 < policy.default_timeout_microseconds <= 60_000_000
    assert policy.allow_timeout_override


@every_config
def test_warmup_sends_real_files_of_the_right_size(config: Path) -> None:
    parsed, spec = parse(config), spec_of(config)
    assert parsed.model_warmup
    required = {tensor.name: tensor for tensor in spec.inputs if not tensor.optional}
    for sample in parsed.model_warmup:
        assert 1 <= sample.batch_size <= max(1, parsed.max_batch_size)
        assert set(sample.inputs) == set(required)
        for name, value in sample.inputs.items():
            assert value.WhichOneof("input_data_type") == "input_data_file", "no zero_data, no random_data"
            tensor = required[name]
            data_type, dims = name_of("DataType", value.data_type), tuple(value.dims)
            assert data_type == TRITON_TYPES[tensor.datatype]
            assert len(dims) == len(tensor.shape)
            assert all(want in (-1, have) and have > 0 for want, have in zip(tensor.shape, dims, strict=True))
            data = (REPOSITORY / model_of(config) / "warmup" / value.input_data_file).read_bytes()
            if data_type == "TYPE_STRING":
                assert int.from_bytes(data[:4], "little") == len(data) - 4
            else:
                count = 1
                for dim in dims:
                    count *= dim
                assert len(data) == count * BYTES_PER_ELEMENT[data_type]
            assert len(set(data)) > 10, "a picture, not a constant"


@pytest.mark.parametrize("model", MODELS)
def test_every_warmup_file_is_used(model: str) -> None:
    samples = [sample for config in CONFIGS if model_of(config) == model for sample in parse(config).model_warmup]
    used = {value.input_data_file for sample in samples for value in sample.inputs.values()}
    assert used == {path.name for path in (REPOSITORY / model / "warmup").iterdir()}


@every_config
def test_stages_are_warmed_with_every_batch_size_that_would_be_cold(config: Path) -> None:
    """A batch of one runs in the golden request. On a GPU each size is a shape of its own, on a CPU (measured) not."""
    if spec_of(config) in STAGES:
        sizes = {sample.batch_size for sample in parse(config).model_warmup}
        assert ({1, 2} if config.name == "gpu.pbtxt" else {2}) <= sizes


@every_config
def test_no_made_up_data_anywhere(config: Path) -> None:
    text = config.read_text(encoding="utf-8")
    assert "random_data" not in text
    assert "zero_data" not in text


@pytest.mark.parametrize("spec", PIPELINES, ids=lambda spec: spec.name)
def test_pipeline_parameters_are_known(spec: Any) -> None:
    parameters = parse(REPOSITORY / spec.name / "config.pbtxt").parameters
    known = set(PIPELINE_SETTINGS)
    assert {"max_image_bytes", "max_image_pixels"} <= set(parameters)
    assert all(name in known or name.startswith("stage_version.") for name in parameters)
    assert all(value.string_value.isdecimal() for value in parameters.values())


@every_config
def test_alternatives_differ_in_the_machine_and_not_in_the_model(config: Path) -> None:
    parsed, default = parse(config), parse(REPOSITORY / model_of(config) / "config.pbtxt")
    assert as_tensors(parsed.input) == as_tensors(default.input)
    assert as_tensors(parsed.output) == as_tensors(default.output)
    assert parsed.max_batch_size == default.max_batch_size
    assert parsed.version_policy == default.version_policy
