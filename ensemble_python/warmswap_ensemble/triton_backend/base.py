"""What the pipelines have in common as Triton Python models: load, answer, log, count.

Each request is answered on its own; an exception that leaves ``execute`` would fail its neighbours too.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import triton_python_backend_utils as pb_utils

from warmswap_ensemble.arms import PipelineArm, Role, find_versions, forward_model
from warmswap_ensemble.canary import Canary, Work
from warmswap_ensemble.contract import DEFAULT_SWAPPER, ERROR_CODES, MODELS
from warmswap_ensemble.errors import (
    ModelLoadingError,
    PipelineError,
    SelfTestError,
    StageFailedError,
    StageNotReadyError,
)
from warmswap_ensemble.observations import Observations
from warmswap_ensemble.pipeline import Pipeline
from warmswap_ensemble.pipeline_settings import REFUSED, config_parameters, parse_settings
from warmswap_ensemble.report import twin_names
from warmswap_ensemble.request_log import OK, RequestLog
from warmswap_ensemble.request_metrics import FAMILIES, RequestTimes, warmup_requests
from warmswap_ensemble.request_scope import RequestExecutor, RequestScope, request_scope, trace_id_of
from warmswap_ensemble.residency_client import ResidencyClient
from warmswap_ensemble.routes import Rollout, RouteFile
from warmswap_ensemble.self_test import read_golden, read_warmup_pictures, request_digest
from warmswap_ensemble.source_cache import SourceCache
from warmswap_ensemble.stage_calls import Arrays, StageCalls
from warmswap_ensemble.swappers import Swappers
from warmswap_ensemble.triton_backend.bls import call_stage, trace_of
from warmswap_ensemble.triton_backend.metrics import make_error_metrics, make_request_metrics
from warmswap_ensemble.types import Stage

CANDIDATE_CACHE_ENTRIES: Final = 16
STAGE_PATIENCE_S: Final = 120.0
"""How long the first request, which is the warm-up, waits for a stage."""
STAGE_POLL_S: Final = 0.01


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
        parameters = config_parameters(config)
        if REFUSED in parameters:  # by the launcher, after a failure: so that the repository index has the reason
            raise pb_utils.TritonModelException(parameters[REFUSED])
        try:
            self.settings = parse_settings(self.name, parameters)
            self.cache = SourceCache(self.settings.source_cache_entries)
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
        if self.golden and (self.settings.fixed_frames or not self.settings.first_look):
            self.golden = self.golden.for_full_frames()
        self.residency = ResidencyClient.from_environment(self.name)
        self.residency.connect()
        self.answered = False
        self.request_times = RequestTimes(warmup_requests(config.get("model_warmup", [])))
        self.labels = {"model": self.served_as, "version": self.version}
        self.request_metrics, self.families = make_request_metrics(self.labels, args["model_instance_name"])
        self.errors, error_family = make_error_metrics(self.labels)
        self.families.append(error_family)
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

    def met_with(self, stages: Mapping[str, Stage]) -> frozenset[str]:
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
        stages, variants = find_versions(self.name, self.repository, self.settings.pins, versions)
        executor = RequestExecutor(max_workers=2, thread_name_prefix=f"{self.name}-candidate") if is_own else None
        calls = StageCalls(stages, self._call_stage, self.settings.fixed_frames, self.settings.first_look)
        cache = SourceCache(min(CANDIDATE_CACHE_ENTRIES, self.cache.max_entries)) if is_own else self.cache
        for name, reason in variants.refused.items():
            self._log_problem(f"swapper {name} cannot be used: {reason}")
        swappers = Swappers.of(Pipeline(calls, self.settings.limits, cache, executor or self.executor), variants)
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
    def holding(self, stages: Iterable[Stage]) -> Iterator[None]:
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
                held.enter_context(self.residency.hold(stage.model, self.settings.on_demand_wait_ms))
                return
            except ModelLoadingError:
                if self.answered or time.monotonic() > deadline_s:
                    raise
                time.sleep(STAGE_POLL_S)

    def _check_warmup(self, model_dir: Path) -> None:
        if self.golden is None:
            raise SelfTestError(
                f"{model_dir / self.version} has no golden.json; make it with: warmswap export PACK --golden"
            )
        inputs = [tensor.name for tensor in MODELS[self.name].inputs if not tensor.optional]
        if request_digest(read_warmup_pictures(model_dir, inputs)) != self.golden.sha256:
            raise SelfTestError("the pictures in warmup/ are not those of golden.json; make both again")
