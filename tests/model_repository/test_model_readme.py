"""The tables of ``model_repository/README.md`` say what the contract and the manifests say."""

from __future__ import annotations

import itertools
import re

import pytest

from tests.model_repository.support import REPOSITORY
from warmswap_ensemble.contract import MODELS, STAGES, ModelSpec
from warmswap_ensemble.manifest import read_manifest

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
Row = dict[str, str]


def tables(text: str) -> list[list[Row]]:
    """Read the tables of a Markdown text; a cell loses its backquotes, an empty ``model`` repeats the one above."""
    found: list[list[Row]] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE):
        header, rule, *lines = [
            [cell.strip(" `") for cell in line.strip("|").split("|")] for line in block.splitlines()
        ]
        assert all(set(cell) <= {"-", ":"} for cell in rule)
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        for above, row in itertools.pairwise(rows):
            row["model"] = row["model"] or above["model"]
        found.append(rows)
    return found


TENSORS, ORIGINS = tables(README)


def test_a_text_without_tables_has_none() -> None:
    assert tables("") == []


@pytest.mark.parametrize("spec", MODELS.values(), ids=lambda spec: spec.name)
def test_tensors_are_those_of_the_contract(spec: ModelSpec) -> None:
    expected = []
    for tensors, direction in ((spec.inputs, "in"), (spec.outputs, "out")):
        for tensor in tensors:
            shape = ", ".join("?" if size == -1 else str(size) for size in tensor.shape)
            way = f"{direction}, optional" if tensor.optional else direction
            colour = "RGB" if tensor.name.endswith("_rgb") else ""
            expected.append((tensor.name, way, tensor.datatype, shape, colour))
    written = [
        (row["tensor"], row["in/out"], row["dtype"], row["shape"], row["colour"])
        for row in TENSORS
        if row["model"] == spec.name
    ]
    assert written == expected


def test_no_model_is_missing_or_made_up() -> None:
    assert list(dict.fromkeys(row["model"] for row in TENSORS)) == list(MODELS)
    assert [row["model"] for row in ORIGINS if row["model"] != "face_swapper_512"] == list(MODELS)


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_origin_licence_and_size_are_those_of_version_1(spec: ModelSpec) -> None:
    (row,) = (row for row in ORIGINS if row["model"] == spec.name)
    version_dir = REPOSITORY / spec.name / "1"
    manifest = read_manifest(version_dir)
    assert row["licence"] == manifest.licence
    assert row["size"] == f"{(version_dir / 'model.onnx').stat().st_size / 1e6:.1f} MB"
    for origin in manifest.origin:
        assert origin["package"] in row["made from"]


@pytest.mark.parametrize("spec", STAGES, ids=lambda spec: spec.name)
def test_sizes_in_the_text_are_those_of_the_manifest(spec: ModelSpec) -> None:
    settings = read_manifest(REPOSITORY / spec.name / "1").settings
    height, width = settings.get("input_size_hw") or [settings["crop_size"]] * 2
    first = next(row for row in TENSORS if row["model"] == spec.name)
    assert f"{width}×{height} in version 1" in first["what it is"]  # noqa: RUF001
    if "embedding_length" in settings:
        row = next(row for row in TENSORS if (row["model"], row["tensor"]) == (spec.name, "embedding"))
        assert f"{settings['embedding_length']} numbers in version 1" in row["what it is"]
