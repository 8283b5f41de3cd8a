"""The baseline of ``detect``: insightface's own SCRFD, over ONNX Runtime here or over the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from warmswap_loadtests.linked_repository import GraphTensor
from warmswap_loadtests.quiet_insightface import import_insightface
from warmswap_loadtests.stage_client import StageClient


class RemoteSession:
    """Looks like an ONNX Runtime session to insightface, and asks the server."""

    def __init__(
        self, client: StageClient, model: str, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]
    ) -> None:
        """Name the model in the server and the tensors of its graph."""
        self._client, self._model = client, model
        self._inputs, self._outputs = list(inputs), list(outputs)

    def get_inputs(self) -> list[GraphTensor]:
        """As ``onnxruntime.InferenceSession``."""
        return self._inputs

    def get_outputs(self) -> list[GraphTensor]:
        """As ``onnxruntime.InferenceSession``."""
        return self._outputs

    def run(self, output_names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """As ``onnxruntime.InferenceSession``."""
        answer = self._client.infer(self._model, "1", feeds, output_names)
        return [answer[name] for name in output_names]


class InsightFaceDetector:
    """insightface's ``SCRFD.detect``: resize, blob, session, decode, NMS."""

    def __init__(self, session: Any, min_score: float, model_file: Path | None = None) -> None:
        """Make one.

        Args:
            session: ONNX Runtime session, or what looks like one.
            min_score: Least score of a face.
            model_file: The graph, from which insightface makes a session of its own for the size of the frame.

        Raises:
            BenchError: insightface is not installed.
        """
        scrfd = import_insightface("model_zoo.scrfd")
        self._detector = scrfd.SCRFD(model_file=str(model_file) if model_file else None, session=session)
        self._detector.det_thresh = min_score

    def detect(self, frame_bgr: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return (F, 4) bbox, (F,) score and (F, 5, 2) kps of a frame, highest score first."""
        height, width = frame_bgr.shape[:2]
        found, kps = self._detector.detect(frame_bgr, input_size=(width, height))
        return found[:, :4], found[:, 4], kps
