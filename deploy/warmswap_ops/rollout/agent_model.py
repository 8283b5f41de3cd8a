"""The agent as a Triton Python model. Triton's classes may be used only inside functions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np
import triton_python_backend_utils as pb_utils

from warmswap_ops.errors import OpsError
from warmswap_ops.rollout.agent import Agent


class AgentModel:
    """``warmswap_rollout``: a call and perhaps bytes in, an answer out."""

    def initialize(self, args: pb_utils.InitializeArgs) -> None:
        """Find out what is served.

        Raises:
            TritonModelException: the server was not started by ``warmswap serve``; the load fails.
        """
        try:
            self._agent = Agent(os.environ, os.getppid())
        except OpsError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each call."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """End what runs."""
        self._agent.close()

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        try:
            call = pb_utils.get_input_tensor_by_name(request, "call")
            data = pb_utils.get_input_tensor_by_name(request, "data")
            question = json.loads(bytes(call.as_numpy().reshape(-1)[0])) if call is not None else {}
            answer = self._agent.call(question, b"" if data is None else bytes(data.as_numpy().reshape(-1)[0]))
        except Exception as error:  # of one call; the next is another
            answer = {"error": "failed", "message": f"the rollout agent failed: {type(error).__name__}: {error}"}
        text = np.array([json.dumps(answer).encode()], dtype=np.object_)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("answer", text)])
