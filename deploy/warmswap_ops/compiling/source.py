"""What there is to compile in a repository, and what must stay as it was exported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from warmswap_ensemble.contract import STAGES
from warmswap_ensemble.manifest import MANIFEST_NAME, Manifest, ManifestError, version_dirs
from warmswap_ops.compiling.config_edit import with_compiled_graph
from warmswap_ops.config_text import CONFIG_NAME, read_config
from warmswap_ops.errors import RepositoryError
from warmswap_ops.repository import COMPILED_SUFFIX, read_own_manifest

_STAGE_NAMES: Final = frozenset(spec.name for spec in STAGES)
Config = dict[str, Any]
"""JSON form of a model configuration, as Triton gives it to a backend."""


@dataclass(frozen=True, slots=True)
class SourceModel:
    """A model whose graphs are compiled.

    Attributes:
        name: Its folder.
        folder: The same as a path.
        config: Its ``config.pbtxt``.
        graph: File that the configuration names, relative to a version directory.
        compiled_config_text: The ``config.pbtxt`` that serves the compiled graph.
        compiled_config: The same, parsed.
        versions: Version directories and their manifests.
    """

    name: str
    folder: Path
    config: Config
    graph: str
    compiled_config_text: str
    compiled_config: Config
    versions: tuple[tuple[Path, Manifest], ...]

    @property
    def compiled_graph(self) -> str:
        """File name of the compiled graph in each version directory."""
        return str(self.compiled_config["default_model_filename"])


def read_models(repository: Path) -> tuple[list[SourceModel], dict[str, str]]:
    """Return the models to compile, and for the ONNX models that stay as they are, why.

    Raises:
        RepositoryError: a configuration or a manifest is missing or wrong, or the repository is itself compiled.
    """
    models: list[SourceModel] = []
    kept: dict[str, str] = {}
    for folder in sorted(path for path in repository.iterdir() if (path / CONFIG_NAME).is_file()):
        text = read_config(folder / CONFIG_NAME)
        config = parse_config(folder / CONFIG_NAME, text)
        if config.get("backend") != "onnxruntime" and config.get("platform") != "onnxruntime_onnx":
            continue
        reason = _reason_to_keep(config)
        versions = None if reason else _read_versions(folder)
        if versions is None:
            kept[folder.name] = reason or f"it has a version without {MANIFEST_NAME}"
            continue
        graph = config.get("default_model_filename") or "model.onnx"
        compiled_text = with_compiled_graph(text, f"{Path(graph).stem}{COMPILED_SUFFIX}")
        compiled_config = parse_config(folder / CONFIG_NAME, compiled_text)
        models.append(SourceModel(folder.name, folder, config, graph, compiled_text, compiled_config, versions))
    return models, kept


def parse_config(path: Path, text: str) -> Config:
    """Return the JSON form of a configuration.

    Raises:
        RepositoryError: it cannot be read.
    """
    try:
        message = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise RepositoryError(f"{path} cannot be read: {error}") from error
    values: Config = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return values


def _reason_to_keep(config: Config) -> str | None:
    """Return why a graph must not be compiled for the CPU; ``None`` when it is served by the CPU and nothing else."""
    groups = config.get("instance_group") or [{}]
    kinds = sorted({group.get("kind", "KIND_AUTO") for group in groups})
    if kinds != ["KIND_CPU"]:
        return f"its config.pbtxt has instances of {', '.join(kinds)}, and only those of KIND_CPU are compiled"
    if config.get("optimization", {}).get("execution_accelerators"):
        return "its config.pbtxt has execution_accelerators; only graphs of ONNX Runtime's own CPU kernels are compiled"
    if config.get("cc_model_filenames"):
        return "its config.pbtxt has cc_model_filenames"
    return None


def _read_versions(folder: Path) -> tuple[tuple[Path, Manifest], ...] | None:
    """Return the version directories with their manifests; ``None`` when a model beyond the contract brings none."""
    versions: list[tuple[Path, Manifest]] = []
    for version_dir in version_dirs(folder):
        if folder.name not in _STAGE_NAMES and not (version_dir / MANIFEST_NAME).exists():
            return None
        try:
            manifest = read_own_manifest(folder.name, int(version_dir.name), version_dir)
        except ManifestError as error:
            raise RepositoryError(f"model {folder.name}: {error}") from error
        if manifest.compiled is not None:
            raise RepositoryError(f"{version_dir} was compiled already: give --repository the exported repository")
        versions.append((version_dir, manifest))
    return tuple(versions)
