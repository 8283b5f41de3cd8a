"""Checks before the start: what would otherwise be a hang or a riddle becomes one line with the fix.

A stub that misses a shared library makes Triton's load wait for ever, so this runs at every start and must be fast:
package versions are read from metadata, nothing heavy is imported, ``ldd`` runs while the rest is looked at.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from warmswap_ops.errors import MachineError
from warmswap_ops.triton_install import INSTALL_HINT, TritonInstall, package_version

ONNXRUNTIME_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu")
LDD_TIMEOUT_S: Final = 20.0
LD_CACHE: Final = Path("/etc/ld.so.cache")

_DEBIAN_PACKAGES: Final = {
    "libexpat.so.1": "libexpat1",
    "libgcc_s.so.1": "libgcc-s1",
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libz.so.1": "zlib1g",
    "libGL.so.1": "libgl1",
    "libgthread-2.0.so.0": "libglib2.0-0",
}
_LIBPYTHON: Final = re.compile(r"(libpython3\.\d+)\.so")
_NOT_FOUND: Final = re.compile(r"(\S+) => not found")
_OLD_GLIBC: Final = re.compile(r"version `GLIBC_([\d.]+)' not found")
_OPENCV_WITH_WINDOWS: Final = ("opencv-python", "opencv-contrib-python")
_OPENCV_HEADLESS: Final = ("opencv-python-headless", "opencv-contrib-python-headless")


def check_machine(install: TritonInstall, env: Mapping[str, str]) -> None:
    """Refuse a machine on which a load would fail or hang.

    Args:
        install: The Triton to be started.
        env: The environment that it will get.

    Raises:
        MachineError: something is missing; the text names it and the fix.
    """
    finish_ldd = _start_ldd(install.stub, env)
    try:
        if install.from_wheel:
            _check_numpy()
        if not install.has_onnxruntime and find_spec("onnxruntime") is None:
            raise MachineError(f"onnxruntime is not installed: {INSTALL_HINT}")
        _check_opencv(env)
    finally:
        ldd_output = finish_ldd()
    check_ldd_output(ldd_output, install.stub)


def onnxruntime_version(install: TritonInstall) -> str:
    """Return the version of the onnxruntime that will serve, as far as it can be told from outside."""
    if install.has_onnxruntime:
        return "nvidia"
    return package_version(*ONNXRUNTIME_PACKAGES) or "unknown"


def check_ldd_output(output: str, program: Path) -> None:
    """Refuse a program whose libraries are missing.

    Raises:
        MachineError: ``ldd`` reports a missing library, or a C library that is too old.
    """
    old_glibc = _OLD_GLIBC.search(output)
    if old_glibc:
        raise MachineError(
            f"the C library is too old for Triton's Python backend (needs glibc {old_glibc[1]}): "
            "use Debian 12, Ubuntu 22.04 or newer"
        )
    missing = sorted(set(_NOT_FOUND.findall(output)))
    if missing:
        fixes = " ".join(dict.fromkeys(map(_debian_package, missing)))
        raise MachineError(f"{program.name} needs {', '.join(missing)}: apt-get install {fixes}")


def _debian_package(library: str) -> str:
    python = _LIBPYTHON.match(library)
    return python[1] if python else _DEBIAN_PACKAGES.get(library, f"<the package of {library}>")


def _start_ldd(program: Path, env: Mapping[str, str]) -> Callable[[], str]:
    """Start ``ldd``; the returned function waits for its output, which is empty where there is no ``ldd``."""
    ldd = shutil.which("ldd", path=os.environ.get("PATH"))
    if ldd is None:
        return lambda: ""
    process = subprocess.Popen(
        [ldd, str(program)], env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )

    def finish() -> str:
        try:
            output, _ = process.communicate(timeout=LDD_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        return output.decode(errors="replace")

    return finish


def _check_numpy() -> None:
    numpy_version = package_version("numpy")
    if numpy_version is None:
        raise MachineError(f"numpy is not installed: {INSTALL_HINT}")
    if int(numpy_version.split(".")[0]) >= 2:
        raise MachineError(f"numpy {numpy_version} crashes the stub of Triton 24.10: pip install 'numpy<2'")


def _check_opencv(env: Mapping[str, str]) -> None:
    if find_spec("cv2") is None:
        raise MachineError(f"opencv is not installed: {INSTALL_HINT}")
    if package_version(*_OPENCV_HEADLESS) or not package_version(*_OPENCV_WITH_WINDOWS):
        return
    missing = [name for name in ("libGL.so.1", "libgthread-2.0.so.0") if not _is_library_known(name, env)]
    if missing:
        packages = " ".join(map(_debian_package, missing))
        raise MachineError(
            f"opencv-python needs {', '.join(missing)}: apt-get install {packages} "
            "(or pip install opencv-python-headless instead)"
        )


def _is_library_known(name: str, env: Mapping[str, str]) -> bool:
    """Whether the loader finds a library: by its cache (no cache: benefit of the doubt), or by ``LD_LIBRARY_PATH``."""
    folders = filter(None, env.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    if any((Path(folder) / name).is_file() for folder in folders):
        return True
    try:
        return f"{name}\0".encode() in LD_CACHE.read_bytes()
    except OSError:
        return True
