"""A real Triton with toy models, for the tests of the transports.

The server comes out of the ``nvidia-pytriton`` wheel. ``face_swap`` echoes its inputs and obeys orders in the option
``face_selector``: ``raise:<TritonError name>:<text>`` and ``sleep:<seconds>``. ``face_analysis`` finds two faces.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 15

FACE_SWAP_CONFIG = """
name: "face_swap"
backend: "python"
max_batch_size: 0
input [
  { name: "source_image" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "target_image" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "reference_image" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [
  { name: "image" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "report" data_type: TYPE_STRING dims: [ 1 ] }
]
instance_group [ { count: 2 kind: KIND_CPU } ]
"""

FACE_SWAP_MODEL = """
import json
import time
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        parameters = json.loads(request.parameters())
        verb, _, rest = str(parameters.get("face_selector", "")).partition(":")
        if verb == "raise":
            name, _, text = rest.partition(":")
            error = pb_utils.TritonError(text, getattr(pb_utils.TritonError, name))
            return pb_utils.InferenceResponse(error=error)
        if verb == "sleep":
            time.sleep(float(rest))
        names = ("source_image", "target_image", "reference_image")
        tensors = [pb_utils.get_input_tensor_by_name(request, name) for name in names]
        image = b"|".join(tensor.as_numpy()[0] for tensor in tensors if tensor is not None)
        report = {
            "faces": [{"bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.9, "swapped": True,
                       "similarity_before": 0.1, "similarity_after": 0.8}],
            "timings_ms": {"swap": 12.5},
            "models": {"face_swapper": "1"},
            "source": {"bbox": [5.0, 6.0, 7.0, 8.0], "score": 0.8, "cached": False},
            "image": {"format": "jpeg", "width": 4, "height": 3},
            "parameters": parameters,
            "request_id": request.request_id(),
        }
        return pb_utils.InferenceResponse(output_tensors=[
            pb_utils.Tensor("image", np.array([image], dtype=np.object_)),
            pb_utils.Tensor("report", np.array([json.dumps(report).encode()], dtype=np.object_)),
        ])
"""

FACE_ANALYSIS_CONFIG = """
name: "face_analysis"
backend: "python"
max_batch_size: 0
input [ { name: "image" data_type: TYPE_STRING dims: [ 1 ] } ]
output [
  { name: "bbox" data_type: TYPE_FP32 dims: [ -1, 4 ] },
  { name: "score" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "kps" data_type: TYPE_FP32 dims: [ -1, 5, 2 ] },
  { name: "embedding" data_type: TYPE_FP32 dims: [ -1, -1 ] }
]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""

FACE_ANALYSIS_MODEL = """
import json
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        count = int(json.loads(request.parameters()).get("max_faces", 2))
        shapes = {"bbox": (count, 4), "score": (count,), "kps": (count, 5, 2), "embedding": (count, 3)}
        return pb_utils.InferenceResponse(output_tensors=[
            pb_utils.Tensor(name, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
            for name, shape in shapes.items()
        ])
"""

MODELS = {
    "face_swap": (FACE_SWAP_CONFIG, FACE_SWAP_MODEL),
    "face_analysis": (FACE_ANALYSIS_CONFIG, FACE_ANALYSIS_MODEL),
}


def find_free_port() -> int:
    """Let the system choose a loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class ToyTriton:
    """A running server; ``stop`` must be called.

    Attributes:
        process: The server; it leads a process group of its own, with the stubs of the Python backend.
        grpc_url: Where it speaks gRPC.
        http_url: Where it speaks HTTP.
        shm_prefix: How the names of its files in ``/dev/shm`` begin.
    """

    process: subprocess.Popen[bytes]
    grpc_url: str
    http_url: str
    shm_prefix: str

    def kill(self) -> None:
        """End the server and its stubs at once, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_TIMEOUT_S)

    def stop(self) -> None:
        """End the server, whatever its state, and remove what it leaves behind."""
        self.kill()
        for path in Path("/dev/shm").glob(f"{self.shm_prefix}*"):
            path.unlink(missing_ok=True)


def start_toy_triton(folder: Path) -> ToyTriton:
    """Start the server on free loopback ports and wait until its ports are open.

    Args:
        folder: An empty folder for the repository, the backend and the log.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("nvidia-pytriton is not installed")
    triton = Path(spec.origin).parent / "tritonserver"
    backend = folder / "backends" / "python"
    shutil.copytree(triton / "backends" / "python", backend)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(triton / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
    for name, (config, model) in MODELS.items():
        version_folder = folder / "models" / name / "1"
        version_folder.mkdir(parents=True)
        (version_folder.parent / "config.pbtxt").write_text(config)
        (version_folder / "model.py").write_text(model)
    (folder / "cwd").mkdir()

    grpc_port, http_port = find_free_port(), find_free_port()
    shm_prefix = f"warmswap_{uuid.uuid4().hex[:8]}_"
    command = [
        str(triton / "bin" / "tritonserver"),
        "--id=warmswap/0.1.0 onnxruntime/1.32.0",
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--exit-timeout-secs=1",
        "--allow-metrics=false",
        *(f"--{kind}-address=127.0.0.1" for kind in ("grpc", "http")),
        f"--grpc-port={grpc_port}",
        f"--http-port={http_port}",
    ]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(triton.parent.parent / "nvidia_pytriton.libs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with (folder / "triton.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder / "cwd", env=environment, stdout=log, stderr=log, start_new_session=True
        )
    server = ToyTriton(process, f"grpc://127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}", shm_prefix)
    try:
        _wait_for_ports(process, (grpc_port, http_port))
    except BaseException as error:
        server.stop()
        error.add_note((folder / "triton.log").read_text(errors="replace")[-4000:])
        raise
    return server


def _wait_for_ports(process: subprocess.Popen[bytes], ports: tuple[int, ...]) -> None:
    """Triton opens its ports only when the models are loaded."""
    end = time.monotonic() + START_TIMEOUT_S
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise
            time.sleep(0.05)
