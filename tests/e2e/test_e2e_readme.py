"""What the README and the demo promise."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import pictures
from tests.e2e.pictures import COLLINS, HOPPER, ROOT, group
from tests.e2e.serve import WAIT_S
from warmswap_client import AsyncFaceSwapClient, FaceSwapClient
from warmswap_ops.launcher import LocalTriton

pytestmark = pytest.mark.triton

README = ROOT / "README.md"
BLOCK = re.compile(r"^```python[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks() -> list[tuple[int, str]]:
    """Return line number and text of each Python block."""
    text = README.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in BLOCK.finditer(text)]


def test_readme_programs_run(server: LocalTriton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other in one namespace, in a folder that holds ``examples`` and any picture named in them."""
    programs = blocks()
    assert programs, "README.md has no python block"
    urls = {8001: f"grpc://{server.grpc_url}", 8000: f"http://{server.http_url}", 8002: server.metrics_url}
    for client in (FaceSwapClient, AsyncFaceSwapClient):
        monkeypatch.setattr(client.__init__, "__defaults__", (urls[8001],))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "model_repository").symlink_to(ROOT / "model_repository")
    given = {"source": COLLINS, "me": COLLINS, "face": COLLINS, "reference": HOPPER, "group": group(), "album": group()}
    for stem in re.findall(r"\"([\w-]+)\.(?:jpe?g|png|webp)\"", "".join(text for _, text in programs)):
        for suffix in ("jpg", "jpeg", "png", "webp"):
            if not re.search(r"out|result|swapped", stem):
                (tmp_path / f"{stem}.{suffix}").write_bytes(given.get(stem, HOPPER))
    namespace: dict[str, object] = {"__name__": "readme"}
    for line, text in programs:
        for port, url in urls.items():
            host, _, actual = url.rpartition("/metrics")[0].rpartition(":") if port == 8002 else url.rpartition(":")
            text = re.sub(rf"(?:127\.0\.0\.1|localhost):{port}\b", f"{host.rpartition('/')[2]}:{actual}", text)
        exec(compile("\n" * line + text, str(README), "exec"), namespace)


def test_demo_writes_both_results_and_the_comparison(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples/demo.py", "--output", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "collins_onto_hopper.jpg",
        "hopper_onto_collins.png",
        "side_by_side.png",
    }
    sizes = {path.name: pictures.decode(path.read_bytes()).size for path in (tmp_path / "out").iterdir()}
    assert sizes["collins_onto_hopper.jpg"] == pictures.hopper().size
    assert sizes["hopper_onto_collins.png"] == pictures.collins().size
    assert sizes["side_by_side.png"] == (1800, 1200)
