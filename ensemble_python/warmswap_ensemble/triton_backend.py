"""The pipelines as Triton Python models (BLS). The only module that knows ``triton_python_backend_utils``.

Nothing of ``pb_utils`` may be used at module level: Triton adds its classes after this module was imported. Each
request is answered on its own; an exception that leaves ``execute`` would fail its neighbours too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import cv2
import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from warmswap_ensemble.contract import (
    ERROR_CODES,
    FACE_ANALYSIS,
    FACE_EMBEDDER,
    FACE_SWAP,
    FACE_SWAPPER,
    MODELS,
    PIPELINE_SETTINGS,
    PIPELINE_STAGES,
    TRITON_SETTINGS,
    swapper_variant,
)
from warmswap_ensemble.errors import (
    InvalidTensorError,
    ModelLoadingError,
    OverloadedError,
    PipelineError,
    SelfTestError,
    StageFailedError,
    StageNotReadyError,
)
from warmswap_ensemble.image import ImageLimits
from warmswap_ensemble.options import Parameters, parse_analyze_options, parse_swap_options
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.report import encode_report, model_versions, swap_report, twin_names
from warmswap_ensemble.request_log import OK, RequestLog
from warmswap_ensemble.request_metrics import ERRORS, FAMILIES, RequestTimes, warmup_requests
from warmswap_ensemble.request_scope import (
    RequestExecutor,
    RequestScope,
    current_scope,
    note,
    request_scope,
    trace_id_of,
)
from warmswap_ensemble.residency_client import ResidencyClient
from warmswap_ensemble.self_test import golden_swap_options, read_golden, read_warmup_pictures, request_digest
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_calls import Arrays, StageCalls
from warmswap_ensemble.stage_versions import resolve_stages, resolve_variants
from warmswap_ensemble.swappers import Swappers
from warmswap_ensemble.types import Stage

DEFAULT_SOURCE_CACHE_ENTRIES: Final = 64
DEFAULT_ON_DEMAND_WAIT_MS: Final = 0
STAGE_VERSION_PREFIX: Final = "stage_version."
REFUSED: Final = "refused"
"""A key that only the launcher sets: the pipeline must not load, and this is why."""

STAGE_PATIENCE_S: Final = 120.0
"""How long the first request, which is the warm-up, waits for a stage."""
STAGE_POLL_S: Final = 0.01

NOT_READY_TEXTS: Final = ("no available versions", "not ready")
"""What Triton says of a model that is being unloaded, or of a server that is shutting down."""

_REQUEST_ID: Final = re.compile(r"\[request id: [^\]]*\] ?")
"""What Triton puts before some of its texts."""

DEAD_TEXT: Final = "is not healthy"
"""What Triton says of a model whose process died."""


class PipelineModel:
    """What both pipelines share: settings, stages, BLS calls, errors, the golden check."""

    name: str

    def initialize(self, args: pb_utils.InitializeArgs) -> None:
        """Read the settings, fix the versions of the stages, and check that the warm-up is the golden request.

        Raises:
            TritonModelException: a setting is wrong, or a stage or the golden answer is missing; the load fails.
        """
        cv2.setNumThreads(1)
        model_dir = Path(args["model_repository"])
        self.version = args["model_version"]
        config = json.loads(args["model_config"])
        settings = {key: value["string_value"] for key, value in config["parameters"].items()}
        if REFUSED in settings:  # by the launcher, after a failure: so that the repository index has the reason
            raise pb_utils.TritonModelException(settings[REFUSED])
        try:
            self.pins = _stage_pins(self.name, settings)
            self.on_demand_wait_ms = _setting(settings, "on_demand_wait_ms", DEFAULT_ON_DEMAND_WAIT_MS)
            limits = ImageLimits(
                max_bytes=_setting(settings, "max_image_bytes", ImageLimits().max_bytes),
                max_pixels=_setting(settings, "max_image_pixels", ImageLimits().max_pixels),
            )
            self.cache = SourceCache(_setting(settings, "source_cache_entries", DEFAULT_SOURCE_CACHE_ENTRIES))
            self.stages = resolve_stages(self.name, model_dir.parent, self.pins)
            self.request_log = RequestLog.from_environment(self.name, self.version, os.environ)
            self.golden = read_golden(model_dir / self.version)
            self._check_warmup(model_dir)
        except Exception as error:
            raise pb_utils.TritonModelException(f"{self.name} {self.version}: {error}") from error
        twins = twin_names(self.stages)
        if twins:
            pb_utils.Logger.log_warn(
                f"{self.name} {self.version}: the weights of {', '.join(twins)} are random numbers (twins of real "
                "models, to measure with): its answers mean nothing"
            )
        self.executor = RequestExecutor(max_workers=2, thread_name_prefix=self.name)
        fixed_frames = bool(_setting(settings, "fixed_frames", 0))
        first_look = bool(_setting(settings, "first_look", 1))
        calls = StageCalls(self.stages, self._call_stage, fixed_frames, first_look)
        if self.golden and (fixed_frames or not first_look):
            self.golden = self.golden.for_full_frames()
        self.pipeline = Pipeline(calls, limits, self.cache, self.executor)
        self.residency = ResidencyClient.from_environment(self.name)
        self.residency.connect()
        self.answered = False
        self.request_times = RequestTimes(warmup_requests(config.get("model_warmup", [])))
        self.request_metrics, self.families = self._make_metrics(args["model_instance_name"])
        self.errors = self._make_error_metrics()
        pb_utils.Logger.log_info(f"warmswap: initialized {self.name} {self.version}")  # the launcher reads it

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Return one response per request, in order."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Stop the helper threads."""
        self.residency.close()
        self.executor.shutdown(wait=False)

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        with request_scope(request.request_id(), trace_of(request)) as scope:
            return self._answer_in(scope, request)

    def _answer_in(self, scope: RequestScope, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        begin_s = time.monotonic()
        is_warmup = self.request_times.is_warming_up
        outcome, message = OK, None
        try:
            response = pb_utils.InferenceResponse(output_tensors=self.respond(request))
            self.answered = True
            for name, value in self.request_times.add(time.monotonic() - begin_s, time.time()):
                metric = self.request_metrics[name]
                metric.increment(value) if FAMILIES[name].is_counter else metric.set(value)
        except PipelineError as error:
            outcome, message = error.code, error.message
            if isinstance(error, SelfTestError | StageFailedError):
                self._log_error(scope, message)
            code = getattr(pb_utils.TritonError, error.category)
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
        except Exception:
            outcome, message = "internal", f"internal: {ERROR_CODES['internal']}"
            self._log_error(scope, traceback.format_exc())
            response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INTERNAL))
        if not is_warmup:  # which is nobody's request
            if outcome != OK:
                self.errors[outcome].increment(1)
            self._log_request(scope, outcome, time.monotonic() - begin_s, message)
        return response

    def _log_error(self, scope: RequestScope, text: str) -> None:
        """Log what went wrong here, with the id in Triton's own form; the launcher looks for a failed warm-up."""
        pb_utils.Logger.log_error(f"{self.name} {self.version}: [request id: {scope.request_id}] {text}")

    def _log_request(self, scope: RequestScope, outcome: str, seconds: float, message: str | None) -> None:
        trace_id = trace_id_of(scope.trace)
        if trace_id:
            scope.facts["trace_id"] = trace_id
        line = self.request_log.line(scope, outcome, seconds, message)
        if line is not None:
            pb_utils.Logger.log_info(line)

    def respond(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        """Answer one request; errors are raised as ``PipelineError``."""
        raise NotImplementedError

    def _call_stage(self, stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        """Call a stage; the warm-up waits for stages that are still being loaded.

        So a launcher may load pipelines and stages at once, and the start of this process costs no time.
        """
        deadline_s = time.monotonic() + STAGE_PATIENCE_S
        while True:
            try:
                return call_stage(stage, inputs, output_names)
            except StageNotReadyError:
                if self.answered or time.monotonic() > deadline_s:
                    raise
                time.sleep(STAGE_POLL_S)

    @contextlib.contextmanager
    def _holding(self, stages: Iterable[Stage]) -> Iterator[None]:
        """Keep those stages loaded that are loaded on demand. Asked for first: a refusal should cost no work."""
        with contextlib.ExitStack() as held:
            for stage in stages:
                self._hold(held, stage)
            yield

    def _hold(self, held: contextlib.ExitStack, stage: Stage) -> None:
        """Keep one stage loaded; the warm-up, which nobody waits for, waits for its load."""
        deadline_s = time.monotonic() + STAGE_PATIENCE_S
        while True:
            try:
                held.enter_context(self.residency.hold(stage.model, self.on_demand_wait_ms))
                return
            except ModelLoadingError:
                if self.answered or time.monotonic() > deadline_s:
                    raise
                time.sleep(STAGE_POLL_S)

    def _make_metrics(self, instance: str) -> tuple[dict[str, pb_utils.Metric], list[pb_utils.MetricFamily]]:
        """Make the metrics of requests; the families must live as long as their metrics."""
        metrics: dict[str, pb_utils.Metric] = {}
        families: list[pb_utils.MetricFamily] = []
        for name, spec in FAMILIES.items():
            kind = pb_utils.MetricFamily.COUNTER if spec.is_counter else pb_utils.MetricFamily.GAUGE
            families.append(pb_utils.MetricFamily(name=name, description=spec.description, kind=kind))
            labels = {"model": self.name, "version": self.version}
            metrics[name] = families[-1].Metric(labels | ({"model_instance": instance} if spec.per_instance else {}))
        return metrics, families

    def _make_error_metrics(self) -> dict[str, pb_utils.Metric]:
        """Make a counter for each code, at zero: Prometheus does not see the first of a series that begins at one."""
        self.families.append(
            pb_utils.MetricFamily(
                name=ERRORS,
                description="Requests that the pipeline answered with an error, by its code",
                kind=pb_utils.MetricFamily.COUNTER,
            )
        )
        labels = {"model": self.name, "version": self.version}
        return {code: self.families[-1].Metric(labels | {"code": code}) for code in ERROR_CODES}

    def _check_warmup(self, model_dir: Path) -> None:
        if self.golden is None:
            raise SelfTestError(
                f"{model_dir / self.version} has no golden.json; make it with: warmswap export PACK --golden"
            )
        inputs = [tensor.name for tensor in MODELS[self.name].inputs if not tensor.optional]
        if request_digest(read_warmup_pictures(model_dir, inputs)) != self.golden.sha256:
            raise SelfTestError("the pictures in warmup/ are not those of golden.json; make both again")


class FaceSwapModel(PipelineModel):
    """``face_swap``: two encoded pictures in, the swapped one and a report out."""

    name = FACE_SWAP.name

    def initialize(self, args: pb_utils.InitializeArgs) -> None:
        """Prepare the pipeline, its other swappers, and the cache's metrics."""
        super().initialize(args)
        self.swappers = self._find_swappers(Path(args["model_repository"]).parent)
        self.metrics = {
            kind: pb_utils.MetricFamily(
                name=f"warmswap_source_cache_{kind}_total",
                description=f"Source pictures that were {meaning} in the cache of the pipeline",
                kind=pb_utils.MetricFamily.COUNTER,
            )
            for kind, meaning in (("hits", "found"), ("misses", "not found"))
        }
        labels = {"model": self.name, "version": self.version}
        self.counters = {kind: family.Metric(labels=labels) for kind, family in self.metrics.items()}

    def respond(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        """Swap."""
        source, target = (cast(bytes, read_picture(request, name)) for name in ("source_image", "target_image"))
        reference = read_picture(request, "reference_image", optional=True)
        parameters = read_parameters(request)
        options = parse_swap_options(parameters)
        golden = self.golden if self.golden and not parameters and self.golden.is_asked([source, target]) else None
        if golden:
            options = golden_swap_options(self.stages)
        pipeline = self.swappers.choose(options.swapper)
        stages = pipeline.calls.stages
        hits, misses = self.cache.hits, self.cache.misses
        try:
            with self._holding(stages.values()):
                result = pipeline.swap(source, target, reference, options, request.is_cancelled)
        finally:
            self._count("hits", self.cache.hits - hits)
            self._count("misses", self.cache.misses - misses)
        if golden:
            golden.check_swap(self.stages, result)
        note(
            faces=len(result.faces),
            swapped=sum(face.swapped for face in result.faces),
            image=result.image_info,
            source_cached=result.source_cached,
            timings_ms=result.timings_ms,
        )
        versions = model_versions(self.name, self.version, stages)
        scope = current_scope()
        report = encode_report(swap_report(result, versions, twin_names(stages), scope.request_id if scope else None))
        return [bytes_tensor("image", result.image), bytes_tensor("report", report)]

    def _find_swappers(self, repository: Path) -> Swappers:
        variants = resolve_variants(repository, self.pins, self.stages[FACE_EMBEDDER.name])
        for name, reason in variants.refused.items():
            pb_utils.Logger.log_error(f"{self.name} {self.version}: swapper {name} cannot be used: {reason}")
        return Swappers.of(self.pipeline, variants)

    def _count(self, kind: str, amount: int) -> None:
        if amount:
            self.counters[kind].increment(amount)


class FaceAnalysisModel(PipelineModel):
    """``face_analysis``: an encoded picture in, its faces with embeddings out."""

    name = FACE_ANALYSIS.name

    def respond(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        """Analyse."""
        image = cast(bytes, read_picture(request, "image"))
        parameters = read_parameters(request)
        options = parse_analyze_options(parameters)
        with self._holding(self.stages.values()):
            faces, embeddings = self.pipeline.analyze(image, options)
        note(faces=len(faces))
        if self.golden and not parameters and self.golden.is_asked([image]):
            self.golden.check_analysis(self.stages, faces, embeddings)
        return [
            pb_utils.Tensor("bbox", np.array([face.bbox for face in faces], np.float32).reshape(-1, 4)),
            pb_utils.Tensor("score", np.array([face.score for face in faces], np.float32)),
            pb_utils.Tensor("kps", np.array([face.kps for face in faces], np.float32).reshape(-1, 5, 2)),
            pb_utils.Tensor("embedding", np.ascontiguousarray(embeddings, np.float32)),
        ]


def call_stage(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
    """Call a stage through BLS, pinned to its version, under the id and the trace of the request that it is for.

    Raises:
        OverloadedError: its queue is full, or it is being unloaded; the request may be sent again.
        StageFailedError: it failed.
    """
    scope = current_scope()
    of_request: dict[str, Any] = {}
    if scope is not None:
        of_request = {"request_id": scope.request_id}
        if scope.trace is not None:
            of_request["trace"] = scope.trace
    request = pb_utils.InferenceRequest(
        model_name=stage.model,
        model_version=stage.version,
        requested_output_names=list(output_names),
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
        preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        **of_request,
    )
    try:
        response = request.exec()
    except pb_utils.TritonModelException as error:
        raise _stage_error(stage, str(error), None) from error
    if response.has_error():
        failure = response.error()
        raise _stage_error(stage, failure.message(), failure.code())
    # Copied, since the arrays lie in shared memory that goes with the response.
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in response.output_tensors()}


def _stage_error(stage: Stage, message: str, code: int | None) -> PipelineError:
    name = f"{stage.model} {stage.version}"
    message = _REQUEST_ID.sub("", message)  # the log has it already, and texts that differ by it cannot be counted
    if any(text in message.lower() for text in NOT_READY_TEXTS):
        return StageNotReadyError(f"{name} is not loaded now ({message}); try again")
    if DEAD_TEXT in message.lower():
        return OverloadedError(f"the process of {name} died and will be replaced ({message}); try again")
    if code == pb_utils.TritonError.UNAVAILABLE:
        return OverloadedError(f"{name} takes no request now ({message}); try again")
    return StageFailedError(f"{name} failed: {message}")


def read_picture(request: pb_utils.InferenceRequest, name: str, *, optional: bool = False) -> bytes | None:
    """Return the one element of a BYTES input, or None when an optional input is not there.

    Raises:
        InvalidTensorError: it is missing or has another number of elements.
    """
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        if optional:
            return None
        raise InvalidTensorError(f"input {name} is missing")
    array = tensor.as_numpy()
    if array.size != 1:
        raise InvalidTensorError(f"{name} must hold one picture, got shape {array.shape}")
    data = bytes(array.reshape(-1)[0])
    note(**{f"{name}_bytes": len(data)})
    return data


def trace_of(request: pb_utils.InferenceRequest) -> pb_utils.InferenceTrace | None:
    """Return the trace of a request, which must not be used once it is answered; None where Triton has no traces."""
    trace = getattr(request, "trace", None)  # absent before 23.11
    return trace() if trace else None


def read_parameters(request: pb_utils.InferenceRequest) -> Parameters:
    """Return the request parameters."""
    text = request.parameters()
    return cast(Mapping[str, Any], json.loads(text)) if text else {}


def bytes_tensor(name: str, data: bytes) -> pb_utils.Tensor:
    """Return a BYTES tensor of one element."""
    array: npt.NDArray[Any] = np.array([data], dtype=np.object_)
    return pb_utils.Tensor(name, array)


def _stage_pins(pipeline: str, settings: Mapping[str, str]) -> dict[str, str]:
    known = {
        *PIPELINE_SETTINGS,
        *TRITON_SETTINGS,
        *(f"{STAGE_VERSION_PREFIX}{name}" for name in PIPELINE_STAGES[pipeline]),
    }
    unknown = sorted(key for key in settings if key not in known and not _pins_variant(pipeline, key))
    if unknown:
        raise ValueError(f"unknown parameters {unknown} in config.pbtxt; known are {sorted(known)}")
    return {
        key.removeprefix(STAGE_VERSION_PREFIX): value
        for key, value in settings.items()
        if key.startswith(STAGE_VERSION_PREFIX)
    }


def _pins_variant(pipeline: str, key: str) -> bool:
    prefix, _, model = key.partition(".")
    is_pin = f"{prefix}." == STAGE_VERSION_PREFIX and FACE_SWAPPER.name in PIPELINE_STAGES[pipeline]
    return is_pin and swapper_variant(model) is not None


def _setting(settings: Mapping[str, str], key: str, default: int) -> int:
    value = settings.get(key)
    if value is None:
        return default
    if not value.isdecimal():
        raise ValueError(f"parameter {key} of config.pbtxt must be a whole number, got {value!r}")
    return int(value)
