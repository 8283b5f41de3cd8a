"""The machine that a graph is compiled for, as far as the compiled graph depends on it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from warmswap_ops.errors import MachineError
from warmswap_ops.onnxruntime_backend.accelerators import CPU_PROVIDER
from warmswap_ops.preflight import ONNXRUNTIME_PACKAGES
from warmswap_ops.triton_install import INSTALL_HINT, package_version

CPU_INFO: Final = Path("/proc/cpuinfo")
_FLAGS: Final = re.compile(r"^(?:flags|Features)\s*:(.*)$", re.MULTILINE)
_FEATURE: Final = re.compile(r"(?:avx|amx|sse4|sve|asimd)\w*|sme\d*|fma|f16c|bf16|i8mm|fphp")
"""Instruction sets between which ONNX Runtime's kernels (MLAS) choose, on x86 and ARM; newer ones are named alike."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a compiled graph was made for; on anything else it may be slow or wrong.

    Attributes:
        architecture: ``x86_64``, ``aarch64``.
        cpu_features: Instruction sets, sorted.
        onnxruntime: Version of ONNX Runtime.
        provider: Execution provider.
    """

    architecture: str
    cpu_features: tuple[str, ...]
    onnxruntime: str
    provider: str = CPU_PROVIDER

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self) | {"cpu_features": list(self.cpu_features)}

    def differences(self, here: Target) -> list[str]:
        """Return in what ``here`` is another target than this one, in words; empty when it is the same."""
        found = [
            f"{name} {ours}, here {theirs}"
            for name, ours, theirs in (
                ("architecture", self.architecture, here.architecture),
                ("ONNX Runtime", self.onnxruntime, here.onnxruntime),
                ("provider", self.provider, here.provider),
            )
            if ours != theirs
        ]
        lacking = sorted(set(self.cpu_features) - set(here.cpu_features))
        added = sorted(set(here.cpu_features) - set(self.cpu_features))
        if self.architecture == here.architecture and (lacking or added):
            parts = [f"without {' '.join(lacking)}"] * bool(lacking) + [f"with {' '.join(added)}"] * bool(added)
            found.append(f"CPU features, here {' and '.join(parts)}")
        return found


def read_target(values: Mapping[str, Any]) -> Target:
    """Return the target in a record; fields that are missing are empty, which fits no machine."""
    features = values.get("cpu_features")
    return Target(
        str(values.get("architecture", "")),
        tuple(map(str, features)) if isinstance(features, list) else (),
        str(values.get("onnxruntime", "")),
        str(values.get("provider", "")),
    )


def this_machine(onnxruntime: str | None = None) -> Target:
    """Return the target that this machine is.

    Args:
        onnxruntime: Version that will serve; ``None`` = the package that is installed.

    Raises:
        MachineError: onnxruntime is not installed.
    """
    version = onnxruntime or package_version(*ONNXRUNTIME_PACKAGES)
    if version is None:
        raise MachineError(f"onnxruntime is not installed: {INSTALL_HINT}")
    return Target(os.uname().machine, cpu_features(CPU_INFO), version)


def cpu_features(cpu_info: Path) -> tuple[str, ...]:
    """Return the instruction sets that matter, from ``/proc/cpuinfo``; empty where there is none."""
    try:
        flags = _FLAGS.search(cpu_info.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ()
    return tuple(sorted(flag for flag in (flags[1].split() if flags else ()) if _FEATURE.fullmatch(flag)))
