"""A model repository made of links, whose configurations may differ from those of the original. No model is copied."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from warmswap_loadtests.errors import BenchError
from warmswap_ops.config_text import CONFIG_NAME

CPU_CONFIG: Final = "cpu"
"""``config_name`` under which no model has a configuration: the CPU's is served even where there is a GPU."""

ALL_VERSIONS: Final = "all { }"

_TRITON_TYPES: Final = {"tensor(float)": "TYPE_FP32", "tensor(float16)": "TYPE_FP16", "tensor(uint8)": "TYPE_UINT8"}
_SKIPPED: Final = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#[^\n]*')


@dataclass(frozen=True, slots=True)
class GraphTensor:
    """A tensor of a graph, as ONNX Runtime names it: type such as ``tensor(float)``, sizes or names of sizes."""

    name: str
    type: str
    shape: Sequence[int | str | None]


def link_model(source: Path, folder: Path, version_policy: str | None = None, *, warmup: bool = True) -> None:
    """Link one model into another repository.

    Args:
        source: The model in its repository.
        folder: The repository to link it into.
        version_policy: What stands in the braces of ``version_policy``; ``None`` = as it is.
        warmup: Whether it keeps its ``model_warmup``.

    Raises:
        BenchError: the model cannot be read.
    """
    target = folder / source.name
    target.mkdir(parents=True)
    try:
        config = (source / CONFIG_NAME).read_text(encoding="utf-8")
        for entry in source.iterdir():
            if entry.name not in (CONFIG_NAME, "configs"):
                (target / entry.name).symlink_to(entry.resolve())
    except OSError as error:
        raise BenchError(f"{source} is no model of a repository: {error}") from error
    if version_policy is not None:
        config = with_version_policy(config, version_policy)
    if not warmup:
        config = without_field(config, "model_warmup")
    (target / CONFIG_NAME).write_text(config, encoding="utf-8")


def only_version(version: int) -> str:
    """Return the version policy that serves one version."""
    return f"specific {{ versions: [ {version} ] }}"


def with_version_policy(config: str, version_policy: str) -> str:
    """Return a configuration with another version policy; the rest stays as it was."""
    return f"{without_field(config, 'version_policy').rstrip()}\nversion_policy: {{ {version_policy} }}\n"


def without_field(config: str, field: str) -> str:
    """Return a configuration without a field whose value is in braces or brackets; the rest stays as it was."""
    while True:
        visible = _SKIPPED.sub(lambda match: " " * len(match[0]), config)  # those in strings and comments do not count
        start = re.search(rf"(?m)^[ \t]*{field}\s*:?\s*[{{\[]", visible)
        if start is None:
            return config
        depth, end = 1, start.end()
        while depth and end < len(visible):
            depth += (visible[end] in "{[") - (visible[end] in "}]")
            end += 1
        config = config[: start.start()] + config[end:]


def plain_config(
    name: str, inputs: Iterable[GraphTensor], outputs: Iterable[GraphTensor], parameters: Mapping[str, str]
) -> str:
    """Return the configuration that serves an ONNX file as it is: no batch dimension, one instance on the CPU.

    Raises:
        BenchError: a tensor has a type that is not served here.
    """
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', "max_batch_size: 0"]
    for side, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            if tensor.type not in _TRITON_TYPES:
                raise BenchError(f"{side} {tensor.name} is {tensor.type}, expected one of {', '.join(_TRITON_TYPES)}")
            dims = ", ".join(str(size) if isinstance(size, int) else "-1" for size in tensor.shape)
            lines.append(
                f'{side} [ {{ name: "{tensor.name}" data_type: {_TRITON_TYPES[tensor.type]} dims: [ {dims} ] }} ]'
            )
    lines.append("instance_group [ { count: 1 kind: KIND_CPU } ]")
    for key, value in parameters.items():
        lines.append(f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}')
    return "\n".join(lines) + "\n"
