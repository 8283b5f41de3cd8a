"""Triton entry point of ``face_swap``; the logic lives in ``warmswap_ensemble``."""

from warmswap_ensemble.triton_backend import FaceSwapModel


class TritonPythonModel(FaceSwapModel):
    """The name is fixed by Triton's Python backend."""
