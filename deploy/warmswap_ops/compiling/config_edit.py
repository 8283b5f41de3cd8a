"""Changes to the text of a ``config.pbtxt`` that leave everything else, comments too, as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from warmswap_ops.config_text import TOKEN

OPTIMISER_OFF: Final = 2
"""``optimization.graph.level`` that switches ONNX Runtime's optimiser off: the graph was optimised when compiled."""

_OPENING, _CLOSING = "{<[", "}>]"


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int


def with_compiled_graph(config: str, filename: str) -> str:
    """Return a configuration that serves a compiled graph.

    Args:
        config: Text of a well-formed configuration.
        filename: Of the compiled graph in each version directory.
    """
    comment = (
        "# Written by warmswap compile: the graph of this file was optimised for one machine; see deploy/README.md."
    )
    config = _set(config, ("default_model_filename",), f'"{filename}"')
    config = _set(config, ("optimization", "graph", "level"), str(OPTIMISER_OFF))
    return f"{comment}\n{config}"


def _set(config: str, path: tuple[str, ...], value: str) -> str:
    """Set a field, in the blocks that are there already: a second block of the same name would be refused."""
    tokens = [_Token(match[0], match.start(), match.end()) for match in TOKEN.finditer(config) if match[0][0] != "#"]
    start, end, at = 0, len(tokens), len(config)
    for depth, name in enumerate(path):
        found = _find(tokens, start, end, name)
        if found is None:
            return _insert(config, at, path[depth:], value, inside=depth > 0)
        value_at = found + 1 + (tokens[found + 1].text == ":")
        if depth == len(path) - 1:
            return config[: tokens[value_at].start] + value + config[tokens[value_at].end :]
        start, end = value_at + 1, _closing(tokens, value_at)
        at = tokens[end].start
    return config


def _insert(config: str, at: int, path: tuple[str, ...], value: str, *, inside: bool) -> str:
    text = f"{path[-1]}: {value}"
    for name in reversed(path[:-1]):
        text = f"{name} {{ {text} }}"
    if inside:
        return f"{config[:at]}\n{text}\n{config[at:]}"  # on a line of its own: a comment may stand before
    return f"{config.rstrip()}\n\n{text}\n"


def _find(tokens: list[_Token], start: int, end: int, name: str) -> int | None:
    depth = 0
    for index in range(start, end):
        text = tokens[index].text
        if depth == 0 and text == name and index + 1 < end and (index == start or tokens[index - 1].text != ":"):
            return index
        depth += (text in _OPENING) - (text in _CLOSING)
    return None


def _closing(tokens: list[_Token], opening: int) -> int:
    depth = 0
    for index in range(opening, len(tokens)):
        depth += (tokens[index].text in _OPENING) - (tokens[index].text in _CLOSING)
        if depth == 0:
            return index
    return len(tokens) - 1
