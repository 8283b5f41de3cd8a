"""Is what will be served compiled, and compiled for this machine? Asked before the server starts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from warmswap_ops.compiling.target import Target, read_target, this_machine
from warmswap_ops.errors import CompileError
from warmswap_ops.preflight import onnxruntime_version
from warmswap_ops.repository import ServedVersion
from warmswap_ops.triton_install import TritonInstall

REMEDY: Final = "run warmswap compile --repository EXPORTED --out DIR on this machine, or serve the exported repository"


def check_compiled(served: Sequence[ServedVersion], install: TritonInstall) -> None:
    """Refuse compiled graphs of another machine.

    Args:
        served: What will be served.
        install: The Triton that will serve it.

    Raises:
        CompileError: names the version, what differs, and what to do.
    """
    here: Target | None = None
    for version in served:
        if not version.is_compiled:
            continue
        name = f"{version.model} {version.version}"
        compiled = version.manifest.compiled if version.manifest else None
        if compiled is None:
            raise CompileError(f"{name} is not compiled, but its config.pbtxt serves {version.graph}: {REMEDY}")
        here = here or this_machine(onnxruntime_version(install))
        differences = read_target(compiled.get("target") or {}).differences(here)
        if differences:
            raise CompileError(f"{name} was compiled for another machine ({'; '.join(differences)}): {REMEDY}")
