"""``warmswap compile`` on toy models and real ONNX Runtime: keys, caches, faults."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from tests.e2e.serve import warmswap
from tests.ops.serve_process import ServeProcess, eventually
from tests.ops.toys import write_graph, write_repository, write_stage
from warmswap_ensemble.manifest import read_manifest
from warmswap_ops.compiling import target, worker, worker_process
from warmswap_ops.compiling.build import CompileOptions, compile_repository
from warmswap_ops.compiling.files import copy
from warmswap_ops.compiling.parity import ParityError, compare
from warmswap_ops.compiling.stamp import STAMP_NAME, compare_tree, record_tree
from warmswap_ops.errors import CompileError, MachineError, OpsError, RepositoryError, UsageError
from warmswap_ops.onnxruntime_backend.session import Session

STAGE = "face_embedder"
GRAPH = "model.compiled.onnx"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_stage(tmp_path / "source", STAGE)
    return tmp_path / "source"


def compile_here(source: Path, said: list[str] | None = None, **options: Any) -> Any:
    """Compile in this process, beside the source."""
    values: dict[str, Any] = {"out": source.parent / "out", "cache": source.parent / "cache", **options}
    return compile_repository(CompileOptions(source, say=(said if said is not None else []).append, **values))


def command(source: Path, *options: str | Path) -> list[str | Path]:
    folder = source.parent
    return [
        "compile",
        "--json",
        f"--repository={source}",
        f"--out={folder / 'out'}",
        f"--cache={folder / 'cache'}",
        *options,
    ]


def leftovers(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "staging" in path.name)


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "cache").iterdir() if path.is_dir())


def test_compiled_repository_is_complete_and_the_source_untouched(source: Path) -> None:
    before, times = record_tree(source), {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    compiled = compile_here(source)
    assert compiled.cache == "made"
    assert not compiled.up_to_date
    assert compare_tree(source, before) == ([], before)
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == times
    out = source.parent / "out"
    exported, manifest = read_manifest(source / STAGE / "1"), read_manifest(out / STAGE / "1")
    assert manifest.sha256 == exported.sha256
    assert set(manifest.compiled_files) == {GRAPH, f"{GRAPH}.data"}
    assert (out / STAGE / "1/model.onnx").samefile(source / STAGE / "1/model.onnx")
    shutil.rmtree(source)
    shutil.rmtree(source.parent / "cache")
    Session(
        {
            "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1"]}],
            "output": [{"name": "double", "data_type": "TYPE_FP32", "dims": ["-1"]}],
            "max_batch_size": 8,
            "default_model_filename": GRAPH,
        },
        out / STAGE / "1",
        "CPU",
        "0",
    )
    assert leftovers(source.parent) == []


def test_copy_of_a_read_only_file_may_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("x")
    (tmp_path / "source").chmod(0o444)
    copy(tmp_path / "source", tmp_path / "out/copy")
    assert (tmp_path / "out/copy").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "source").stat().st_mode & 0o777 == 0o444


def test_up_to_date_repository_is_left_alone(source: Path) -> None:
    compile_here(source)
    out = source.parent / "out"
    inodes = {path: path.stat().st_ino for path in out.rglob("*")}
    assert compile_here(source).up_to_date
    os.utime(source / STAGE / "1/model.onnx")  # touched, not changed
    assert compile_here(source).up_to_date
    assert {path: path.stat().st_ino for path in out.rglob("*") if path.name != STAMP_NAME} == {
        path: inode for path, inode in inodes.items() if path.name != STAMP_NAME
    }
    assert compile_here(source, force=True).cache == "made"


def test_changed_source_is_compiled_again_from_the_cache(source: Path) -> None:
    compile_here(source)
    said: list[str] = []
    config = source / STAGE / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 8", "max_batch_size: 4"))
    assert compile_here(source, said).cache == "hit"  # the graph is the same
    assert "max_batch_size: 4" in (source.parent / "out" / STAGE / "config.pbtxt").read_text()
    assert any("outdated" in line and "config.pbtxt changed" in line for line in said)
    (source / STAGE / "1/notes.txt").write_text("new")
    assert compile_here(source).cache == "hit"
    assert (source.parent / "out" / STAGE / "1/notes.txt").exists()


def test_damaged_output_is_replaced(source: Path) -> None:
    compile_here(source)
    (source.parent / "out" / STAGE / "config.pbtxt").write_text("spoilt")
    said: list[str] = []
    compile_here(source, said)
    assert any(f"{STAGE}/config.pbtxt changed" in line for line in said)
    assert compile_here(source).up_to_date


@pytest.mark.parametrize("name", ["record.json", f"{GRAPH}.data"])
def test_corrupt_cache_entry_is_made_again_and_this_is_said(source: Path, name: str) -> None:
    compile_here(source)
    shutil.rmtree(source.parent / "out")
    (entry,) = entries(source.parent)
    (entry / name).write_bytes((entry / name).read_bytes()[:-50])
    said: list[str] = []
    assert compile_here(source, said).cache == "made"
    assert any("corrupt" in line and name in line for line in said)
    shutil.rmtree(source.parent / "out")
    assert compile_here(source).cache == "hit"


def test_another_cpu_is_another_key(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_here(source)
    (source.parent / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu sse4_2 avx2 fma smep\n")
    monkeypatch.setattr(target, "CPU_INFO", source.parent / "cpuinfo")
    assert target.this_machine().cpu_features == ("avx2", "fma", "sse4_2")
    said: list[str] = []
    assert compile_here(source, said).cache == "made"
    assert any("outdated (CPU features, here" in line for line in said)
    assert len(entries(source.parent)) == 2


def test_features_of_arm(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nFeatures\t: fp asimd evtstrm crc32 asimddp sve i8mm\n")
    assert target.cpu_features(tmp_path / "cpuinfo") == ("asimd", "asimddp", "i8mm", "sve")
    assert target.cpu_features(tmp_path / "nothing") == ()


def test_concurrent_starts_compile_once(source: Path) -> None:
    with ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda out: warmswap(*command(source, f"--out={source.parent / out}")), "abaa"))
    assert [run.returncode for run in runs] == [0] * 4, [run.stderr for run in runs]
    answers = [json.loads(run.stdout) for run in runs]
    made = [version["model"] for answer in answers for version in answer["versions"] if version["cache"] == "made"]
    assert made == [STAGE], [run.stderr for run in runs]
    assert sum(answer["up_to_date"] for answer in answers) == 2
    assert any("waiting for it" in run.stderr for run in runs)
    assert leftovers(source.parent) == []


def test_wait_is_bounded(source: Path) -> None:
    import fcntl

    with (source.parent / ".out.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CompileError, match=r"another process has held .*\.out\.lock for 0\.2 s"):
            compile_here(source, wait_s=0.2)


def test_what_an_interrupted_compile_left_is_removed(source: Path) -> None:
    (source.parent / ".out.staging-x").mkdir()
    (source.parent / ".out.staging-x/half").write_text("half")
    compile_here(source)
    assert leftovers(source.parent) == []


def test_cache_that_cannot_be_made_is_gone_without(source: Path) -> None:
    (source.parent / "file").write_text("")
    said: list[str] = []
    assert compile_here(source, said, cache=source.parent / "file/cache").cache == "made"
    assert any("file/cache cannot be written (Not a directory): compiling without it" in line for line in said)
    assert read_manifest(source.parent / "out" / STAGE / "1").compiled


def in_mount_namespace(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip(f"may not mount: {probe.stderr.decode().strip()}")
    cli = Path(sys.executable).parent / "warmswap"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script, cli, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_read_only_cache_is_read_and_not_needed(source: Path) -> None:
    compile_here(source)
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$0" "$@"'
    shutil.rmtree(source.parent / "out")
    found = in_mount_namespace(script, source.parent / "cache", *command(source))
    assert (found.returncode, json.loads(found.stdout)["cache"]) == (0, "hit"), found.stderr
    (entry,) = entries(source.parent)
    shutil.rmtree(entry)
    shutil.rmtree(source.parent / "out")
    made = in_mount_namespace(script, source.parent / "cache", *command(source))
    assert (made.returncode, json.loads(made.stdout)["cache"]) == (0, "made"), made.stderr
    assert "cannot be written (Read-only file system): compiling without it" in made.stderr


def test_full_disk_leaves_nothing_half_written(source: Path) -> None:
    disk = source.parent / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=256k none "$1"; d="$1"; shift; "$0" "$@"; code=$?; ls -A "$d" >&2; exit $code'
    run = in_mount_namespace(script, disk, *command(source, f"--out={disk / 'out'}", f"--cache={disk / 'cache'}"))
    assert run.returncode == MachineError.exit_code, run.stderr
    report, *names = run.stderr.splitlines()[-3:]
    assert "cannot write into" in run.stderr
    assert "No space left" in run.stderr
    assert not {"out"} & set(names), report
    assert "staging" not in "".join(names)


def test_limit_on_file_size_is_like_a_full_disk(source: Path) -> None:
    out = source.parent / "out"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    cli = Path(sys.executable).parent / "warmswap"
    run = subprocess.run(
        [cli, *command(source)], preexec_fn=limit, capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == MachineError.exit_code, run.stderr
    assert "cannot write into" in run.stderr
    assert not out.exists()
    assert leftovers(source.parent) == []


def spoil_nothing(out: Path) -> None:
    out.mkdir()
    (out / "precious.txt").write_text("mine")


def spoil_with_file(out: Path) -> None:
    out.write_text("mine")


def spoil_with_link(out: Path) -> None:
    (out.parent / "elsewhere").mkdir()
    out.symlink_to(out.parent / "elsewhere")


@pytest.mark.parametrize("spoil", [spoil_nothing, spoil_with_file, spoil_with_link])
def test_what_was_not_compiled_is_not_replaced(source: Path, spoil: Any) -> None:
    out = source.parent / "out"
    spoil(out)
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(UsageError, match="--out"):
        compile_here(source)
    assert sorted(source.parent.rglob("*")) == sorted([*before, source.parent / ".out.lock"])


@pytest.mark.parametrize(
    ("option", "place"), [("out", "source/compiled"), ("out", "."), ("cache", "source/cache"), ("cache", "out/cache")]
)
def test_folders_in_one_another_are_refused(source: Path, option: str, place: str) -> None:
    places: dict[str, Any] = {option: source.parent / place}
    with pytest.raises(UsageError, match="must not lie in"):
        compile_here(source, **places)
    assert sorted(path.name for path in source.iterdir()) == [STAGE]


def test_empty_folder_is_taken(source: Path) -> None:
    (source.parent / "out").mkdir()
    assert compile_here(source).cache == "made"


def corrupt(source: Path) -> None:
    path = source / STAGE / "1/model.onnx"
    path.write_bytes(path.read_bytes()[:-1])


def remove_manifest(source: Path) -> None:
    (source / STAGE / "1/manifest.json").unlink()


def misspell_config(source: Path) -> None:
    (source / STAGE / "config.pbtxt").write_text("nonsense: 1")


def ask_for_gpu(source: Path) -> None:
    config = source / STAGE / "config.pbtxt"
    config.write_text(config.read_text().replace("KIND_CPU", "KIND_GPU"))


def forget_warmup(source: Path) -> None:
    config = source / STAGE / "config.pbtxt"
    config.write_text(config.read_text().partition("model_warmup")[0])


def misname_output(source: Path) -> None:
    config = source / STAGE / "config.pbtxt"
    config.write_text(config.read_text().replace('"looked_up"', '"looked_at"'))


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        pytest.param(corrupt, RepositoryError, "model face_embedder: .*model.onnx: sha256", id="corrupt"),
        pytest.param(remove_manifest, RepositoryError, "manifest.json: missing", id="no manifest"),
        pytest.param(misspell_config, RepositoryError, "config.pbtxt cannot be read: .*nonsense", id="config"),
        pytest.param(ask_for_gpu, RepositoryError, "no graph to compile.*KIND_GPU", id="gpu"),
        pytest.param(forget_warmup, CompileError, "face_embedder 1: .*no model_warmup", id="no sample"),
        pytest.param(misname_output, CompileError, "face_embedder 1: .*looked_at", id="output"),
    ],
)
def test_bad_source_is_refused_and_leaves_nothing(source: Path, spoil: Any, kind: type[OpsError], words: str) -> None:
    spoil(source)
    with pytest.raises(kind, match=words):
        compile_here(source)
    assert not (source.parent / "out").exists()
    assert leftovers(source.parent) == []


def test_outdated_output_survives_a_failure(source: Path) -> None:
    compile_here(source)
    corrupt(source)
    with pytest.raises(RepositoryError):
        compile_here(source)
    assert read_manifest(source.parent / "out" / STAGE / "1").compiled


def test_compiled_repository_is_no_source(source: Path) -> None:
    compile_here(source)
    with pytest.raises(RepositoryError, match="compiled already"):
        compile_here(source.parent / "out", out=source.parent / "again", cache=source.parent / "cache")


def write_triple(path: Path) -> None:
    """Write what ``write_graph`` writes, but ``double`` is three times x."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["two"]),
            helper.make_node("Add", ["two", "x"], ["double"]),
            helper.make_node("Cast", ["x"], ["looked_up"], to=TensorProto.INT32),
        ],
        "triple",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", "K"])],
        [
            helper.make_tensor_value_info("double", TensorProto.FLOAT, ["N", "K"]),
            helper.make_tensor_value_info("looked_up", TensorProto.INT32, ["N", "K"]),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_graph_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_graph(tmp_path / "model.onnx")
    np.array([1.0, 2.0], np.float32).tofile(tmp_path / "x.raw")
    given = {"data_type": "TYPE_FP32", "dims": ["2"], "input_data_file": "x.raw"}
    config: dict[str, Any] = {
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": ["-1"]}],
        "output": [
            {"name": name, "data_type": kind, "dims": ["-1"]}
            for name, kind in (("double", "TYPE_FP32"), ("looked_up", "TYPE_INT32"))
        ],
        "model_warmup": [{"name": "real", "batch_size": 1, "inputs": {"x": given}}],
    }
    folders = dict.fromkeys(("version_dir", "warmup_dir", "out_dir"), str(tmp_path))
    job = {"config": config, "compiled_config": config | {"default_model_filename": GRAPH}, **folders}
    assert worker.compile_graph(job)["parity"]["real"]["double"]["largest_difference"] == 0

    write = worker._exported_session

    def write_another(job: Any, compiled: Path) -> Any:
        session = write(job, compiled)
        write_triple(compiled)
        return session

    monkeypatch.setattr(worker, "_exported_session", write_another)
    with pytest.raises(ParityError, match=r"double differs by 2 from the exported graph's, allowed 0\.0004"):
        worker.compile_graph(job)


@pytest.mark.parametrize(
    ("exported", "compiled", "words"),
    [
        pytest.param(np.array([1.0], np.float32), np.array([1.001], np.float32), "differs by 0.001", id="float"),
        pytest.param(np.array([7], np.uint8), np.array([9], np.uint8), "differs by 2", id="pixels"),
        pytest.param(np.array([7], np.int32), np.array([8], np.int32), "differs by 1", id="whole number"),
        pytest.param(np.array([7.0], np.float32), np.array([np.nan], np.float32), "is finite where", id="nan"),
        pytest.param(np.zeros((1, 2)), np.zeros((2, 1)), "is float64 \\[2, 1\\]", id="shape"),
    ],
)
def test_parity_finds(exported: Any, compiled: Any, words: str) -> None:
    with pytest.raises(ParityError, match=words):
        compare({"y": exported}, {"y": compiled})


def test_parity_allows_rounding() -> None:
    exported: dict[str, Any] = {
        "y": np.array([640.0, np.inf], np.float32),
        "rgb": np.array([7], np.uint8),
        "none": np.zeros((0, 4)),
    }
    compiled = exported | {"y": np.array([640.05, np.inf], np.float32), "rgb": np.array([8], np.uint8)}
    assert compare(exported, compiled)["y"]["tolerance"] == pytest.approx(0.064)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL: out of memory"),
        ("raise SystemExit('no room')", "exit code 1: no room"),
    ],
)
def test_what_becomes_of_a_worker_that_dies(
    source: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    monkeypatch.setattr(worker_process, "COMMAND", (sys.executable, "-c", program))
    with pytest.raises(CompileError, match=f"{STAGE} 1: the compiler .*{words}"):
        compile_here(source)


def test_compiling_can_be_stopped(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    with pytest.raises(CompileError, match="stopped while compiling"):
        compile_here(source, is_cancelled=lambda: True)
    assert leftovers(source.parent) == []


def test_signal_while_serve_compiles_leaves_nothing(tmp_path: Path) -> None:
    source = write_repository(tmp_path / "source")
    with ServeProcess(source, f"--compile={tmp_path / 'out'}", f"--compile-cache={tmp_path / 'cache'}") as serve:
        assert eventually(lambda: leftovers(tmp_path) != [])
        serve.send(signal.SIGTERM)
        assert serve.phase("stopped")["reason"] == "SIGTERM during the start"
        assert serve.wait() == 0
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "out").exists()


def test_files_are_copied_where_links_cannot_be_made(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    compile_here(source)
    copied = source.parent / "out" / STAGE / "1/model.onnx"
    assert not copied.samefile(source / STAGE / "1/model.onnx")
    assert compile_here(source).up_to_date
    shutil.rmtree(source.parent / "out")
    assert compile_here(source).cache == "hit"
