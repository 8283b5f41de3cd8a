"""The pipelines as Triton Python models (BLS). Only this and ``bls`` know ``triton_python_backend_utils``.

Nothing of ``pb_utils`` may be used at module level: Triton adds its classes after this module was imported. Each
request is answered on its own; an exception that leaves ``execute`` would fail its neighbours too.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import cv2
import numpy as np
import triton_python_backend_utils as pb_utils

from warmswap_ensemble.arms import PipelineArm, Role, find_versions, forward_model, recorded, second_look
from warmswap_ensemble.bls import bytes_tensor, call_stage, forward, read_parameters, read_picture, trace_of
from warmswap_ensemble.canary import Canary, Work, see_again
from warmswap_ensemble.comparison import Seen, compare
from warmswap_ensemble.contract import (
    DEFAULT_SWAPPER,
    ERROR_CODES,
    FACE_ANALYSIS,
    FACE_DETECTOR,
    FACE_SWAP,
    FACE_SWAPPER,
    MODELS,
    PIPELINE_SETTINGS,
    PIPELINE_STAGES,
    TRITON_SETTINGS,
    swapper_variant,
)
from warmswap_ensemble.errors import (
    ModelLoadingError,
    PipelineError,
    SelfTestError,
    StageFailedError,
    StageNotReadyError,
)
from warmswap_ensemble.image import ImageLimits, decode_image
from warmswap_ensemble.observations import Observations
from warmswap_ensemble.options import Parameters, SwapOptions, parse_analyze_options, parse_swap_options
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.recording import Recorder, swap_gains
from warmswap_ensemble.report import encode_report, model_versions, swap_report, twin_names
from warmswap_ensemble.request_log import OK, RequestLog
from warmswap_ensemble.request_metrics import ERRORS, FAMILIES, RequestTimes, warmup_requests
from warmswap_ensemble.request_scope import (
    RequestExecutor,
    RequestScope,
    current_request_id,
    note,
    request_scope,
    trace_id_of,
)
from warmswap_ensemble.residency_client import ResidencyClient
from warmswap_ensemble.routes import Rollout, RouteFile
from warmswap_ensemble.self_test import golden_swap_options, read_golden, read_warmup_pictures, request_digest
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_calls import Arrays, StageCalls
from warmswap_ensemble.swappers import Swappers
from warmswap_ensemble.types import Face, Stage

DEFAULT_SOURCE_CACHE_ENTRIES: Final = 64
DEFAULT_ON_DEMAND_WAIT_MS: Final = 0
CANDIDATE_CACHE_ENTRIES: Final = 16
STAGE_VERSION_PREFIX: Final = "stage_version."
REFUSED: Final = "refused"
"""A key that only the launcher sets: the pipeline must not load, and this is why."""

STAGE_PATIENCE_S: Final = 120.0
"""How long the first request, which is the warm-up, waits for a stage."""
STAGE_POLL_S: Final = 0.01


Pictures = tuple[bytes, bytes, bytes | None]
"""Source, target and reference, encoded."""

OUTPUTS_OF_ANALYSIS: Final = tuple(tensor.name for tensor in FACE_ANALYSIS.outputs)


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
        self.repository = model_dir.parent
        self.served_as = model_dir.name  # another name than the pipeline's where it is a candidate of a rollout
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
            self.fixed_frames = bool(_setting(settings, "fixed_frames", 0))
            self.first_look = bool(_setting(settings, "first_look", 1))
            self.limits = limits
            self.executor = RequestExecutor(max_workers=2, thread_name_prefix=self.name)
            observations = Observations.from_environment(self.name, os.environ)
            self.canary = Canary(
                Role(self.name, self.served_as, int(self.version)),
                RouteFile(self.repository),
                self._build_arm,
                observations,
                self._log_problem,
            )
            self.request_log = RequestLog.from_environment(self.served_as, self.version, os.environ)
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
        if self.golden and (self.fixed_frames or not self.first_look):
            self.golden = self.golden.for_full_frames()
        self.residency = ResidencyClient.from_environment(self.name)
        self.residency.connect()
        self.answered = False
        self.request_times = RequestTimes(warmup_requests(config.get("model_warmup", [])))
        self.request_metrics, self.families = self._make_metrics(args["model_instance_name"])
        self.errors = self._make_error_metrics()
        pb_utils.Logger.log_info(f"warmswap: initialized {self.served_as} {self.version}")  # the launcher reads it

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Return one response per request, in order."""
        with self.canary.shadow:
            return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Stop the helper threads."""
        self.canary.close()
        self.residency.close()
        self.executor.shutdown(wait=False)

    @property
    def stages(self) -> Mapping[str, Stage]:
        """The versions that answer, by role, when no rollout says otherwise."""
        return self.canary.stable.stages

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline of those versions."""
        return self.canary.stable.swappers.pipelines[DEFAULT_SWAPPER]

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

    def share_out(self, key: str, work: Work[PipelineArm, list[pb_utils.Tensor]]) -> list[pb_utils.Tensor]:
        """Answer a request with the versions whose turn it is; the warm-up is for those that serve."""
        return self.canary.answer(key, work) if self.answered else work.answer(self.canary.stable, None)

    def _met_with(self, stages: Mapping[str, Stage]) -> frozenset[str]:
        """Return the models that a request meets: a rollout of another swapper than it asks for is none to it."""
        return frozenset({self.name, *(stage.model for stage in stages.values())})

    def _build_arm(self, versions: dict[str, int], rollout: Rollout | None) -> PipelineArm:
        """Find the versions that a rollout's state names, and make them ready to be called.

        Args:
            versions: Model to version.
            rollout: Of which they are the candidates; ``None`` = they serve.

        Raises:
            ManifestError: a version is missing, or two do not belong together.
        """
        is_own = rollout is not None
        stages, variants = find_versions(self.name, self.repository, self.pins, versions)
        executor = RequestExecutor(max_workers=2, thread_name_prefix=f"{self.name}-candidate") if is_own else None
        calls = StageCalls(stages, self._call_stage, self.fixed_frames, self.first_look)
        cache = SourceCache(min(CANDIDATE_CACHE_ENTRIES, self.cache.max_entries)) if is_own else self.cache
        for name, reason in variants.refused.items():
            self._log_problem(f"swapper {name} cannot be used: {reason}")
        swappers = Swappers.of(Pipeline(calls, self.limits, cache, executor or self.executor), variants)
        return PipelineArm(swappers, stages, forward_model(self.name, rollout), executor)

    def _log_problem(self, text: str) -> None:
        pb_utils.Logger.log_error(f"{self.name} {self.version}: {text}")

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
            labels = {"model": self.served_as, "version": self.version}
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
        labels = {"model": self.served_as, "version": self.version}
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
        """Prepare the pipeline and the cache's metrics."""
        super().initialize(args)
        self.metrics = {
            kind: pb_utils.MetricFamily(
                name=f"warmswap_source_cache_{kind}_total",
                description=f"Source pictures that were {meaning} in the cache of the pipeline",
                kind=pb_utils.MetricFamily.COUNTER,
            )
            for kind, meaning in (("hits", "found"), ("misses", "not found"))
        }
        labels = {"model": self.served_as, "version": self.version}
        self.counters = {kind: family.Metric(labels=labels) for kind, family in self.metrics.items()}

    def respond(self, request: pb_utils.InferenceRequest) -> list[pb_utils.Tensor]:
        """Swap."""
        source, target = (cast(bytes, read_picture(request, name)) for name in ("source_image", "target_image"))
        reference = read_picture(request, "reference_image", optional=True)
        parameters = read_parameters(request)
        options = parse_swap_options(parameters)
        is_golden = bool(self.golden and not parameters and self.golden.is_asked([source, target]))
        pictures = (source, target, reference)

        def answer(arm: PipelineArm, recorder: Recorder | None) -> list[pb_utils.Tensor]:
            if arm.forward_to:
                return self._forward(arm.forward_to, pictures, parameters)
            return self._swap(arm, pictures, options, recorder, request, is_golden=is_golden)

        def look_again(arm: PipelineArm, recorder: Recorder, rollout: Rollout) -> dict[str, float]:
            return self._see_swap_again(arm, pictures, parameters, options, recorder, rollout)

        stages = self.canary.stable.swappers.choose(options.swapper).calls.stages
        work = Work(answer, look_again, self._met_with(stages))
        return self.share_out(options.rollout_key or current_request_id(), work)

    def _swap(
        self,
        arm: PipelineArm,
        pictures: Pictures,
        options: SwapOptions,
        recorder: Recorder | None,
        request: pb_utils.InferenceRequest,
        *,
        is_golden: bool,
    ) -> list[pb_utils.Tensor]:
        if is_golden:
            options = golden_swap_options(arm.stages)
        pipeline = arm.swappers.choose(options.swapper)
        stages = pipeline.calls.stages
        # A candidate may be left alone with the request, which Triton frees with the reply.
        is_cancelled = request.is_cancelled if arm is self.canary.stable else lambda: False
        hits, misses = self.cache.hits, self.cache.misses
        try:
            with self._holding(stages.values()):
                result = (recorded(pipeline, recorder) if recorder else pipeline).swap(*pictures, options, is_cancelled)
        finally:
            if arm is self.canary.stable:
                self._count("hits", self.cache.hits - hits)
                self._count("misses", self.cache.misses - misses)
        if is_golden and self.golden:
            self.golden.check_swap(stages, result)
        if recorder:
            recorder.finish(result)
        note(
            faces=len(result.faces),
            swapped=sum(face.swapped for face in result.faces),
            image=result.image_info,
            source_cached=result.source_cached,
            timings_ms=result.timings_ms,
        )
        versions = model_versions(self.name, self.version, stages)
        report = encode_report(swap_report(result, versions, twin_names(stages), current_request_id() or None))
        return [bytes_tensor("image", result.image), bytes_tensor("report", report)]

    def _see_swap_again(
        self,
        arm: PipelineArm,
        pictures: Pictures,
        parameters: Parameters,
        options: SwapOptions,
        recorder: Recorder,
        rollout: Rollout,
    ) -> dict[str, float]:
        if arm.forward_to:
            answer = forward(arm.forward_to, _named(pictures), parameters, ["image"])
            image = decode_image(bytes(answer["image"][0]), "image", self.limits).pixels_rgb
            live = decode_image(recorder.image, "image", self.limits).pixels_rgb
            return compare([], Seen(image_rgb=live), Seen(image_rgb=image))
        pipeline = arm.swappers.choose(options.swapper)
        again, seen = second_look(pipeline, recorder, rollout.versions, was_cached=recorder.source_cached)

        def look() -> None:
            result = again.swap(*pictures, options)
            seen.gains = swap_gains(result)

        with self._holding(pipeline.calls.stages.values()):
            see_again(look)
        return compare(list(rollout.versions), recorder.seen, seen)

    def _forward(self, model: str, pictures: Pictures, parameters: Parameters) -> list[pb_utils.Tensor]:
        """Let a candidate answer; without the request, which Triton frees with the reply."""
        answer = forward(model, _named(pictures), parameters, [tensor.name for tensor in FACE_SWAP.outputs])
        return [pb_utils.Tensor(name, array) for name, array in answer.items()]

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
        is_golden = bool(self.golden and not parameters and self.golden.is_asked([image]))

        def answer(arm: PipelineArm, recorder: Recorder | None) -> list[pb_utils.Tensor]:
            if arm.forward_to:
                outputs = forward(arm.forward_to, {"image": image}, parameters, OUTPUTS_OF_ANALYSIS)
                return [pb_utils.Tensor(name, array) for name, array in outputs.items()]
            pipeline = arm.swappers.pipelines[DEFAULT_SWAPPER]
            with self._holding(arm.stages.values()):
                faces, embeddings = (recorded(pipeline, recorder) if recorder else pipeline).analyze(image, options)
            note(faces=len(faces))
            if is_golden and self.golden:
                self.golden.check_analysis(arm.stages, faces, embeddings)
            return [
                pb_utils.Tensor("bbox", np.array([face.bbox for face in faces], np.float32).reshape(-1, 4)),
                pb_utils.Tensor("score", np.array([face.score for face in faces], np.float32)),
                pb_utils.Tensor("kps", np.array([face.kps for face in faces], np.float32).reshape(-1, 5, 2)),
                pb_utils.Tensor("embedding", np.ascontiguousarray(embeddings, np.float32)),
            ]

        def look_again(arm: PipelineArm, recorder: Recorder, rollout: Rollout) -> dict[str, float]:
            if arm.forward_to:
                outputs = forward(arm.forward_to, {"image": image}, parameters, OUTPUTS_OF_ANALYSIS)
                rows = zip(outputs["bbox"], outputs["score"], outputs["kps"], strict=True)
                found = [Face(bbox, float(score), kps) for bbox, score, kps in rows]
                return compare([FACE_DETECTOR.name], recorder.seen, Seen(faces=found))
            pipeline = arm.swappers.pipelines[DEFAULT_SWAPPER]
            again, seen = second_look(pipeline, recorder, rollout.versions, was_cached=False)
            with self._holding(arm.stages.values()):
                see_again(lambda: again.analyze(image, options))
            return compare(list(rollout.versions), recorder.seen, seen)

        work = Work(answer, look_again, self._met_with(self.stages))
        return self.share_out(options.rollout_key or current_request_id(), work)


def _named(pictures: Pictures) -> dict[str, bytes | None]:
    return dict(zip((tensor.name for tensor in FACE_SWAP.inputs), pictures, strict=True))


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
