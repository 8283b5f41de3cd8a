"""Reads the committed model repository."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

ROOT: Final = Path(__file__).resolve().parents[2]
REPOSITORY: Final = ROOT / "model_repository"
CONFIGS: Final = sorted(REPOSITORY.glob("*/config.pbtxt")) + sorted(REPOSITORY.glob("*/configs/*.pbtxt"))
"""Every configuration, the alternatives for other machines (``configs/gpu.pbtxt``) too."""


def model_of(config: Path) -> str:
    return config.relative_to(REPOSITORY).parts[0]


def parse(config: Path) -> Any:
    """Read a configuration as Triton reads it: an unknown field is an error."""
    return text_format.Parse(config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def name_of(enum: str, value: int) -> str:
    """The name of a value, for example ``KIND_CPU`` of ``ModelInstanceGroup.Kind``."""
    message, _, field = enum.rpartition(".")
    scope = getattr(model_config_pb2, message) if message else model_config_pb2
    return str(getattr(scope, field).Name(value))


def tracked_files() -> list[Path]:
    """What git knows of the repository, or would know of it after ``git add``; ignored files are left out."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "model_repository"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file()]
