"""The trial of an image: it serves, swaps faces over gRPC and HTTP, and leaves without a trace."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from images.container import Container
from images.machine import ImageError
from images.store import Store
from warmswap_client import FaceSwapClient

ARGUMENTS: Final = ("--json", "--host=127.0.0.1", "--http-port=0", "--grpc-port=0", "--metrics-port=0")


def try_image(store: Store, tag: str, pictures: Path, say: Callable[[str], None]) -> None:
    """Run an image that has its models.

    Args:
        store: Where the image is.
        tag: Its name.
        pictures: Folder with two portraits.
        say: Gets a line for each thing that was shown.

    Raises:
        ImageError: it does not do what it must.
    """
    config = store.config(tag)
    with store.mounted(tag) as root, Container(root, config, ARGUMENTS) as container:
        begin_s = time.monotonic()
        ready = container.phase("ready")
        ready_s = time.monotonic() - begin_s
        say(f"ready after {ready_s:.1f} s, as uid:gid {container.user_ids()}, process 1, root read-only")
        _expect_read_only(container)
        grpc = f"grpc://{ready['urls']['grpc']}"
        for url in (grpc, ready["urls"]["http"]):
            say(f"{url.partition(':')[0]}: {_swap(url, pictures)}")
        _run_commands(container, grpc, say)
        container.terminate()
        code = container.wait()
        leftovers = container.leftovers()
    if code != 0 or leftovers:
        raise ImageError(f"after SIGTERM: exit code {code}, left in /dev/shm: {leftovers or 'nothing'}")
    say("SIGTERM to process 1: exit code 0, nothing left in /dev/shm")


def _swap(url: str, pictures: Path) -> str:
    with FaceSwapClient(url) as client:
        begin_s = time.perf_counter()
        result = client.swap(pictures / "eileen_collins.png", pictures / "grace_hopper.jpg")
        elapsed_s = time.perf_counter() - begin_s
    swapped = [face for face in result.faces if face.swapped]
    if len(swapped) != 1 or (swapped[0].similarity_after or 0) <= (swapped[0].similarity_before or 0):
        raise ImageError(f"{url} swapped no face: {result.report}")
    face = swapped[0]
    return f"1 face in {elapsed_s * 1e3:.0f} ms, similarity {face.similarity_before:.2f} -> {face.similarity_after:.2f}"


def _expect_read_only(container: Container) -> None:
    script = (
        "for d in / /etc /opt/warmswap /models; do touch $d/x 2>/dev/null && echo $d; done; touch /var/cache/warmswap/x"
    )
    done = container.run("sh", "-c", script)
    if done.stdout or done.returncode != 0:
        raise ImageError(f"writable though read-only: {done.stdout.split()}; the cache: {done.stderr or 'writable'}")


def _run_commands(container: Container, url: str, say: Callable[[str], None]) -> None:
    """Run what init containers and jobs run."""
    for command in (
        ("warmswap", "--version"),
        ("warmswap", "wait", "--url", url),
        ("warmswap", "status", "--url", url),
        ("warmswap", "lint"),
        ("warmswap", "compile", "--out", "/tmp/compiled"),
    ):
        done = container.run(*command)
        if done.returncode != 0:
            raise ImageError(f"{' '.join(command)} in the image: {done.returncode} {done.stdout} {done.stderr}")
    say("warmswap wait, status, lint and compile work in it")
