"""Rules on the folders of a repository."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from warmswap_ensemble.manifest import version_dirs
from warmswap_ops.config_text import CONFIG_NAME
from warmswap_ops.finding import Finding
from warmswap_ops.lint import RepositoryOnDisk, Rule
from warmswap_ops.lint_config import ConfigOnDisk
from warmswap_ops.onnxruntime_keys import DEFAULT_MODEL_FILENAME

PROTOBUF_LIMIT_BYTES: Final = 2**31 - 1
_CACHE: Final = "__pycache__"


def every_folder_is_a_model(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every folder in the repository has a config.pbtxt.

    Triton takes each for a model, whatever its name: with `--load-model=*` or without model control a folder of
    scripts, or an empty .git, fails the start (measured on 24.10).
    """
    for model in repository.models:
        if not (model / CONFIG_NAME).exists():
            yield Finding(model, f"a folder without {CONFIG_NAME}", "move it out of the repository, or write one")


def models_have_a_version(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every model has a version directory.

    A load without one fails, and keeps /v2/health/ready false until the process ends (measured on 24.10; core
    model_lifecycle.cc:444).
    """
    for model in repository.models:
        if (model / CONFIG_NAME).exists() and not version_dirs(model):
            yield Finding(model, "no version directory", f"add {model.name}/1 with the model's files")


def versions_are_plain_numbers(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """No folder in a model looks like a version without being one.

    Triton ignores 01 and 1.bak without a word, but every copy and download of the repository takes them along. It
    serves 0, although its documentation says that it does not (both measured on 24.10); warmswap counts from 1.
    """
    for model in repository.models:
        for folder in sorted(path for path in model.iterdir() if path.is_dir()):
            if folder.name[0].isdecimal() and not (folder.name.isdecimal() and folder.name[0] != "0"):
                yield Finding(
                    folder, "ignored: not the number of a version", "rename it to a number from 1, or remove it"
                )


def versions_hold_their_model(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every version directory holds the file that its configuration names.

    Only the load finds out; a version that is written while Triton looks is loaded without its file.
    """
    for config in repository.configs:
        names = _model_files(config)
        for version in version_dirs(config.folder):
            missing = [name for name in names if not (version / name).exists()]
            if missing:
                yield Finding(version, f"no {', no '.join(missing)}, which {config.path.name} names", "add the file")


def graphs_fit_into_protobuf(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """No graph is larger than protobuf's two gigabytes.

    ONNX Runtime cannot read a larger file; the weights belong into external data beside the graph.
    """
    for config in repository.configs:
        for version in version_dirs(config.folder) if config.is_onnxruntime else ():
            for path in (version / name for name in _model_files(config)):
                if path.is_file() and path.stat().st_size > PROTOBUF_LIMIT_BYTES:
                    yield Finding(path, f"{path.stat().st_size} bytes", "export it with external data")


def bytecode_is_not_in_versions(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """No version directory holds `__pycache__`.

    Triton compares modification times: bytecode that appears in a version directory makes the next load, of whatever
    version, start this one again. Triton's Python stub writes it at the first start, PYTHONDONTWRITEBYTECODE or not, so
    a repository that was served has it (both measured on 24.10).
    """
    for model in repository.models:
        for version in version_dirs(model):
            for cache in sorted(path for path in version.rglob(_CACHE) if path.is_dir()):
                yield Finding(
                    cache,
                    "Python bytecode in a version directory",
                    "remove it, and serve from a read-only mount; never ship or commit it",
                    severity="warning",
                )


RULES: Final[tuple[Rule, ...]] = (
    every_folder_is_a_model,
    models_have_a_version,
    versions_are_plain_numbers,
    versions_hold_their_model,
    graphs_fit_into_protobuf,
    bytecode_is_not_in_versions,
)


def _model_files(config: ConfigOnDisk) -> list[str]:
    """Return what a version directory must hold, where the backend is one that is known."""
    default = DEFAULT_MODEL_FILENAME if config.is_onnxruntime else "model.py" if config.is_python else ""
    name = config.message.default_model_filename or default
    files = {name, *config.message.cc_model_filenames.values()} - {""}
    return sorted(files) if default else []
