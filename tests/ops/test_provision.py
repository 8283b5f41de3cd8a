"""``warmswap provision``: sources good and bad, interrupted, full, contended."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.ops.mounts import with_tmpfs
from tests.ops.serve_process import ServeProcess, eventually
from tests.ops.toys import write_repository
from warmswap_ops.errors import MachineError, OpsError, RepositoryError, UsageError
from warmswap_ops.provisioning.content import tree_digest
from warmswap_ops.provisioning.source import file_sha256
from warmswap_ops.provisioning.store import Provisioned, provision

WARMSWAP = Path(sys.executable).parent / "warmswap"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repository")


@pytest.fixture
def archive(repository: Path, tmp_path: Path) -> Path:
    path = tmp_path / "repository.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(repository, "repository")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def run(source: Path | str, store: Path, sha256: str | None = None, keep: int = 2) -> Provisioned:
    return provision(str(source), store, sha256, keep=keep, wait_s=30.0, progress=lambda count: None)


def command(source: Path | str, store: Path, *options: str, wrapper: tuple[str, ...] = ()) -> list[str]:
    return [*wrapper, str(WARMSWAP), "provision", f"--from={source}", f"--to={store}", "--json", *options]


def staged(store: Path) -> list[str]:
    """Return everything in a store but its lock."""
    return sorted(path.name for path in store.iterdir() if path.name != ".lock") if store.is_dir() else []


def assert_refused(
    kind: type[OpsError], words: str, source: Path | str, store: Path, sha256: str | None = None
) -> None:
    with pytest.raises(kind, match=words):
        run(source, store, sha256)
    assert staged(store) == []


def test_a_folder_is_copied_once_and_named_after_its_content(repository: Path, store: Path) -> None:
    first, second = run(repository, store), run(repository, store)
    assert (first.copied, second.copied) == (True, False)
    assert first.digest == second.digest == tree_digest(repository) == (store / "current").readlink().name
    assert tree_digest(store / "current") == first.digest
    assert staged(store) == [first.digest, "current"]


def test_once_leaves_what_rollouts_have_written(repository: Path, store: Path) -> None:
    def again() -> Provisioned:
        return provision(str(repository), store, None, keep=2, wait_s=30.0, progress=lambda count: None, once=True)

    first = again()
    assert first.copied
    (first.path / "face_embedder/1").rename(first.path / "face_embedder/2")
    (first.path / "rollout.json").write_text("{}")
    assert again() == Provisioned(first.path, first.digest, copied=False, removed=())
    assert (store / "current/face_embedder/2").is_dir()
    assert (store / "current/rollout.json").is_file()
    assert run(repository, store).copied  # without it, it is harmed


def test_once_begins_anew_what_was_interrupted(repository: Path, store: Path) -> None:
    (store / ".staging-abc").mkdir(parents=True)
    assert subprocess.run(command(repository, store, "--once"), capture_output=True, check=True).returncode == 0
    assert tree_digest(store / "current") == tree_digest(repository)
    assert not list(store.glob(".staging-*"))


def test_an_archive_becomes_the_same_as_its_folder(repository: Path, archive: Path, store: Path) -> None:
    assert run(archive, store, file_sha256(archive)).digest == tree_digest(repository)
    assert not run(archive, store).copied


def test_a_harmed_copy_is_replaced(repository: Path, store: Path) -> None:
    done = run(repository, store)
    (done.path / "face_embedder/1/model.onnx").write_bytes(b"rotten")
    again = run(repository, store)
    assert again.copied
    assert tree_digest(again.path) == again.digest == done.digest


@pytest.fixture
def served(archive: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(archive.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/{archive.name}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_url_is_fetched_once(repository: Path, archive: Path, served: str, store: Path) -> None:
    sha256 = file_sha256(archive)
    assert run(served, store, sha256).digest == tree_digest(repository)
    archive.unlink()
    assert not run(served, store, sha256).copied


def test_a_url_needs_a_sha256_and_the_right_one(archive: Path, served: str, store: Path) -> None:
    assert_refused(UsageError, "needs --sha256", served, store)
    assert_refused(RepositoryError, "another file, or a corrupt one", served, store, "0" * 64)
    archive.unlink()
    assert_refused(MachineError, "404", served, store, "0" * 64)


@pytest.mark.parametrize("sha256", ["", "abc", "g" * 64])
def test_what_is_no_sha256_is_wrong_usage(repository: Path, store: Path, sha256: str) -> None:
    assert_refused(UsageError, "64 hexadecimal digits", repository, store, sha256)


def test_another_sha256_is_refused(repository: Path, archive: Path, store: Path) -> None:
    for source in (repository, archive):
        assert_refused(RepositoryError, "not 0000", source, store, "0" * 64)


def test_no_source_is_refused(tmp_path: Path, store: Path) -> None:
    assert_refused(RepositoryError, "no such folder or file", tmp_path / "missing", store)


def corrupt(repository: Path) -> None:
    path = repository / "face_embedder/1/model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")


def lose_model(repository: Path) -> None:
    shutil.rmtree(repository / "face_swapper")


def lose_warmup(repository: Path) -> None:
    (repository / "face_swap/warmup/golden.raw").unlink()


def lose_config(repository: Path) -> None:
    (repository / "face_swap/config.pbtxt").unlink()


def lose_version(repository: Path) -> None:
    shutil.rmtree(repository / "face_embedder/1")


@pytest.mark.parametrize("spoil", [corrupt, lose_model, lose_warmup, lose_config, lose_version])
def test_a_spoiled_repository_never_becomes_current(
    repository: Path, store: Path, spoil: Callable[[Path], None]
) -> None:
    good = run(repository, store)
    spoil(repository)
    with pytest.raises(RepositoryError):
        run(repository, store)
    assert staged(store) == [good.digest, "current"]
    assert tree_digest(store / "current") == good.digest


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_archive_is_refused(archive: Path, store: Path, share: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    assert_refused(RepositoryError, "truncated|corrupt", archive, store)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_corrupt_archive_is_refused(repository: Path, tmp_path: Path, store: Path, kind: str) -> None:
    (repository / "noise.bin").write_bytes(os.urandom(1 << 20))  # is stored as it is: any change of it unpacks
    path = tmp_path / "corrupt"
    with tarfile.open(path, f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.add(repository, "repository")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert_refused(RepositoryError, "truncated|corrupt", path, store)


def link(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../escaped"),
        tarfile.TarInfo("/escaped"),
        tarfile.TarInfo("a/../../escaped"),
        link("escaped", tarfile.SYMTYPE, "/etc"),
        link("escaped", tarfile.LNKTYPE, "../escaped"),
        link("escaped", tarfile.CHRTYPE),
        link("escaped", tarfile.FIFOTYPE),
    ],
    ids=["parent", "absolute", "parent later", "symbolic link", "hard link", "device", "fifo"],
)
def test_an_archive_that_reaches_out_is_refused(tmp_path: Path, store: Path, member: tarfile.TarInfo) -> None:
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member, io.BytesIO())
    assert_refused(RepositoryError, "leads out|link or a device", path, store)
    assert not list(tmp_path.rglob("escaped"))


def test_old_repositories_go_and_the_current_one_stays(repository: Path, store: Path) -> None:
    digests = []
    for number in range(4):
        (repository / "note.txt").write_text(str(number))
        digests.append(run(repository, store, keep=2).digest)
    assert staged(store) == sorted([*digests[2:], "current"])
    assert (store / "current").readlink().name == digests[3]


def test_a_killed_run_leaves_nothing_that_counts(repository: Path, store: Path) -> None:
    with (repository / "large.bin").open("wb") as file:
        file.truncate(2 << 30)
    process = subprocess.Popen(command(repository, store), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert eventually(lambda: list(store.glob(".staging-*/tree/*")), 60.0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert not (store / "current").exists()
    assert list(store.glob(".staging-*"))
    (repository / "large.bin").unlink()
    done = run(repository, store)
    assert staged(store) == [done.digest, "current"]


def test_two_at_once_do_the_work_once(repository: Path, store: Path) -> None:
    both = [subprocess.Popen(command(repository, store), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert sorted(report["copied"] for report in reports) == [False, True]
    assert len({report["digest"] for report in reports}) == 1


def test_a_full_disk_is_said_and_leaves_nothing(repository: Path, store: Path) -> None:
    store.mkdir()
    script = '"$@"; code=$?; ls -A "$0"; exit $code'
    wrapper = (*with_tmpfs(store, "1m"), "sh", "-c", script, str(store))
    (repository / "large.bin").write_bytes(os.urandom(2 << 20))
    done = subprocess.run(
        command(repository, store, wrapper=wrapper), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert done.stdout.split() == [".lock"]


def test_a_target_that_cannot_be_written_is_said(repository: Path, store: Path) -> None:
    store.mkdir()
    wrapper = (*with_tmpfs(store, "1m,ro"),)
    done = subprocess.run(
        command(repository, store, wrapper=wrapper), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 3
    assert "Read-only file system" in done.stderr


@pytest.mark.triton
def test_what_was_provisioned_is_served(archive: Path, store: Path) -> None:
    run(archive, store)
    with ServeProcess(store / "current") as serve:
        serve.phase("ready")
        serve.send(signal.SIGTERM)
        assert serve.wait() == 0
