"""``face_swap`` as a Triton Python model."""

from __future__ import annotations

from typing import cast

import triton_python_backend_utils as pb_utils

from warmswap_ensemble.arms import PipelineArm, recorded, second_look
from warmswap_ensemble.canary import Work, see_again
from warmswap_ensemble.comparison import Seen, compare
from warmswap_ensemble.contract import FACE_SWAP
from warmswap_ensemble.image import decode_image
from warmswap_ensemble.options import Parameters, SwapOptions, parse_swap_options
from warmswap_ensemble.recording import Recorder, swap_gains
from warmswap_ensemble.report import encode_report, model_versions, swap_report, twin_names
from warmswap_ensemble.request_scope import current_request_id, note
from warmswap_ensemble.routes import Rollout
from warmswap_ensemble.self_test import golden_swap_options
from warmswap_ensemble.triton_backend.base import PipelineModel
from warmswap_ensemble.triton_backend.bls import bytes_tensor, forward, read_parameters, read_picture
from warmswap_ensemble.triton_backend.metrics import make_cache_metrics

Pictures = tuple[bytes, bytes, bytes | None]
"""Source, target and reference, encoded."""


class FaceSwapModel(PipelineModel):
    """``face_swap``: two encoded pictures in, the swapped one and a report out."""

    name = FACE_SWAP.name

    def initialize(self, args: pb_utils.InitializeArgs) -> None:
        """Prepare the pipeline and the cache's metrics."""
        super().initialize(args)
        self.counters, self.metrics = make_cache_metrics(self.labels)

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
        work = Work(answer, look_again, self.met_with(stages))
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
            with self.holding(stages.values()):
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
            image = decode_image(bytes(answer["image"][0]), "image", self.settings.limits).pixels_rgb
            live = decode_image(recorder.image, "image", self.settings.limits).pixels_rgb
            return compare([], Seen(image_rgb=live), Seen(image_rgb=image))
        pipeline = arm.swappers.choose(options.swapper)
        again, seen = second_look(pipeline, recorder, rollout.versions, was_cached=recorder.source_cached)

        def look() -> None:
            result = again.swap(*pictures, options)
            seen.gains = swap_gains(result)

        with self.holding(pipeline.calls.stages.values()):
            see_again(look)
        return compare(list(rollout.versions), recorder.seen, seen)

    def _forward(self, model: str, pictures: Pictures, parameters: Parameters) -> list[pb_utils.Tensor]:
        """Let a candidate answer; without the request, which Triton frees with the reply."""
        answer = forward(model, _named(pictures), parameters, [tensor.name for tensor in FACE_SWAP.outputs])
        return [pb_utils.Tensor(name, array) for name, array in answer.items()]

    def _count(self, kind: str, amount: int) -> None:
        if amount:
            self.counters[kind].increment(amount)


def _named(pictures: Pictures) -> dict[str, bytes | None]:
    return dict(zip((tensor.name for tensor in FACE_SWAP.inputs), pictures, strict=True))
