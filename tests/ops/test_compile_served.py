"""A compiled repository under ``warmswap serve``: the open pack on the real Triton, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.repositories import change_json, copy_repository
from tests.e2e.serve import warmswap
from tests.ops.serve_process import ServeProcess
from tests.ops.toys import PIPELINE_NAMES, STAGE_NAMES, write_repository
from warmswap_ensemble.manifest import read_manifest
from warmswap_ops.compiling.build import CompileOptions, compile_repository
from warmswap_ops.compiling.check import check_compiled
from warmswap_ops.compiling.stamp import trust_stamp
from warmswap_ops.errors import CompileError, RepositoryError
from warmswap_ops.repository import read_repository, verify
from warmswap_ops.triton_install import find_triton

GRAPH = "model.compiled.onnx"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    source = write_repository(folder / "source")
    return compile_repository(CompileOptions(source, folder / "out", folder / "cache")).out


@pytest.fixture
def compiled(toys: Path, tmp_path: Path) -> Path:
    """A copy of compiled toys, stamp included; its files have other inodes than the stamp says."""
    return Path(shutil.copytree(toys, tmp_path / "compiled"))


def served(repository: Path) -> Any:
    return read_repository(repository, STAGE_NAMES, PIPELINE_NAMES)


@pytest.mark.triton
def test_open_pack_is_compiled_and_served_with_one_flag(tmp_path: Path) -> None:
    source, out = copy_repository(tmp_path / "source"), tmp_path / "out"
    options = (f"--compile={out}", f"--compile-cache={tmp_path / 'cache'}")
    with ServeProcess(source, *options) as serve:
        phase = serve.phase("compiled")
        assert (phase["cache"], phase["up_to_date"]) == ("made", False)
        assert serve.phase("preflight")["repository"] == str(out)
        serve.phase("ready")  # the golden requests were answered
    golden = json.loads((out / "face_swap/1/golden.json").read_text())
    for stage, sha256 in golden["stages"].items():  # that they are the golden stages makes the check a strict one
        manifest = read_manifest(out / stage / "1")
        assert manifest.sha256 == sha256
        assert manifest.compiled is not None
        differences = [check for sample in manifest.compiled["parity"].values() for check in sample.values()]
        assert all(check["largest_difference"] <= check["tolerance"] for check in differences)
    lint = warmswap("lint", f"--repository={out}")
    assert lint.returncode == 0, lint.stdout
    again = warmswap("compile", "--json", f"--repository={source}", f"--out={out}", f"--cache={tmp_path / 'cache'}")
    assert json.loads(again.stdout)["up_to_date"]  # serving wrote nothing that counts


@pytest.mark.triton
def test_compile_of_another_machine_is_refused_before_the_start(compiled: Path) -> None:
    manifest = compiled / "face_detector/1/manifest.json"
    values = json.loads(manifest.read_text())["compiled"]
    features = [*values["target"]["cpu_features"], "amx_tile_of_another_cpu"]
    change_json(manifest, compiled=values | {"target": values["target"] | {"cpu_features": features}})
    with ServeProcess(compiled) as serve:
        failed = serve.phase("failed")
        assert (serve.wait(), failed["exit_code"]) == (10, 10)
        for word in ("face_detector 1", "CPU features, here without amx_tile_of_another_cpu", "run warmswap compile"):
            assert word in failed["error"]


def test_graph_of_another_onnxruntime_is_refused(compiled: Path) -> None:
    manifest = compiled / "face_swapper/1/manifest.json"
    values = json.loads(manifest.read_text())["compiled"]
    check_compiled(served(compiled), find_triton())
    change_json(manifest, compiled=values | {"target": values["target"] | {"onnxruntime": "1.0.0"}})
    with pytest.raises(CompileError, match=r"face_swapper 1 .*ONNX Runtime 1\.0\.0, here 1\..*run warmswap compile"):
        check_compiled(served(compiled), find_triton())


def test_version_that_was_added_to_a_compiled_repository_is_refused(compiled: Path) -> None:
    version = shutil.copytree(compiled / "face_swapper/1", compiled / "face_swapper/2")
    values = json.loads((version / "manifest.json").read_text()) | {"version": 2}
    del values["compiled"]
    (version / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(CompileError, match=f"face_swapper 2 is not compiled, but its config.pbtxt serves {GRAPH}"):
        check_compiled(served(compiled), find_triton())


def test_gpu_configuration_serves_the_exported_graph(compiled: Path) -> None:
    config = compiled / "face_swapper/configs/gpu.pbtxt"
    config.parent.mkdir()
    config.write_text('name: "face_swapper"\n')
    versions = read_repository(compiled, ["face_swapper"], [], "gpu")
    assert not versions[0].is_compiled
    (compiled / f"face_swapper/1/{GRAPH}").unlink()
    verify(versions)
    with pytest.raises(RepositoryError, match=GRAPH):
        verify(read_repository(compiled, ["face_swapper"], []))


def test_files_that_nobody_touched_are_not_hashed_again(toys: Path, tmp_path: Path) -> None:
    source = toys.parent / "source"
    out = compile_repository(CompileOptions(source, tmp_path / "own", tmp_path / "cache")).out
    path = out / "face_detector/1" / f"{GRAPH}.data"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[100] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    with pytest.raises(RepositoryError, match=f"{GRAPH}.data: sha256"):  # another time of modification
        verify(served(out), trust_stamp(out))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    verify(served(out), trust_stamp(out))  # what --verify full is for
    with pytest.raises(RepositoryError, match=f"{GRAPH}.data: sha256"):
        verify(served(out))


def test_copy_of_a_compiled_repository_is_hashed_once_more(compiled: Path) -> None:
    verify(served(compiled), trust_stamp(compiled))
    path = compiled / "face_detector/1" / GRAPH
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(RepositoryError, match=f"{GRAPH}: sha256"):
        verify(served(compiled), trust_stamp(compiled))


def test_exported_graph_exchanged_after_the_compile_is_found(compiled: Path) -> None:
    manifest = compiled / "face_detector/1/manifest.json"
    change_json(manifest, files={"model.onnx": "0" * 64})
    with pytest.raises(RepositoryError, match="was compiled from other files"):
        verify(served(compiled), trust_stamp(compiled))
