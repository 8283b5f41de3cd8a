"""``face_analysis`` as a Triton Python model."""

from __future__ import annotations

from typing import Final, cast

import numpy as np
import triton_python_backend_utils as pb_utils

from warmswap_ensemble.arms import PipelineArm, recorded, second_look
from warmswap_ensemble.canary import Work, see_again
from warmswap_ensemble.comparison import Seen, compare
from warmswap_ensemble.contract import DEFAULT_SWAPPER, FACE_ANALYSIS, FACE_DETECTOR
from warmswap_ensemble.options import parse_analyze_options
from warmswap_ensemble.recording import Recorder
from warmswap_ensemble.request_scope import current_request_id, note
from warmswap_ensemble.routes import Rollout
from warmswap_ensemble.triton_backend.base import PipelineModel
from warmswap_ensemble.triton_backend.bls import forward, read_parameters, read_picture
from warmswap_ensemble.types import Face

OUTPUTS: Final = tuple(tensor.name for tensor in FACE_ANALYSIS.outputs)


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
                outputs = forward(arm.forward_to, {"image": image}, parameters, OUTPUTS)
                return [pb_utils.Tensor(name, array) for name, array in outputs.items()]
            pipeline = arm.swappers.pipelines[DEFAULT_SWAPPER]
            with self.holding(arm.stages.values()):
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
                outputs = forward(arm.forward_to, {"image": image}, parameters, OUTPUTS)
                rows = zip(outputs["bbox"], outputs["score"], outputs["kps"], strict=True)
                found = [Face(bbox, float(score), kps) for bbox, score, kps in rows]
                return compare([FACE_DETECTOR.name], recorder.seen, Seen(faces=found))
            pipeline = arm.swappers.pipelines[DEFAULT_SWAPPER]
            again, seen = second_look(pipeline, recorder, rollout.versions, was_cached=False)
            with self.holding(arm.stages.values()):
                see_again(lambda: again.analyze(image, options))
            return compare(list(rollout.versions), recorder.seen, seen)

        work = Work(answer, look_again, self.met_with(self.stages))
        return self.share_out(options.rollout_key or current_request_id(), work)
