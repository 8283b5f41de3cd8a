"""A swapper that costs nothing: an ONNX file with the ports of inswapper_128 that always gives the same crop.

With it the time of ``INSwapper.get`` is the time of everything around the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from warmswap_loadtests.errors import BenchError

CROP_SIZE: Final = 128
EMBEDDING_LENGTH: Final = 512


def write_tiny_swapper(path: Path, crop_rgb: NDArray[np.uint8]) -> None:
    """Write the file.

    Args:
        path: Where to.
        crop_rgb: (128, 128, 3), what the network gives.

    Raises:
        BenchError: ``onnx`` is not installed.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper, save_model
    except ImportError as error:
        raise BenchError(f"the benchmark writes an ONNX file: pip install onnx ({error})") from error
    # Half a step up, so that cutting off the decimals gives the crop again.
    planes = (crop_rgb.transpose(2, 0, 1)[None].astype(np.float32) + 0.5) / 255
    shape = [1, 3, CROP_SIZE, CROP_SIZE]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["crop"], ["output"])],
        "tiny_swapper",
        [
            helper.make_tensor_value_info("target", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("source", TensorProto.FLOAT, [1, EMBEDDING_LENGTH]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        # insightface takes the last initializer for its emap.
        [
            numpy_helper.from_array(planes, "crop"),
            numpy_helper.from_array(np.eye(EMBEDDING_LENGTH, dtype=np.float32), "emap"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    save_model(model, str(path))
