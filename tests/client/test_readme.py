from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.client.toy_triton import ToyTriton

README = Path(__file__).parents[2] / "client" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


def test_readme_has_its_three_programs() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.triton
@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("block", BLOCKS, ids=["blocking", "async", "fake"])
def test_program_runs(
    block: str, protocol: str, toy_triton: ToyTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("source.jpg", "target.jpg", "second.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    url = toy_triton.grpc_url if protocol == "grpc" else toy_triton.http_url
    exec(compile(block.replace("grpc://127.0.0.1:8001", url), str(README), "exec"), {"__name__": "readme"})
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if "out.png" in block:
        assert written["out.png"] == b"source.jpg|target.jpg"
    if "swapped-" in block:
        assert written["swapped-second.jpg"] == b"source.jpg|second.jpg"
