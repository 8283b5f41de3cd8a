"""Rules on the scripts and manifests that start a server (``warmswap lint --launch FILE...``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from warmswap_ensemble.contract import PIPELINE_STAGES
from warmswap_ops.errors import RepositoryError
from warmswap_ops.finding import Finding
from warmswap_ops.lint import RepositoryOnDisk, Rule
from warmswap_ops.lint_config import read_text

# An option and its value, in a shell line, a JSON or YAML list, or over two items of a YAML list.
_AND_VALUE: Final = r"""["']?(?:\s*=\s*|[\s,\\]+(?:-\s+)?)["']?"""
_LOAD_MODEL: Final = re.compile(rf"--load-model{_AND_VALUE}([\w.*-]+)")
_EXPLICIT: Final = re.compile(rf"--model-control-mode{_AND_VALUE}explicit\b")
_REPOSITORY: Final = re.compile(r"--model-(?:repository|store)\b")
_TRITON: Final = re.compile(r"(?<![\w-])tritonserver(?![\w:@/-])")
_COMMENT: Final = re.compile(r"^[ \t]*#.*$", re.MULTILINE)

FIX: Final = (
    "start it with warmswap serve, or with --model-control-mode=explicit and load the pipeline through the control API "
    "after its stages"
)


def launch_files_can_be_read(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """Every file given with --launch is a text.

    What cannot be read was not looked at.
    """
    for path in repository.launch_files:
        try:
            read_text(path)
        except RepositoryError as error:
            yield Finding(path, str(error), "give a shell script, a YAML file, a Dockerfile or a Procfile")


def pipelines_are_loaded_after_the_start(repository: RepositoryOnDisk) -> Iterator[Finding]:
    """No launch file loads a pipeline while the server starts.

    The warm-up of a model that calls others (BLS) fails with "Server not ready" until the server has started, so with
    --load-model, or without --model-control-mode=explicit, the load always fails (server#4549, #7856).
    """
    pipelines = _warmed_pipelines(repository)
    for path, text in _launch_texts(repository):
        named = [(match, match.group(1)) for match in _LOAD_MODEL.finditer(text)]
        for match, name in named:
            if pipelines and (name == "*" or name in pipelines):
                what = f"--load-model={name} loads {', '.join(pipelines) if name == '*' else name} with its warm-up"
                yield Finding(path, what, FIX, line=_line(text, match))
        start = _TRITON.search(text)
        if start and pipelines and _REPOSITORY.search(text) and not _EXPLICIT.search(text):
            what = f"tritonserver without --model-control-mode=explicit loads {', '.join(pipelines)} with its warm-up"
            yield Finding(path, what, FIX, line=_line(text, start))


RULES: Final[tuple[Rule, ...]] = (launch_files_can_be_read, pipelines_are_loaded_after_the_start)


def _warmed_pipelines(repository: RepositoryOnDisk) -> list[str]:
    """Return the models that call others in their warm-up: those of the contract, and what looks like it."""
    return sorted(
        {
            config.model
            for config in repository.configs
            if config.message.model_warmup
            and (config.model in PIPELINE_STAGES or (config.is_python and _calls_models(config.folder)))
        }
    )


def _calls_models(model: Path) -> bool:
    for path in model.glob("*/model.py"):
        try:
            if "InferenceRequest(" in read_text(path):
                return True
        except RepositoryError:
            continue
    return False


def _launch_texts(repository: RepositoryOnDisk) -> Iterator[tuple[Path, str]]:
    """Yield the files that can be read, with their comments blanked."""
    for path in repository.launch_files:
        try:
            yield path, _COMMENT.sub("", read_text(path))
        except RepositoryError:
            continue


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1
