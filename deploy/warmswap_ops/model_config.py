"""A model's configuration in the JSON form that a load takes to override ``config.pbtxt``.

Parsed with protobuf, whose text format and descriptors take a while to import: for settings that are rarely given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from warmswap_ops.errors import RepositoryError

REFUSED: Final = "refused"
"""Parameter of a pipeline of this project: it refuses to load, and gives this as the reason."""


def read_model_config(path: Path) -> dict[str, Any]:
    """Return a configuration file as JSON values.

    Raises:
        RepositoryError: it cannot be read.
    """
    try:
        message = text_format.Parse(path.read_text(encoding="utf-8"), ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise RepositoryError(f"{path}: {error}") from error
    config: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return config


def with_warmup_requests(config: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the configuration of a model with every warm-up sample sent ``count`` times to each instance."""
    return {**config, "model_warmup": [{**sample, "count": count} for sample in config.get("model_warmup", [])]}


def with_versions(config: dict[str, Any], versions: Sequence[int]) -> dict[str, Any]:
    """Return the configuration of a model that serves exactly these versions."""
    return {**config, "version_policy": {"specific": {"versions": list(versions)}}}


def with_release(config: dict[str, Any], release: str) -> dict[str, Any]:
    """Return the configuration of a model whose metrics carry the label ``_release``."""
    return {**config, "metric_tags": {**config.get("metric_tags", {}), "release": release}}


def knows_refusal(model_dir: Path) -> bool:
    """Whether the pipeline in a folder is one that heeds ``refused``: one of this project."""
    files = [path for path in model_dir.glob("[0-9]*/model.py") if path.is_file()]
    return bool(files) and all("warmswap_ensemble" in path.read_text(encoding="utf-8") for path in files)


def with_refusal(config: dict[str, Any], reason: str) -> dict[str, Any]:
    """Return the configuration of a pipeline that refuses to load with ``reason``."""
    return {**config, "parameters": {**config.get("parameters", {}), REFUSED: {"string_value": reason}}}
