"""The pipelines as Triton sees them, with a fake ``pb_utils`` and the committed models behind BLS."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.ensemble.support import COLLINS, HOPPER, REPOSITORY, encode, make_stage, smooth_rgb
from tests.fakes import pb_utils as fake
from warmswap_ensemble import errors
from warmswap_ensemble.contract import ERROR_CODES, REQUEST_LOG_MARK, STAGES
from warmswap_ensemble.errors import OverloadedError, PipelineError, StageFailedError
from warmswap_ensemble.image import decode_image
from warmswap_ensemble.self_test import read_golden
from warmswap_ensemble.stage_calls import CallModel
from warmswap_ensemble.types import Stage

BACKEND = "warmswap_ensemble.triton_backend"
BASE = f"{BACKEND}.base"
CALLS = f"{BACKEND}.bls"
SETTINGS = {
    "first_look": "1",
    "fixed_frames": "0",
    "max_image_bytes": "33554432",
    "max_image_pixels": "50000000",
    "source_cache_entries": "64",
}
NOBODY = encode(smooth_rgb(120, 160), "PNG")
SECRET = "/srv/secret/path of the server"

Bls = Callable[[fake.InferenceRequest], fake.InferenceResponse]


def load_entry_point(name: str) -> ModuleType:
    """Import ``1/model.py`` as the stub does: before the classes of ``pb_utils`` are there."""
    path = REPOSITORY / name / "1/model.py"
    spec = importlib.util.spec_from_file_location(f"entry_point_of_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forget_backend() -> None:
    """Forget every module that knows ``pb_utils``, which is another fake one each time."""
    for name in [name for name in sys.modules if name == BACKEND or name.startswith(f"{BACKEND}.")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def entry_points() -> Iterator[dict[str, ModuleType]]:
    forget_backend()
    fake.uninstall()
    fake.install()
    write_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    modules = {name: load_entry_point(name) for name in ("face_swap", "face_analysis")}
    fake.install_classes()
    yield modules
    sys.dont_write_bytecode = write_bytecode
    fake.uninstall()
    forget_backend()


@pytest.fixture(scope="module")
def backend(entry_points: dict[str, ModuleType]) -> ModuleType:
    assert entry_points
    return importlib.import_module(BASE)


@pytest.fixture(autouse=True)
def bls(call_onnx: CallModel, stages: Mapping[str, Stage], backend: ModuleType) -> Iterator[None]:
    """Answer BLS calls with the committed models."""
    assert backend

    def answer(request: fake.InferenceRequest) -> fake.InferenceResponse:
        stage = stages[request.model_name()]
        assert request.model_version() == stage.version
        inputs = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        outputs = call_onnx(stage, inputs, request.requested_output_names())
        return fake.InferenceResponse([fake.Tensor(name, array) for name, array in outputs.items()])

    set_bls(answer)
    fake.Logger.lines.clear()
    yield
    set_bls(None)


def set_bls(answer: Bls | None) -> None:
    fake.InferenceRequest.bls = None if answer is None else staticmethod(answer)


def logged() -> list[tuple[str, str]]:
    """Return what an operator sees; each load writes one line for the launcher besides."""
    lines = [(level, line) for level, line in fake.Logger.lines if not line.startswith("warmswap: initialized ")]
    return [(level, re.sub(r"(?<=: )\[request id: [^\]]+\] ", "", line)) for level, line in lines]


def args_for(name: str, repository: Path = REPOSITORY, settings: Mapping[str, str] = SETTINGS) -> dict[str, str]:
    parameters = {key: {"string_value": value} for key, value in settings.items()}
    return {
        "model_config": json.dumps({"name": name, "parameters": parameters}),
        "model_instance_kind": "CPU",
        "model_instance_name": f"{name}_0_0",
        "model_instance_device_id": "0",
        "model_repository": str(repository / name),
        "model_version": "1",
        "model_name": name,
    }


class Loaded:
    """A loaded pipeline, and its answers in short form."""

    def __init__(self, module: ModuleType, args: Mapping[str, str]) -> None:
        self.model: Any = module.TritonPythonModel()
        self.model.initialize(args)

    def ask(self, *requests: fake.InferenceRequest) -> list[fake.InferenceResponse]:
        responses: list[fake.InferenceResponse] = self.model.execute(list(requests))
        assert len(responses) == len(requests)
        return responses

    def error_of(self, request: fake.InferenceRequest) -> tuple[int, str]:
        (response,) = self.ask(request)
        return error_of(response)


def error_of(response: fake.InferenceResponse) -> tuple[int, str]:
    error = response.error()
    assert error is not None
    return error.code(), error.message()


def output(response: fake.InferenceResponse, name: str) -> Any:
    assert not response.has_error(), error_of(response)
    (array,) = (tensor.as_numpy() for tensor in response.output_tensors() if tensor.name() == name)
    return array


def picture(name: str, *data: bytes) -> fake.Tensor:
    return fake.Tensor(name, np.array(list(data), np.object_))


def swap_request(
    source: bytes, target: bytes, *more: fake.Tensor, cancelled: bool = False, **parameters: str | int | bool
) -> fake.InferenceRequest:
    inputs = [picture("source_image", source), picture("target_image", target), *more]
    return fake.InferenceRequest("face_swap", inputs=inputs, parameters=parameters, cancelled=cancelled)


def warmup(name: str, tensor: str) -> bytes:
    return (REPOSITORY / name / "warmup" / f"{tensor}.raw").read_bytes()[4:]


SOURCE, TARGET = warmup("face_swap", "source_image"), warmup("face_swap", "target_image")


@pytest.fixture(scope="module")
def swap(entry_points: dict[str, ModuleType]) -> Iterator[Loaded]:
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap"))
    yield loaded
    loaded.model.finalize()


@pytest.fixture(scope="module")
def analysis(entry_points: dict[str, ModuleType]) -> Iterator[Loaded]:
    settings = {key: SETTINGS[key] for key in ("max_image_bytes", "max_image_pixels")}
    loaded = Loaded(entry_points["face_analysis"], args_for("face_analysis", settings=settings))
    yield loaded
    loaded.model.finalize()


def test_no_request_no_response(swap: Loaded) -> None:
    assert swap.ask() == []


def test_warmup_of_the_swap_gets_the_golden_answer(swap: Loaded) -> None:
    (response,) = swap.ask(swap_request(SOURCE, TARGET))
    report = json.loads(output(response, "report")[0])
    (face,) = report["faces"]
    assert face["swapped"]
    assert face["similarity_after"] - face["similarity_before"] > 0.05
    assert report["models"] == {
        "face_detector": "1",
        "face_landmarker": "1",
        "face_embedder": "1",
        "face_swapper": "1",
        "face_swap": "1",
    }
    assert report["image"] == {"format": "jpeg", "width": 512, "height": 600}
    assert set(report) == {"faces", "source", "image", "timings_ms", "models", "request_id"}
    image = output(response, "image")
    assert image.shape == (1,)
    assert decode_image(image[0], "answer", swap.model.pipeline.limits).pixels_rgb.shape == (600, 512, 3)


def test_warmup_of_the_analysis_gets_the_golden_answer(analysis: Loaded) -> None:
    request = fake.InferenceRequest("face_analysis", inputs=[picture("image", warmup("face_analysis", "image"))])
    (response,) = analysis.ask(request)
    shapes = {tensor.name(): (tensor.as_numpy().shape, tensor.as_numpy().dtype) for tensor in response.output_tensors()}
    assert shapes == {
        "bbox": ((1, 4), np.float32),
        "score": ((1,), np.float32),
        "kps": ((1, 5, 2), np.float32),
        "embedding": ((1, 128), np.float32),
    }


def test_analysis_of_nobody_has_empty_tensors(analysis: Loaded) -> None:
    (response,) = analysis.ask(fake.InferenceRequest("face_analysis", inputs=[picture("image", NOBODY)]))
    shapes = {tensor.name(): tensor.as_numpy().shape for tensor in response.output_tensors()}
    assert shapes == {"bbox": (0, 4), "score": (0,), "kps": (0, 5, 2), "embedding": (0, 128)}
    assert all(tensor.as_numpy().dtype == np.float32 for tensor in response.output_tensors())


def test_one_bad_request_does_not_fail_its_neighbours(swap: Loaded) -> None:
    good = swap_request(SOURCE, TARGET)
    responses = swap.ask(
        good,
        swap_request(SOURCE, b"GIF89a"),
        fake.InferenceRequest("face_swap", inputs=[picture("source_image", SOURCE)]),
        swap_request(SOURCE, TARGET, quality=0),
        swap_request(NOBODY, TARGET),
        good,
    )
    assert [response.has_error() for response in responses] == [False, True, True, True, True, False]
    codes = [error_of(response)[1].partition(":")[0] for response in responses[1:-1]]
    assert codes == ["invalid_image", "invalid_tensor", "invalid_option", "no_face"]
    assert output(responses[0], "image")[0] == output(responses[-1], "image")[0]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        pytest.param([], "invalid_tensor: input source_image is missing", id="nothing"),
        pytest.param(
            [picture("target_image", TARGET)], "invalid_tensor: input source_image is missing", id="no source"
        ),
        pytest.param(
            [picture("source_image"), picture("target_image", TARGET)],
            "invalid_tensor: source_image must hold one picture, got shape (0,)",
            id="no element",
        ),
        pytest.param(
            [picture("source_image", SOURCE), picture("target_image", TARGET, TARGET)],
            "invalid_tensor: target_image must hold one picture, got shape (2,)",
            id="two elements",
        ),
        pytest.param(
            [
                picture("source_image", SOURCE),
                picture("target_image", TARGET),
                picture("reference_image", SOURCE, SOURCE),
            ],
            "invalid_tensor: reference_image must hold one picture, got shape (2,)",
            id="two references",
        ),
        pytest.param(
            [picture("source_image", b""), picture("target_image", TARGET)],
            "invalid_image: source_image is empty (0 bytes); send a JPEG, PNG or WebP picture",
            id="no bytes",
        ),
    ],
)
def test_inputs_are_checked(inputs: list[fake.Tensor], message: str, swap: Loaded) -> None:
    code, text = swap.error_of(fake.InferenceRequest("face_swap", inputs=inputs))
    assert (code, text) == (fake.TritonError.INVALID_ARG, message)


def test_reference_reaches_the_pipeline(swap: Loaded) -> None:
    reference = picture("reference_image", HOPPER.read_bytes())
    (response,) = swap.ask(swap_request(SOURCE, TARGET, reference, face_selector="reference"))
    assert json.loads(output(response, "report")[0])["faces"][0]["swapped"]
    code, text = swap.error_of(swap_request(SOURCE, TARGET, reference))
    assert code == fake.TritonError.INVALID_ARG
    assert text.startswith("invalid_option: reference_image is only used with")


def pipeline_errors() -> list[type[PipelineError]]:
    found = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PipelineError)]
    assert len(found) > 10
    return found


@pytest.mark.parametrize("error_class", pipeline_errors())
def test_every_pipeline_error_becomes_its_triton_error(
    error_class: type[PipelineError], swap: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> object:
        raise error_class("what happened")

    monkeypatch.setattr(swap.model, "respond", fail)
    code, text = swap.error_of(swap_request(SOURCE, TARGET))
    assert code == getattr(fake.TritonError, error_class.category)
    assert text == f"{error_class.code}: what happened"
    is_ours = issubclass(error_class, errors.StageFailedError | errors.SelfTestError)
    assert logged() == ([("error", f"face_swap 1: {text}")] if is_ours else [])


def test_unexpected_exception_tells_the_caller_nothing_and_the_log_everything(
    swap: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> object:
        raise ZeroDivisionError(SECRET)

    monkeypatch.setattr(swap.model, "respond", fail)
    code, text = swap.error_of(swap_request(SOURCE, TARGET))
    assert (code, text) == (fake.TritonError.INTERNAL, f"internal: {ERROR_CODES['internal']}")
    ((level, line),) = logged()
    assert level == "error"
    assert "Traceback" in line
    assert f"ZeroDivisionError: {SECRET}" in line


def test_cancelled_request(swap: Loaded) -> None:
    def no_bls(_: fake.InferenceRequest) -> fake.InferenceResponse:
        raise AssertionError("a stage was called")

    set_bls(no_bls)
    code, text = swap.error_of(swap_request(SOURCE, TARGET, cancelled=True))
    assert code == fake.TritonError.CANCELLED
    assert text.startswith("cancelled: ")


def test_cache_is_counted(entry_points: dict[str, ModuleType]) -> None:
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap"))
    request = swap_request(COLLINS.read_bytes(), TARGET, max_faces=1)
    before, after, third = loaded.ask(request, request, swap_request(NOBODY, TARGET))
    assert not json.loads(output(before, "report")[0])["source"]["cached"]
    assert json.loads(output(after, "report")[0])["source"]["cached"]
    assert third.has_error()
    assert {kind: counter.value() for kind, counter in loaded.model.counters.items()} == {"hits": 1, "misses": 2}
    labels = (("model", "face_swap"), ("version", "1"))
    assert {family.name: list(family.metrics) for family in loaded.model.metrics.values()} == {
        "warmswap_source_cache_hits_total": [labels],
        "warmswap_source_cache_misses_total": [labels],
    }
    loaded.model.finalize()


def failing(message: str, code: int | None) -> Bls:
    def answer(_: fake.InferenceRequest) -> fake.InferenceResponse:
        if code is None:
            raise fake.TritonModelException(message)
        return fake.InferenceResponse(error=fake.TritonError(message, code))

    return answer


INTERNAL, UNAVAILABLE = fake.TritonError.INTERNAL, fake.TritonError.UNAVAILABLE


@pytest.mark.parametrize(
    ("message", "code", "expected"),
    [
        pytest.param("", INTERNAL, StageFailedError, id="empty"),
        pytest.param("Exceeds maximum queue size", UNAVAILABLE, OverloadedError, id="queue full"),
        pytest.param("Request timeout expired", UNAVAILABLE, OverloadedError, id="too long in the queue"),
        pytest.param("Model face_detector is not ready.", INTERNAL, OverloadedError, id="not ready"),
        pytest.param(
            "Request for unknown model: 'face_detector' has no available versions", INTERNAL, OverloadedError, id="gone"
        ),
        pytest.param("Model 'face_detector' is not ready.", None, OverloadedError, id="not ready, raised"),
        pytest.param("onnx runtime error 2: bad shape", INTERNAL, StageFailedError, id="failed"),
        pytest.param(
            "unexpected shape for input", fake.TritonError.INVALID_ARG, StageFailedError, id="our bad request"
        ),
        pytest.param("out of shared memory", None, StageFailedError, id="failed, raised"),
    ],
)
def test_errors_of_a_stage(
    message: str,
    code: int | None,
    expected: type[PipelineError],
    backend: ModuleType,
    swap: Loaded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(swap.model, "answered", True)
    set_bls(failing(message, code))
    stage = make_stage("face_detector", version=3)
    with pytest.raises(expected) as caught:
        backend.call_stage(stage, {"image_rgb": np.zeros((1, 2, 2, 3), np.uint8)}, ("bbox",))
    assert str(caught.value).startswith("face_detector 3 ")
    assert message in str(caught.value)
    triton_code, text = swap.error_of(swap_request(NOBODY, TARGET))
    assert triton_code == getattr(fake.TritonError, expected.category)
    assert text.startswith(f"{expected.code}: face_detector 1 ")


class LateStages:
    """Stages that are still being loaded for some calls."""

    def __init__(self, answer: Bls, not_ready: int) -> None:
        self.answer = answer
        self.not_ready = not_ready
        self.calls = 0

    def __call__(self, request: fake.InferenceRequest) -> fake.InferenceResponse:
        self.calls += 1
        if self.calls <= self.not_ready:
            return failing("Model face_detector is not ready.", INTERNAL)(request)
        return self.answer(request)


def test_first_request_waits_for_its_stages_and_later_ones_do_not(
    entry_points: dict[str, ModuleType], backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fake.InferenceRequest.bls is not None
    answer = fake.InferenceRequest.bls
    monkeypatch.setattr(backend, "STAGE_POLL_S", 0.0)
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap"))
    set_bls(late := LateStages(answer, not_ready=3))
    (response,) = loaded.ask(swap_request(SOURCE, TARGET))
    assert not response.has_error()
    assert late.calls > 3
    set_bls(late := LateStages(answer, not_ready=3))
    code, text = loaded.error_of(swap_request(SOURCE, TARGET))
    assert (code, text.partition(":")[0], late.calls) == (UNAVAILABLE, "overloaded", 1)
    loaded.model.finalize()


def test_patience_with_stages_ends(
    entry_points: dict[str, ModuleType], backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "STAGE_PATIENCE_S", 0.0)
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap"))
    set_bls(failing("Model face_detector is not ready.", INTERNAL))
    assert loaded.error_of(swap_request(SOURCE, TARGET))[1].startswith("overloaded: face_detector 1 is not loaded")
    loaded.model.finalize()


def test_stage_is_called_with_its_version_on_the_cpu(backend: ModuleType) -> None:
    seen: list[fake.InferenceRequest] = []
    answer_array = np.arange(6, dtype=np.float32)

    def answer(request: fake.InferenceRequest) -> fake.InferenceResponse:
        seen.append(request)
        return fake.InferenceResponse([fake.Tensor("embedding", answer_array)])

    set_bls(answer)
    crops = np.zeros((2, 8, 9, 3), np.uint8).swapaxes(1, 2)
    outputs = backend.call_stage(make_stage("face_embedder", version=7), {"aligned_crop_rgb": crops}, ("embedding",))
    (request,) = seen
    assert (request.model_name(), request.model_version()) == ("face_embedder", 7)
    assert request.requested_output_names() == ["embedding"]
    (tensor,) = request.inputs()
    assert tensor.shape() == [2, 9, 8, 3]
    assert tensor.as_numpy().flags.c_contiguous
    memory = request.preferred_memory()
    assert memory is not None
    assert (memory.preferred_memory_type, memory.preferred_device_id) == (0, 0)
    # The array lies in shared memory that goes with the response, so it must have been copied.
    assert not np.shares_memory(outputs["embedding"], answer_array)
    np.testing.assert_array_equal(outputs["embedding"], answer_array)


CONTEXT = '{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b302ab9a1c0aa108-01"}'


def test_error_of_a_stage_does_not_differ_by_the_id(backend: ModuleType) -> None:
    set_bls(failing("[request id: is not healthy] Exceeds maximum queue size", UNAVAILABLE))
    with pytest.raises(OverloadedError) as caught:
        backend.call_stage(make_stage("face_detector"), {"image_rgb": np.zeros((1, 2, 2, 3), np.uint8)}, ("bbox",))
    assert caught.value.message.startswith("overloaded: face_detector 1 takes no request now (Exceeds maximum queue")


def test_every_stage_call_has_the_trace_and_the_id_of_its_request(swap: Loaded) -> None:
    assert fake.InferenceRequest.bls is not None
    answer, seen = fake.InferenceRequest.bls, []

    def remember(request: fake.InferenceRequest) -> fake.InferenceResponse:
        seen.append((request.model_name(), request.request_id(), request.trace()))
        return answer(request)

    set_bls(remember)
    for name in ("one", "two"):
        seen.clear()
        inputs = [picture("source_image", SOURCE), picture("target_image", TARGET)]
        request = fake.InferenceRequest("face_swap", inputs=inputs, request_id=name, trace=fake.InferenceTrace(CONTEXT))
        (response,) = swap.ask(request)
        assert json.loads(output(response, "report")[0])["request_id"] == name
        assert {model for model, _, _ in seen} == {spec.name for spec in STAGES}
        assert all(call[1:] == (name, request.trace()) for call in seen)


def test_no_stage_is_called_with_a_trace_that_was_freed(swap: Loaded) -> None:
    """The embedder refuses at once, while a helper thread still looks for landmarks."""
    assert fake.InferenceRequest.bls is not None
    answer = fake.InferenceRequest.bls
    late: list[bool] = []
    slow, trace = threading.Event(), fake.InferenceTrace(CONTEXT)

    def refuse_embedder(request: fake.InferenceRequest) -> fake.InferenceResponse:
        if request.model_name() == "face_embedder":
            threading.Timer(0.2, slow.set).start()
            return failing("the queue is full", UNAVAILABLE)(request)
        if request.model_name() == "face_landmarker":
            slow.wait(20.0)
            late.append(request.trace().freed)
        return answer(request)

    set_bls(refuse_embedder)
    request = swap_request(SOURCE, TARGET)
    request._trace = trace
    code, text = swap.error_of(request)
    trace.freed = True
    assert (code, text.partition(":")[0]) == (UNAVAILABLE, "overloaded")
    assert late == [False]


def test_triton_without_traces_still_serves(swap: Loaded) -> None:
    class OldRequest(fake.InferenceRequest):
        def __getattribute__(self, name: str) -> Any:
            if name == "trace":
                raise AttributeError(name)
            return super().__getattribute__(name)

    inputs = [picture("source_image", SOURCE), picture("target_image", TARGET)]
    (response,) = swap.ask(OldRequest("face_swap", inputs=inputs))
    assert not response.has_error()


def test_log_has_a_line_for_each_request(entry_points: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMSWAP_REQUEST_LOG", "all")
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap"))
    fake.Logger.lines.clear()
    inputs = [picture("source_image", SOURCE), picture("target_image", TARGET)]
    good = fake.InferenceRequest("face_swap", inputs=inputs, request_id="good", trace=fake.InferenceTrace(CONTEXT))
    loaded.ask(good, swap_request(SOURCE, b"GIF89a"))
    assert [level for level, _ in fake.Logger.lines] == ["info", "info"]
    ok, refused = (json.loads(line.removeprefix(REQUEST_LOG_MARK)) for _, line in fake.Logger.lines)
    assert (ok["request_id"], ok["outcome"], ok["trace_id"]) == ("good", "ok", "0af7651916cd43dd8448eb211c80319c")
    assert (ok["faces"], ok["swapped"], ok["image"]) == (1, 1, {"format": "jpeg", "width": 512, "height": 600})
    assert (ok["source_image_bytes"], ok["target_image_bytes"]) == (len(SOURCE), len(TARGET))
    assert set(ok["timings_ms"]) >= {"decode", "detect", "swap", "total"}
    assert (len(refused["request_id"]), refused["outcome"]) == (32, "invalid_image")
    assert refused["error"].startswith("invalid_image: target_image")
    assert "trace_id" not in refused
    loaded.model.finalize()


def test_warm_up_is_nobodys_request(entry_points: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARMSWAP_REQUEST_LOG", "all")
    args = args_for("face_swap")
    config = json.loads(args["model_config"]) | {"model_warmup": [{"batch_size": 1, "count": 2}]}
    loaded = Loaded(entry_points["face_swap"], {**args, "model_config": json.dumps(config)})
    loaded.ask(*[swap_request(SOURCE, TARGET) for _ in range(3)])
    assert sum(line.startswith(REQUEST_LOG_MARK) for _, line in fake.Logger.lines) == 1
    loaded.model.finalize()


def test_wrong_mode_of_the_request_log_fails_the_load(
    entry_points: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARMSWAP_REQUEST_LOG", "some")
    with pytest.raises(fake.TritonModelException, match=r"WARMSWAP_REQUEST_LOG must be one of off, errors, all"):
        Loaded(entry_points["face_swap"], args_for("face_swap"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        pytest.param(
            {"max_pixels": "5"}, r"unknown parameters \['max_pixels'\].*known are .*max_image_pixels", id="name"
        ),
        pytest.param({"stage_version.face_swaper": "1"}, r"unknown parameters \['stage_version", id="stage"),
        pytest.param({"max_image_bytes": "32M"}, "max_image_bytes of config.pbtxt must be a whole number", id="bytes"),
        pytest.param({"max_image_pixels": "-1"}, "max_image_pixels of config.pbtxt must be a whole", id="pixels"),
        pytest.param({"source_cache_entries": ""}, "source_cache_entries of config.pbtxt must be", id="cache"),
        pytest.param({"stage_version.face_swapper": "7"}, "face_swapper: has no version 7; it has 1", id="version"),
    ],
)
def test_wrong_setting_refuses_the_load(
    settings: dict[str, str], message: str, entry_points: dict[str, ModuleType]
) -> None:
    with pytest.raises(fake.TritonModelException, match=f"^face_swap 1: .*{message}"):
        Loaded(entry_points["face_swap"], args_for("face_swap", settings=settings))


def test_settings_of_the_configuration_are_used(entry_points: dict[str, ModuleType]) -> None:
    settings = {
        "first_look": "0",
        "fixed_frames": "1",
        "max_image_bytes": "1000",
        "max_image_pixels": "2000",
        "source_cache_entries": "3",
    }
    model = Loaded(entry_points["face_swap"], args_for("face_swap", settings=settings)).model
    assert (model.pipeline.limits.max_bytes, model.pipeline.limits.max_pixels) == (1000, 2000)
    assert model.cache.max_entries == 3
    assert model.pipeline.calls.fixed_frames is True
    assert model.pipeline.calls.first_look is False
    assert model.golden == read_golden(REPOSITORY / "face_swap/1").for_full_frames()  # type: ignore[union-attr]
    defaults = Loaded(entry_points["face_swap"], args_for("face_swap", settings={})).model
    assert {key: int(value) for key, value in SETTINGS.items()} == {
        "first_look": int(defaults.pipeline.calls.first_look),
        "fixed_frames": int(defaults.pipeline.calls.fixed_frames),
        "max_image_bytes": defaults.pipeline.limits.max_bytes,
        "max_image_pixels": defaults.pipeline.limits.max_pixels,
        "source_cache_entries": defaults.cache.max_entries,
    }


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the repository whose pipeline may be changed."""
    for spec in STAGES:
        (tmp_path / spec.name).symlink_to(REPOSITORY / spec.name)
    for name in ("face_swap", "face_analysis"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    return tmp_path


def change_golden(repository: Path, name: str, **changes: object) -> None:
    path = repository / name / "1/golden.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("name", ["face_swap", "face_analysis"])
def test_load_without_a_golden_answer_is_refused(
    name: str, repository: Path, entry_points: dict[str, ModuleType]
) -> None:
    (repository / name / "1/golden.json").unlink()
    with pytest.raises(fake.TritonModelException, match=rf"{name} 1: .* has no golden\.json; make it with"):
        Loaded(entry_points[name], args_for(name, repository, {}))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(None, r"source_image\.raw cannot be read", id="missing"),
        pytest.param(b"", r"source_image\.raw cannot be read", id="empty"),
        pytest.param(struct.pack("<I", 3) + b"abc", r"are not those of golden\.json", id="another picture"),
        pytest.param(struct.pack("<I", len(SOURCE)) + SOURCE[:-1], r"source_image\.raw must hold", id="cut short"),
    ],
)
def test_load_with_another_warmup_picture_is_refused(
    data: bytes | None, message: str, repository: Path, entry_points: dict[str, ModuleType]
) -> None:
    path = repository / "face_swap/warmup/source_image.raw"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(fake.TritonModelException, match=f"face_swap 1: .*{message}"):
        Loaded(entry_points["face_swap"], args_for("face_swap", repository, {}))


def test_load_without_a_stage_is_refused(repository: Path, entry_points: dict[str, ModuleType]) -> None:
    (repository / "face_swapper").unlink()
    with pytest.raises(fake.TritonModelException, match=r"face_swap 1: .*face_swapper: has no version directory"):
        Loaded(entry_points["face_swap"], args_for("face_swap", repository, {}))
    Loaded(entry_points["face_analysis"], args_for("face_analysis", repository, {})).model.finalize()


def test_wrong_answer_to_the_golden_request_fails_it_and_no_other(
    repository: Path, entry_points: dict[str, ModuleType]
) -> None:
    change_golden(repository, "face_swap", similarities=[0.5, 0.9])
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap", repository, {}))
    code, text = loaded.error_of(swap_request(SOURCE, TARGET))
    assert code == fake.TritonError.INTERNAL
    assert text.startswith("self_test_failed: similarity before the swap is")
    assert logged() == [("error", f"face_swap 1: {text}")]
    with_option, other = loaded.ask(swap_request(SOURCE, TARGET, quality=80), swap_request(TARGET, SOURCE))
    assert not with_option.has_error()
    assert not other.has_error()
    loaded.model.finalize()


def test_wrong_golden_analysis_fails(repository: Path, entry_points: dict[str, ModuleType]) -> None:
    change_golden(repository, "face_analysis", bbox=[0, 0, 10, 10])
    loaded = Loaded(entry_points["face_analysis"], args_for("face_analysis", repository, {}))
    request = fake.InferenceRequest("face_analysis", inputs=[picture("image", warmup("face_analysis", "image"))])
    code, text = loaded.error_of(request)
    assert code == fake.TritonError.INTERNAL
    assert text.startswith("self_test_failed: the face lies")
    loaded.model.finalize()


def test_golden_answer_of_other_stages_is_not_held_against_these(
    repository: Path, entry_points: dict[str, ModuleType]
) -> None:
    change_golden(repository, "face_swap", similarities=[0.5, 0.9], stages={"face_detector": "another"})
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap", repository, {}))
    (response,) = loaded.ask(swap_request(SOURCE, TARGET))
    assert not response.has_error()
    loaded.model.finalize()


def change_manifest(repository: Path, model: str, **changes: object) -> None:
    """Replace the link to a stage by a copy whose manifest says something else."""
    (repository / model).unlink()
    shutil.copytree(REPOSITORY / model, repository / model)
    path = repository / model / "1/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_real_models_cause_no_warning_and_no_twins_in_the_report(swap: Loaded) -> None:
    (response,) = swap.ask(swap_request(SOURCE, TARGET))
    assert "twins" not in json.loads(output(response, "report")[0])
    assert fake.Logger.lines == []


def test_twins_are_logged_at_the_load_and_named_in_every_report(
    repository: Path, entry_points: dict[str, ModuleType]
) -> None:
    for model in ("face_swapper", "face_detector"):
        change_manifest(repository, model, twin_seed=0)
    loaded = Loaded(entry_points["face_swap"], args_for("face_swap", repository, {}))
    ((level, line),) = logged()
    assert level == "warn"
    assert line.startswith("face_swap 1: the weights of face_detector 1, face_swapper 1 are random numbers")
    for request in (swap_request(SOURCE, TARGET), swap_request(SOURCE, NOBODY, on_no_face="passthrough")):
        (response,) = loaded.ask(request)
        assert json.loads(output(response, "report")[0])["twins"] == ["face_detector 1", "face_swapper 1"]
    loaded.model.finalize()
    fake.Logger.lines.clear()
    Loaded(entry_points["face_analysis"], args_for("face_analysis", repository, {})).model.finalize()
    assert [line.partition(" are ")[0] for _, line in logged()] == ["face_analysis 1: the weights of face_detector 1"]


def test_swapper_whose_embeddings_nobody_makes_refuses_the_load(
    repository: Path, entry_points: dict[str, ModuleType]
) -> None:
    settings = {"identity": ["source_embedding"], "embedding_space": "arcface", "embedding_length": 512}
    change_manifest(repository, "face_swapper", settings={"crop_size": 256, "warp_template": "ffhq_512", **settings})
    wanted = r"face_swapper 1 wants embeddings of the space arcface \(512 numbers\), but face_embedder 1 makes dlib_"
    with pytest.raises(fake.TritonModelException, match=f"^face_swap 1: .*{wanted}.*pin another version"):
        Loaded(entry_points["face_swap"], args_for("face_swap", repository, {}))
    Loaded(entry_points["face_analysis"], args_for("face_analysis", repository, {})).model.finalize()


def test_requests_are_measured_and_warm_ups_are_not(entry_points: dict[str, ModuleType]) -> None:
    args = args_for("face_analysis")
    config = json.loads(args["model_config"]) | {"model_warmup": [{"name": "golden", "batch_size": 1, "count": 1}]}
    loaded = Loaded(entry_points["face_analysis"], args | {"model_config": json.dumps(config)})
    metrics = loaded.model.request_metrics
    request = fake.InferenceRequest(inputs=[picture("image", HOPPER.read_bytes())])
    loaded.ask(request)
    assert metrics["warmswap_first_request_seconds"].value() == 0
    loaded.ask(fake.InferenceRequest(inputs=[picture("image", b"no picture")]))
    assert metrics["warmswap_first_request_seconds"].value() == 0
    loaded.ask(request)
    assert metrics["warmswap_first_request_seconds"].value() > 0
    assert metrics["warmswap_request_median_seconds"].value() > 0
    assert metrics["warmswap_last_request_timestamp_seconds"].value() > 1.7e9
    assert metrics["warmswap_cold_requests_total"].value() == 0
    errors = {code: counter.value() for code, counter in loaded.model.errors.items()}
    assert errors == dict.fromkeys(ERROR_CODES, 0) | {"invalid_image": 1}
    assert {tuple(dict(labels)) for labels in loaded.model.families[-1].metrics} == {("code", "model", "version")}


def test_a_warm_up_that_fails_is_no_error_of_a_request(entry_points: dict[str, ModuleType]) -> None:
    args = args_for("face_analysis")
    config = json.loads(args["model_config"]) | {"model_warmup": [{"name": "golden", "batch_size": 1, "count": 1}]}
    loaded = Loaded(entry_points["face_analysis"], args | {"model_config": json.dumps(config)})
    loaded.ask(fake.InferenceRequest(inputs=[picture("image", b"no picture")]))
    assert not any(counter.value() for counter in loaded.model.errors.values())


def test_pipeline_that_the_launcher_refuses_gives_its_reason(entry_points: dict[str, ModuleType]) -> None:
    refusal = SETTINGS | {"refused": "model face_embedder failed to load: damaged"}
    with pytest.raises(fake.TritonModelException, match=r"^model face_embedder failed to load: damaged$"):
        Loaded(entry_points["face_swap"], args_for("face_swap", settings=refusal))


def test_stage_whose_process_died_may_be_asked_again(backend: ModuleType) -> None:
    assert backend
    error = importlib.import_module(CALLS)._stage_error(
        make_stage("face_embedder"), "Stub process 'face_embedder_0_0' is not healthy.", 1
    )
    assert type(error) is OverloadedError  # not StageNotReadyError: a warm-up does not wait for it
    assert "face_embedder 1 died" in error.message
