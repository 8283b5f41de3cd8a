"""Copies of the model repository that differ from it in one thing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

from tests.e2e.pictures import ROOT

REPOSITORY = ROOT / "model_repository"


def copy_repository(folder: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY, folder, ignore=shutil.ignore_patterns("__pycache__")))


def change_config(repository: Path, model: str, **values: int) -> None:
    """Set parameters (``max_image_bytes``) or plain numbers (``count``, ``max_queue_size``) of a ``config.pbtxt``."""
    path = repository / model / "config.pbtxt"
    text = path.read_text()
    for key, value in values.items():
        parameter = rf'(key: "{key}"\s*value: {{ string_value: ")\d+'
        number = rf"(\b{key}: )\d+"
        pattern = parameter if re.search(parameter, text) else number
        text, changed = re.subn(pattern, rf"\g<1>{value}", text, count=1)
        assert changed == 1, key
    path.write_text(text)


def change_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    assert values.keys() <= content.keys()
    path.write_text(json.dumps({**content, **values}))


def fix_digest(version_dir: Path, name: str = "model.onnx") -> None:
    """Let the manifest say what the file is now."""
    digest = hashlib.sha256((version_dir / name).read_bytes()).hexdigest()
    change_json(version_dir / "manifest.json", files={name: digest})
