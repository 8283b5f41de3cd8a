"""Triton entry point of ``face_analysis``; the logic lives in ``warmswap_ensemble``."""

from warmswap_ensemble.triton_backend import FaceAnalysisModel


class TritonPythonModel(FaceAnalysisModel):
    """The name is fixed by Triton's Python backend."""
