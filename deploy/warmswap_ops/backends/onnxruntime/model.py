"""Triton finds a Python-based backend in a file of this name; the logic is ``warmswap_ops.onnxruntime_backend``."""

from warmswap_ops.onnxruntime_backend.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
