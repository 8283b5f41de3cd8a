"""The images, built and run as a pod would run them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images.__main__ import ROOT, VERSION, build_images
from images.base import make_base
from images.container import Container, Settings
from images.machine import ImageError
from images.store import Store
from images.tools import HERE
from images.trial import ARGUMENTS, try_image
from images.wheels import fetch_wheels

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("buildah") is None, reason="needs root and buildah"),
]
OUT = ROOT / "out/image"
APP, MODELS, FULL = (f"{name}:{VERSION}" for name in ("warmswap", "warmswap-models", "warmswap-full"))


@pytest.fixture(scope="module")
def store() -> Store:
    """The store of ``make image``: what that has built is not built again."""
    OUT.mkdir(parents=True, exist_ok=True)
    store = Store(OUT)
    base = make_base(store, OUT)
    fetch_wheels(HERE, HERE / "wheels")
    build_images(store, OUT, base)
    return store


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    copy = tmp_path / "models"
    shutil.copytree(ROOT / "model_repository", copy)
    tmp_path.chmod(0o755)  # the image's user must come through
    return copy


@pytest.fixture
def app(store: Store) -> Iterator[tuple[Path, dict[str, Any]]]:
    with store.mounted(APP) as root:
        yield root, store.config(APP)


def test_full_image_serves_and_leaves_nothing(store: Store) -> None:
    said: list[str] = []
    try_image(store, FULL, ROOT / "examples", said.append)
    assert said[-1] == "SIGTERM to process 1: exit code 0, nothing left in /dev/shm"


def test_models_from_a_volume_as_any_user_of_group_0(app: tuple[Path, dict[str, Any]], repository: Path) -> None:
    with Container(*app, ARGUMENTS, Settings(user="1000730000:0", models=repository)) as container:
        container.phase("ready")
        assert container.user_ids() == (1000730000, 0)
        container.terminate()
        assert container.wait() == 0


def test_missing_model_volume_is_said(app: tuple[Path, dict[str, Any]]) -> None:
    with Container(*app, ARGUMENTS) as container:
        assert container.wait() == 4
        assert "/models" in container.errors()


def test_corrupt_model_is_named(app: tuple[Path, dict[str, Any]], repository: Path) -> None:
    model = repository / "face_embedder/1/model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with Container(*app, ARGUMENTS, Settings(models=repository)) as container:
        assert container.wait() == 4
        assert "face_embedder/1/model.onnx" in container.errors()


def test_image_of_root_is_refused(app: tuple[Path, dict[str, Any]]) -> None:
    root, config = app
    with pytest.raises(ImageError, match="uid other than 0"):
        Container(root, {**config, "User": ""}, ARGUMENTS)


def test_change_of_code_sends_one_small_layer(store: Store, tmp_path: Path) -> None:
    before = store.diff_ids(FULL)
    context = tmp_path / "context"
    skipped = shutil.ignore_patterns(".git", ".venv*", "out", "node_modules", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, context, ignore=skipped)
    launcher = context / "deploy/warmswap_ops/launcher.py"
    launcher.write_text(f"{launcher.read_text()}\n# one more line\n")
    base = make_base(store, OUT)
    try:
        build_images(store, tmp_path, base, context=context)
        after = store.diff_ids(FULL)
    finally:
        build_images(store, OUT, base)
    changed = [index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]
    assert changed == [len(before) - 2]  # the code; below it system, cache folder, dependencies; above it models


def test_models_image_holds_the_repository_alone(store: Store) -> None:
    with store.mounted(MODELS) as root:
        assert [path.name for path in root.iterdir() if path.name not in ("dev", "etc", "proc", "run", "sys")] == [
            "models"
        ]
        assert (root / "models/face_swap/config.pbtxt").is_file()
