from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor

import onnxruntime
import pytest

from tests.ensemble.support import REPOSITORY
from warmswap_ensemble.contract import FACE_SWAP
from warmswap_ensemble.stage_calls import Arrays, CallModel
from warmswap_ensemble.stage_versions import resolve_stages
from warmswap_ensemble.types import Stage


@pytest.fixture(scope="session")
def stages() -> Mapping[str, Stage]:
    """The committed models."""
    return resolve_stages(FACE_SWAP.name, REPOSITORY, {})


@pytest.fixture(scope="session")
def call_onnx(stages: Mapping[str, Stage]) -> CallModel:
    """Run the committed models in this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    sessions = {
        name: onnxruntime.InferenceSession(
            REPOSITORY / name / str(stage.version) / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        for name, stage in stages.items()
    }

    def call(stage: Stage, inputs: Arrays, output_names: Sequence[str], /) -> Arrays:
        values = sessions[stage.model].run(list(output_names), dict(inputs))
        return dict(zip(output_names, values, strict=True))

    return call


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield pool
