"""What the launcher must know of a ``config.pbtxt`` before Triton reads it.

Reads the text itself: protobuf's parser would cost more time than the server's start leaves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from warmswap_ops.errors import RepositoryError

CONFIG_NAME: Final = "config.pbtxt"

TOKEN: Final = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|#[^\n]*|[{}<>\[\]:,;]|[^\s{}<>\[\]:,;#"\']+')
"""A string, a comment, a bracket, a separator or a word; messages may stand in <> as well as in {}."""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions of a model Triton serves.

    Attributes:
        latest: This many of the highest versions; 0 = no such rule.
        specific: These versions; empty = no such rule. With neither rule: all.
    """

    latest: int = 1
    specific: tuple[int, ...] = ()

    def choose(self, versions: Sequence[int]) -> list[int]:
        """Return the versions that are served, of those that are there."""
        if self.specific:
            return [version for version in versions if version in self.specific]
        return sorted(versions)[-self.latest :]


def config_path(model_dir: Path, config_name: str | None) -> Path:
    """Return the configuration that Triton reads: ``configs/<config_name>.pbtxt`` where there is one."""
    named = model_dir / "configs" / f"{config_name}.pbtxt"
    return named if config_name and named.is_file() else model_dir / CONFIG_NAME


def read_config(path: Path) -> str:
    """Return the text of a configuration.

    Raises:
        RepositoryError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{path} cannot be read: {error}") from error


def parse_version_policy(config: str) -> VersionPolicy:
    """Return the ``version_policy`` of a configuration; Triton's default is the latest one."""
    for block in _blocks(config, "version_policy"):
        numbers = tuple(int(token) for token in block if token.isdecimal())
        if "all" in block:
            return VersionPolicy(latest=0)
        if "specific" in block:
            return VersionPolicy(latest=0, specific=numbers)
        return VersionPolicy(latest=max(numbers, default=1))
    return VersionPolicy()


def parse_parameters(config: str) -> dict[str, str]:
    """Return the ``parameters`` of a configuration, by key."""
    parameters: dict[str, str] = {}
    for block in _blocks(config, "parameters"):
        for entry in _entries(block):
            following = dict(pairwise(entry))
            if "key" in following:
                parameters[following["key"][1:-1]] = following.get("string_value", '""')[1:-1]
    return parameters


def parse_default_filename(config: str) -> str:
    """Return the ``default_model_filename`` of a configuration, empty where it has none."""
    return next((block[0][1:-1] for block in _blocks(config, "default_model_filename")), "")


def parse_instance_count(config: str) -> int:
    """Return how many instances of a model there will be; Triton's default is taken for one."""
    counts = [
        int(dict(pairwise(entry)).get("count", "1"))
        for block in _blocks(config, "instance_group")
        for entry in _entries(block)
    ]
    return sum(counts) or 1


def _blocks(config: str, field: str) -> Iterator[list[str]]:
    """Yield what stands in the braces or brackets behind each ``field`` of the outermost level."""
    tokens = [token for token in TOKEN.findall(config) if token[0] not in "#:,;"]
    depth = 0
    for index, token in enumerate(tokens):
        if depth == 0 and token == field:
            yield _block(tokens[index + 1 :])
        depth += (token in "{<[") - (token in "}>]")


def _entries(block: Sequence[str]) -> Iterator[list[str]]:
    """Yield the messages of a repeated field: one in braces, or any number in brackets."""
    index = 0
    while index < len(block):
        entry = _block(block[index:]) if block[index] in "{<" else []
        if entry:
            yield entry
        index += len(entry) or 1


def _block(tokens: Sequence[str]) -> list[str]:
    """Return the tokens from an opening brace or bracket to the one that closes it."""
    depth = 0
    block: list[str] = []
    for token in tokens:
        depth += (token in "{<[") - (token in "}>]")
        block.append(token)
        if depth == 0:
            break
    return block
