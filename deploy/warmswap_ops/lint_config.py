"""A ``config.pbtxt`` as ``warmswap lint`` sees it: protobuf's message, and the line on which each field stands.

protobuf reads the text as strictly as Triton does but forgets the lines, so a second look at the tokens finds them.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from warmswap_ops.config_text import TOKEN
from warmswap_ops.errors import RepositoryError
from warmswap_ops.finding import Finding, Severity

MAX_TEXT_BYTES: Final = 1 << 20
"""No text that a human wrote for Triton is longer; a longer one is not read."""
_MAX_QUOTED: Final = 200

Segment = str | tuple[str, int | str]
"""A field: its name, or name and index, or the name of a map and a key in it."""
FieldPath = tuple[tuple[str, int | str], ...]

KIND: Final = model_config_pb2.ModelInstanceGroup.Kind
DATA_TYPE: Final = model_config_pb2.DataType


@dataclass(frozen=True, slots=True)
class ConfigOnDisk:
    """One configuration of a model.

    Attributes:
        path: The file.
        model: Name of the model's folder.
        message: ``inference.ModelConfig``; empty with a problem.
        lines: Where each field stands, from 1.
        problem: Why it cannot be used.
        problem_line: Where.
    """

    path: Path
    model: str
    message: Any = field(default_factory=model_config_pb2.ModelConfig)
    lines: Mapping[FieldPath, int] = field(default_factory=dict)
    problem: str | None = None
    problem_line: int | None = None

    @property
    def folder(self) -> Path:
        """The model's folder."""
        return self.path.parent.parent if self.path.parent.name == "configs" else self.path.parent

    @property
    def is_onnxruntime(self) -> bool:
        """Whether ONNX Runtime runs it."""
        return bool(self.message.backend == "onnxruntime" or self.message.platform == "onnxruntime_onnx")

    @property
    def is_python(self) -> bool:
        """Whether it is a ``model.py``."""
        return bool(self.message.backend == "python")

    @property
    def is_ensemble(self) -> bool:
        """Whether it is a graph of other models, without instances of its own."""
        return bool(self.message.platform == "ensemble" or self.message.HasField("ensemble_scheduling"))

    @property
    def gpu_accelerators(self) -> list[Any]:
        """The execution accelerators of its GPU instances."""
        return list(self.message.optimization.execution_accelerators.gpu_execution_accelerator)

    @property
    def on_gpu(self) -> bool:
        """Whether it asks for a GPU by name."""
        groups = self.message.instance_group
        return bool(self.gpu_accelerators) or any(group.kind == KIND.Value("KIND_GPU") for group in groups)

    @property
    def parameters(self) -> dict[str, str]:
        """The values of ``parameters``."""
        return {key: value.string_value for key, value in self.message.parameters.items()}

    def line(self, *segments: Segment) -> int | None:
        """Return the line of a field, or of the innermost block around it that is there."""
        path = tuple((segment, 0) if isinstance(segment, str) else segment for segment in segments)
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None

    def finding(self, what: str, fix: str, *at: Segment, severity: Severity = "error") -> Finding:
        """Return a finding at a field."""
        return Finding(self.path, what, fix, line=self.line(*at), severity=severity)


def read_config_on_disk(path: Path, model: str) -> ConfigOnDisk:
    """Read a configuration; what cannot be read is kept as a problem."""
    try:
        text = read_text(path)
        message = text_format.Parse(text, model_config_pb2.ModelConfig())
    except RepositoryError as error:
        return ConfigOnDisk(path, model, problem=str(error))
    except text_format.ParseError as error:
        reason = str(error).removeprefix(f"{error.GetLine()}:{error.GetColumn()} : ")
        return ConfigOnDisk(path, model, problem=_printable(reason), problem_line=error.GetLine())
    return ConfigOnDisk(path, model, message, index_lines(text))


def read_text(path: Path) -> str:
    """Return the text of a file, if it is one.

    Raises:
        RepositoryError: it is no regular file, longer than ``MAX_TEXT_BYTES``, not UTF-8, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RepositoryError("is not a regular file")
        if status.st_size > MAX_TEXT_BYTES:
            raise RepositoryError(f"has {status.st_size} bytes; more than {MAX_TEXT_BYTES} are not read")
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise RepositoryError(f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RepositoryError(f"is not UTF-8 text: {error}") from error


class _Block:
    """A message that is being read."""

    def __init__(self, path: FieldPath) -> None:
        self.path = path
        self.list_of: str | None = None
        self._seen: Counter[str] = Counter()

    def next(self, name: str) -> FieldPath:
        self._seen[name] += 1
        return (*self.path, (name, self._seen[name] - 1))


def index_lines(text: str) -> dict[FieldPath, int]:
    """Return the line of each field of a well-formed text: by name and index, and for maps by name and key too."""
    lines: dict[FieldPath, int] = {}
    blocks = [_Block(())]
    name: str | None = None
    name_line = line = 1
    position = 0
    for match in TOKEN.finditer(text):
        token, block = match.group(), blocks[-1]
        line += text.count("\n", position, match.start())
        position = match.start()
        if token[0] in "#:,;":
            continue
        owner, at = (block.list_of, line) if block.list_of is not None else (name, name_line)
        if token in ("}", ">"):
            del blocks[max(1, len(blocks) - 1) :]
            name = None
        elif token == "]":
            block.list_of = name = None
        elif owner is None:
            if token[0] not in "\"'":  # the second half of a string that was written in two
                name, name_line = token, line
        elif token == "[":
            block.list_of = owner
        elif token in ("{", "<"):
            path = block.next(owner)
            lines[path] = at
            blocks.append(_Block(path))
            name = None
        else:
            lines[block.next(owner)] = at
            if owner == "key" and block.path:
                lines[(*block.path[:-1], (block.path[-1][0], token[1:-1]))] = lines[block.path]
            name = None
    return lines


def _printable(text: str) -> str:
    shown = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    half = _MAX_QUOTED // 2  # protobuf quotes the line first and says what is wrong with it last
    return shown if len(shown) <= _MAX_QUOTED else f"{shown[:half]} ... {shown[-half:]}"
