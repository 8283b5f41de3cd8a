"""The pipelines as Triton Python models (BLS). Only this package knows ``triton_python_backend_utils``.

Nothing of ``pb_utils`` may be used at module level: Triton adds its classes after these modules were imported. The
``model.py`` of every version, also of those that were exported long ago, imports its class from here.
"""

from warmswap_ensemble.triton_backend.analysis import FaceAnalysisModel
from warmswap_ensemble.triton_backend.base import PipelineModel
from warmswap_ensemble.triton_backend.swap import FaceSwapModel

__all__ = ["FaceAnalysisModel", "FaceSwapModel", "PipelineModel"]
