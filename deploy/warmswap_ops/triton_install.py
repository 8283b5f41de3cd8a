"""Which tritonserver there is on this machine: that of the ``nvidia-pytriton`` wheel, or that of NVIDIA's container.

NVIDIA's container wins when it is there: it is a whole image made for serving, with its own C++ onnxruntime backend.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from warmswap_ops.errors import MachineError

CONTAINER_ROOT: Final = Path("/opt/tritonserver")
WHEEL_TRITON_VERSIONS: Final = {"0.7.0": "2.51.0"}
"""nvidia-pytriton version to the version of the Triton inside (24.10)."""

INSTALL_HINT: Final = "pip install 'warmswap[server]'"
_STUB_NAME: Final = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class TritonInstall:
    """A Triton that can be started.

    Attributes:
        server: The tritonserver program.
        python_backend: Folder of the Python backend.
        backends: Folder of all backends.
        stub: The Python backend's stub for the running Python.
        library_dirs: Folders that the server and the stub need in ``LD_LIBRARY_PATH``.
        version: Triton's version, ``unknown`` when nothing says it.
        from_wheel: Whether it is that of the ``nvidia-pytriton`` wheel (24.10: numpy < 2).
        has_onnxruntime: Whether it brings NVIDIA's onnxruntime backend.
    """

    server: Path
    python_backend: Path
    backends: Path
    stub: Path
    library_dirs: tuple[Path, ...]
    version: str
    from_wheel: bool
    has_onnxruntime: bool


def find_triton(container_root: Path = CONTAINER_ROOT) -> TritonInstall:
    """Find a Triton.

    Raises:
        MachineError: there is none, or none for this Python.
    """
    if (container_root / "bin/tritonserver").is_file():
        return _container_install(container_root)
    return _wheel_install()


def package_version(*names: str) -> str | None:
    """Return the version of the first of these packages that is installed, without importing it."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def server_environment(install: TritonInstall, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that tritonserver and its stubs need.

    The stub embeds the Python that comes first on ``PATH``, and ignores ``PYTHONPATH`` on Python 3.11 and later.
    """
    env = dict(environ)
    libraries = [*map(str, install.library_dirs), *filter(None, env.get("LD_LIBRARY_PATH", "").split(os.pathsep))]
    env["LD_LIBRARY_PATH"] = os.pathsep.join(dict.fromkeys(libraries))
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["PYTHONDONTWRITEBYTECODE"] = "1"  # __pycache__ in a version directory makes the next load() reload it
    env["PYTHONUNBUFFERED"] = "1"
    env.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # After every product of matrices, OpenBLAS threads of NumPy wait busily: 38 ms of CPU per swap, measured.
    env.setdefault("OPENBLAS_NUM_THREADS", "1")
    return env


def _container_install(root: Path) -> TritonInstall:
    backends = root / "backends"
    stub = backends / "python" / _STUB_NAME
    if not stub.is_file():
        raise MachineError(f"{root} has no Python backend ({stub}): use an image built with --backend=python")
    version_file = root / "TRITON_VERSION"
    triton_version = version_file.read_text(encoding="utf-8").strip() if version_file.is_file() else "unknown"
    return TritonInstall(
        server=root / "bin/tritonserver",
        python_backend=backends / "python",
        backends=backends,
        stub=stub,
        library_dirs=(),
        version=triton_version,
        from_wheel=False,
        has_onnxruntime=(backends / "onnxruntime").is_dir(),
    )


def _wheel_install() -> TritonInstall:
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise MachineError(f"no Triton on this machine: {INSTALL_HINT}, or use NVIDIA's tritonserver image")
    package = Path(spec.submodule_search_locations[0])
    root = package / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = root / "python_backend_stubs" / python / _STUB_NAME
    if sys.version_info >= (3, 13) or not stub.is_file():
        raise MachineError(
            f"Python {python} cannot run Triton's Python backend here (no stub for it, or no numpy < 2): "
            "use Python 3.11 or 3.12"
        )
    wheel_version = package_version("nvidia-pytriton") or "unknown"
    return TritonInstall(
        server=root / "bin/tritonserver",
        python_backend=root / "backends/python",
        backends=root / "backends",
        stub=stub,
        library_dirs=(package.parent / "nvidia_pytriton.libs", *_libpython_dirs()),
        version=WHEEL_TRITON_VERSIONS.get(wheel_version, f"in nvidia-pytriton {wheel_version}"),
        from_wheel=True,
        has_onnxruntime=False,
    )


def _libpython_dirs() -> tuple[Path, ...]:
    """Return where this Python keeps its own libpython: pythons of pyenv, uv and conda are not in the system's path."""
    library = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    candidates = (Path(str(sysconfig.get_config_var("LIBDIR"))), Path(sys.base_prefix) / "lib")
    return next(((folder,) for folder in candidates if (folder / library).is_file()), ())
