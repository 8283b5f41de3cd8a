"""``python -m images``: build the CPU images, run the full one, print its sizes, write its bill of materials."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Final

from images.base import make_base
from images.layers import read_layers, size_table
from images.machine import ImageError, install_programs
from images.store import Store
from images.tools import HERE, tool, write_sbom
from images.trial import try_image
from images.wheels import fetch_wheels

ROOT: Final = HERE.parents[1]
VERSION: Final = version("warmswap")


def main() -> int:
    """Build and try the images."""
    parser = argparse.ArgumentParser(prog="python -m images", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "out/image", help="store, logs, results (default: out/image)"
    )
    parser.add_argument("--no-cache", action="store_true", help="build every layer anew")
    parser.add_argument("--base-image", help="in place of a Debian made here; must be in the store")
    parser.add_argument("--lint", action="store_true", help="only lint the Dockerfiles")
    args = parser.parse_args()
    out: Path = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        if args.lint:
            lint(out)
        else:
            make(out, args.base_image, cached=not args.no_cache)
    except ImageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def make(out: Path, base_image: str | None, *, cached: bool) -> None:
    """Build, try, measure.

    Raises:
        ImageError: a step failed.
    """
    begin_s = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begin_s:6.1f} s  {text}", flush=True)

    install_programs()
    store = Store(out)
    base = base_image or make_base(store, out)
    say(f"base: {base}")
    fetch_wheels(HERE, HERE / "wheels")
    build_images(store, out, base, cached=cached)
    say("built warmswap, warmswap-models and warmswap-full")
    full = f"warmswap-full:{VERSION}"
    try_image(store, full, ROOT / "examples", say)
    with store.mounted(full) as root:
        sbom = out / "warmswap-full.spdx.json"
        packages = write_sbom(tool("syft", out / "tools"), root, full, sbom)
    say(f"bill of materials: {packages} packages in {sbom}")
    layouts = [store.push(full, out / f"oci-{name}", name) for name in ("gzip", "zstd")]
    table = size_table(read_layers(*layouts))
    (out / "sizes.md").write_text(f"{table}\n", encoding="utf-8")
    say("sizes:")
    print(table, flush=True)


def build_images(store: Store, out: Path, base: str, *, cached: bool = True, context: Path = ROOT) -> None:
    """Build ``warmswap``, ``warmswap-models`` and ``warmswap-full``.

    Raises:
        ImageError: a build failed.
    """
    app, models, full = (f"{name}:{VERSION}" for name in ("warmswap", "warmswap-models", "warmswap-full"))
    common = {"VERSION": VERSION}
    store.build(
        HERE / "cpu.Dockerfile",
        context,
        app,
        {**common, "BASE_IMAGE": base, "REVISION": revision(context)},
        out / "build-app.log",
        cached=cached,
    )
    store.build(HERE / "models.Dockerfile", context, models, common, out / "build-models.log", cached=cached)
    parts = {"APP_IMAGE": f"localhost/{app}", "MODELS_IMAGE": f"localhost/{models}"}
    store.build(HERE / "full.Dockerfile", HERE, full, parts, out / "build-full.log", cached=cached)


def lint(out: Path) -> None:
    """Lint the Dockerfiles.

    Raises:
        ImageError: hadolint has found something.
    """
    hadolint = tool("hadolint", out / "tools")
    files = sorted(map(str, HERE.glob("*.Dockerfile")))
    done = subprocess.run([hadolint, "--config", ROOT / ".hadolint.yaml", *files], text=True, capture_output=True)
    if done.returncode != 0:
        raise ImageError(f"hadolint:\n{done.stdout}{done.stderr}")
    print(f"hadolint: {len(files)} Dockerfiles, nothing found")


def revision(checkout: Path) -> str:
    """Return the commit of a checkout, ``unknown`` outside of one."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


if __name__ == "__main__":
    sys.exit(main())
