"""Where a candidate comes from: folders, archives, OCI layouts, each also spoiled."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ops import oci_toys
from tests.ops.mounts import with_tmpfs
from tests.ops.oci_toys import blob_path, file_layers, packed, tagged, write_blob, write_index
from tests.ops.test_provision import served  # noqa: F401
from tests.ops.toys import write_manifest, write_pipeline, write_stage
from warmswap_ensemble.contract import FACE_SWAP
from warmswap_ops.errors import MachineError, OpsError, RepositoryError, UsageError
from warmswap_ops.provisioning.content import tree_digest
from warmswap_ops.provisioning.source import file_sha256
from warmswap_ops.rollout.sources.open_candidate import OpenedCandidate, open_candidate

STAGE = "face_detector"
Spoil = Callable[[Path], None]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A version folder, in the folder of its model."""
    return write_stage(tmp_path / "repository", STAGE)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    write_pipeline(tmp_path / "repository", FACE_SWAP.name)
    return tmp_path / "repository" / FACE_SWAP.name / "1"


@pytest.fixture
def archive(stage: Path, tmp_path: Path) -> Path:
    path = tmp_path / "candidate.tar.gz"
    path.write_bytes(packed(stage, "candidate"))
    return path


@pytest.fixture
def layout(stage: Path, tmp_path: Path) -> Path:
    """One artefact in the style of ORAS, tagged v2."""
    path = tmp_path / "layout"
    write_index(path, [tagged(oci_toys.write_manifest(path, file_layers(path, stage)), "v2")])
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def run(source: Path | str, work: Path, sha256: str | None = None) -> OpenedCandidate:
    return open_candidate(str(source), work, sha256=sha256, progress=lambda count: None)


def assert_refused(kind: type[OpsError], words: str, source: Path | str, work: Path, sha256: str | None = None) -> None:
    with pytest.raises(kind, match=words) as caught:
        run(source, work, sha256)
    assert "\n" not in str(caught.value)
    assert not work.exists() or not list(work.iterdir())


def rewrite(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def repush(layout: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of the only artefact, and the digest that leads to it."""
    descriptor = json.loads((layout / "index.json").read_text())["manifests"][0]
    manifest = json.loads(blob_path(layout, descriptor).read_text())
    change(manifest)
    write_index(layout, [write_blob(layout, json.dumps(manifest).encode(), oci_toys.MANIFEST_TYPE)])


# Folders.


def test_a_version_folder_is_copied(stage: Path, work: Path) -> None:
    counted: list[int] = []
    opened = open_candidate(str(stage), work, sha256=None, progress=counted.append)
    assert opened.digest == tree_digest(stage) == tree_digest(opened.folder)
    assert opened.folder.is_relative_to(work)
    assert opened.origin == str(stage)
    assert sum(counted) == sum(path.stat().st_size for path in stage.iterdir())
    (stage / "model.onnx").write_bytes(b"changed under us")
    assert tree_digest(opened.folder) == opened.digest


def test_the_folder_around_one_version_will_do(stage: Path, work: Path) -> None:
    opened = run(stage.parent, work)
    assert opened.digest == tree_digest(stage)
    assert opened.origin == str(stage)


def test_a_pipeline_needs_no_manifest(pipeline: Path, work: Path) -> None:
    for source in (pipeline, pipeline.parent):
        assert run(source, work).digest == tree_digest(pipeline)


def test_two_at_once_do_not_meet(stage: Path, work: Path) -> None:
    assert run(stage, work).folder != run(stage, work).folder


def test_links_are_copied_as_what_they_lead_to(stage: Path, work: Path, tmp_path: Path) -> None:
    (stage / "model.onnx").rename(tmp_path / "weights")
    (stage / "model.onnx").symlink_to(tmp_path / "weights")
    assert not (run(stage, work).folder / "model.onnx").is_symlink()


def test_the_folder_around_two_versions_is_refused(stage: Path, work: Path) -> None:
    write_stage(stage.parents[1] / "other", STAGE, version=2)
    shutil.move(stage.parents[1] / "other" / STAGE / "2", stage.parent / "2")
    assert_refused(RepositoryError, r"holds 2 versions \(1/manifest.json, 2/manifest.json\)", stage.parent, work)


def lose_manifest(stage: Path) -> None:
    (stage / "manifest.json").unlink()


def lose_graph(stage: Path) -> None:
    (stage / "model.onnx").unlink()


def lose_all(stage: Path) -> None:
    lose_manifest(stage)
    lose_graph(stage)


def spoil_graph(stage: Path) -> None:
    (stage / "model.onnx").write_bytes((stage / "model.onnx").read_bytes() + b"\0")


def spoil_manifest(stage: Path) -> None:
    (stage / "manifest.json").write_text("{")


def name_nothing(stage: Path) -> None:
    rewrite(stage / "manifest.json", lambda values: values.update(files={}))


def name_file_outside(stage: Path) -> None:
    (stage.parent / "secret").write_text("")
    rewrite(stage / "manifest.json", lambda values: values.update(files={"../secret": "0" * 64}))


SPOILED: list[tuple[Spoil, str]] = [
    (lose_manifest, "holds neither a manifest.json"),
    (lose_graph, "model.onnx: named in manifest.json but cannot be read"),
    (lose_all, "is empty"),
    (spoil_graph, "corrupt or replaced file"),
    (spoil_manifest, "manifest.json: cannot be read"),
    (name_nothing, "names no files"),
    (name_file_outside, r"names '\.\./secret', which leads out"),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILED)
def test_a_spoiled_version_is_refused_from_a_folder(stage: Path, work: Path, spoil: Spoil, words: str) -> None:
    spoil(stage)
    assert_refused(RepositoryError, words, stage, work)


@pytest.mark.parametrize(("spoil", "words"), SPOILED)
def test_a_spoiled_version_is_refused_from_an_archive(
    stage: Path, tmp_path: Path, work: Path, spoil: Spoil, words: str
) -> None:
    spoil(stage)
    path = tmp_path / "spoiled.tar"
    path.write_bytes(packed(stage, "candidate", "w"))
    assert_refused(RepositoryError, words, path, work)


def test_no_source_is_refused(tmp_path: Path, work: Path) -> None:
    assert_refused(RepositoryError, "no such folder or file", tmp_path / "missing", work)
    os.mkfifo(tmp_path / "fifo")
    assert_refused(RepositoryError, "no such folder or file", tmp_path / "fifo", work)


def test_another_sha256_is_refused(stage: Path, archive: Path, layout: Path, work: Path) -> None:
    for source in (stage, archive, layout):
        assert_refused(RepositoryError, f"not {'0' * 64}", source, work, "0" * 64)
    for sha256 in ("", "abc"):
        assert_refused(UsageError, "64 hexadecimal digits", stage, work, sha256)
    assert run(stage, work, tree_digest(stage).upper()).digest == tree_digest(stage)
    assert run(layout, work, tree_digest(stage)).digest == tree_digest(stage)


# Archives.


def test_an_archive_becomes_the_same_as_its_folder(stage: Path, archive: Path, work: Path) -> None:
    opened = run(archive, work, file_sha256(archive))
    assert opened.digest == tree_digest(stage) == tree_digest(opened.folder)
    assert opened.origin == f"{archive} (sha256 {file_sha256(archive)})"
    assert not list(work.rglob("archive"))


@pytest.mark.parametrize("suffix", ["", ":gz", ":bz2", ":xz"])
def test_every_compression_is_read(stage: Path, tmp_path: Path, work: Path, suffix: str) -> None:
    path = tmp_path / "candidate"
    path.write_bytes(packed(stage, "deep/down/here", f"w{suffix}"))
    assert run(path, work).digest == tree_digest(stage)


def test_a_url_is_fetched_and_its_password_is_not_logged(archive: Path, served: str, work: Path) -> None:  # noqa: F811
    opened = run(f"{served}?signature=secret", work, file_sha256(archive))
    assert opened.origin == f"{served} (sha256 {file_sha256(archive)})"
    assert_refused_url(served, archive, work)


def assert_refused_url(url: str, archive: Path, work: Path) -> None:
    shutil.rmtree(work)
    assert_refused(UsageError, "needs --sha256", url, work)
    assert_refused(RepositoryError, "another file, or a corrupt one", url, work, "0" * 64)
    archive.unlink()
    assert_refused(MachineError, "404", url, work, "0" * 64)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_archive_is_refused(archive: Path, work: Path, share: float) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * share)])
    assert_refused(RepositoryError, f"{archive} is (truncated|corrupt)", archive, work)


@pytest.mark.parametrize("suffix", [":gz", ":bz2", ":xz"])
def test_a_corrupt_archive_is_refused_though_nothing_in_it_has_a_sha256(
    pipeline: Path, tmp_path: Path, work: Path, suffix: str
) -> None:
    (pipeline / "table.bin").write_bytes(os.urandom(1 << 16))  # is stored as it is: any change of it unpacks
    path = tmp_path / "corrupt"
    content = bytearray(packed(pipeline, "1", f"w{suffix}"))
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert_refused(RepositoryError, "is (truncated|corrupt)", path, work)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../escaped", tarfile.REGTYPE), ("/escaped", tarfile.REGTYPE), ("escaped", tarfile.SYMTYPE)],
)
def test_an_archive_that_reaches_out_is_refused(tmp_path: Path, work: Path, name: str, kind: bytes) -> None:
    path = tmp_path / "evil.tar"
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member, io.BytesIO())
    assert_refused(RepositoryError, "leads out|link or a device", path, work)
    assert not list(tmp_path.rglob("escaped"))


def test_an_archive_with_a_name_that_no_file_has_is_refused(tmp_path: Path, work: Path) -> None:
    path = tmp_path / "evil.tar"
    member = tarfile.TarInfo("1/model.py")
    member.pax_headers = {"path": "1/model\0.py"}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO())
    assert_refused(RepositoryError, "null byte", path, work)


def test_an_archive_of_two_versions_is_refused(stage: Path, pipeline: Path, tmp_path: Path, work: Path) -> None:
    write_stage(tmp_path / "repository", "face_embedder")
    path = tmp_path / "two.tar"
    path.write_bytes(packed(tmp_path / "repository", "repository", "w"))
    assert_refused(RepositoryError, "holds 2 versions", path, work)


def test_a_version_within_a_version_is_refused_from_an_archive(stage: Path, tmp_path: Path, work: Path) -> None:
    shutil.copytree(stage, stage / "old")
    path = tmp_path / "nested.tar"
    path.write_bytes(packed(stage, ".", "w"))
    assert_refused(RepositoryError, r"holds 2 versions \(manifest.json, old/manifest.json\)", path, work)
    assert run(stage, work).digest == tree_digest(stage)  # of a folder the operator has said which


# OCI layouts.


def test_an_artefact_of_files_is_read(stage: Path, layout: Path, work: Path) -> None:
    digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    for source in (
        f"{layout}",
        f"oci:{layout}",
        f"oci:{layout}:v2",
        f"oci:{layout}@{digest}",
        f"oci:{layout}:v2@{digest}",
    ):
        opened = run(source, work)
        assert opened.digest == tree_digest(stage) == tree_digest(opened.folder)
        assert opened.origin == f"oci:{layout}{':v2' if ':v2' in source else ''}@{digest}"


def test_a_folder_with_a_colon_is_no_tag(layout: Path, work: Path, tmp_path: Path) -> None:
    (tmp_path / "a:b@c").mkdir()
    moved = shutil.move(layout, tmp_path / "a:b@c")
    assert run(f"oci:{moved}", work).origin.startswith(f"oci:{moved}@")
    assert run(f"oci:{moved}:v2", work).origin.startswith(f"oci:{moved}:v2@")


@pytest.mark.parametrize(
    ("media_type", "mode"), [(oci_toys.TAR_TYPE, "w"), (oci_toys.GZIP_TYPE, "w:gz"), ("application/x.tar.gzip", "w:gz")]
)
@pytest.mark.parametrize("annotations", [{}, {oci_toys.TITLE: "1", oci_toys.UNPACK: "true"}], ids=["image", "oras"])
def test_an_artefact_of_an_archive_is_read(
    stage: Path, tmp_path: Path, work: Path, media_type: str, mode: str, annotations: dict[str, str]
) -> None:
    layout = tmp_path / "layout"
    layer = write_blob(layout, packed(stage, "models/1", mode), media_type, annotations)
    write_index(layout, [oci_toys.write_manifest(layout, [layer])])
    opened = run(layout, work)
    assert opened.digest == tree_digest(stage)
    assert not list(work.rglob("layer"))


def test_files_below_folders_keep_their_place(stage: Path, tmp_path: Path, work: Path) -> None:
    layout = tmp_path / "layout"
    (stage / "weights").mkdir()
    (stage / "weights/part.bin").write_bytes(b"external data")
    write_index(layout, [oci_toys.write_manifest(layout, file_layers(layout, stage, "face_detector/1/"))])
    assert run(layout, work).digest == tree_digest(stage)


def test_the_tag_chooses(stage: Path, layout: Path, work: Path) -> None:
    old = json.loads((layout / "index.json").read_text())["manifests"][0]
    (stage / "note.txt").write_text("newer")
    new = tagged(oci_toys.write_manifest(layout, file_layers(layout, stage)), "v3")
    write_index(layout, [old, new])
    assert run(f"oci:{layout}:v3", work).digest == tree_digest(stage) != run(f"oci:{layout}:v2", work).digest
    shutil.rmtree(work)
    assert_refused(RepositoryError, "matches 2 artefacts; name one of: v2, v3", layout, work)
    assert_refused(RepositoryError, ":v4 is not in the layout; name one of: v2, v3", f"oci:{layout}:v4", work)
    assert_refused(RepositoryError, "is not in the layout", f"oci:{layout}:v2@{new['digest']}", work)
    write_index(layout, [new, tagged(new, "latest"), new | {"annotations": {}}])
    assert run(layout, work).digest == tree_digest(stage)  # three names of one artefact


@pytest.mark.parametrize(
    ("suffix", "kind", "words"),
    [
        (":", UsageError, "must be oci:DIR"),
        ("@sha512:" + "0" * 128, RepositoryError, "not supported"),
        ("@sha256:abc", RepositoryError, "64 hexadecimal digits"),
        ("/missing", RepositoryError, "no OCI image layout"),
        ("@sha256:" + "0" * 64, RepositoryError, "is not in the layout"),
    ],
)
def test_a_malformed_name_is_refused(layout: Path, work: Path, suffix: str, kind: type[OpsError], words: str) -> None:
    assert_refused(kind, words, f"oci:{layout}{suffix}", work)


def first_layer(layout: Path) -> Path:
    descriptor = json.loads((layout / "index.json").read_text())["manifests"][0]
    return blob_path(layout, json.loads(blob_path(layout, descriptor).read_text())["layers"][-1])


def the_manifest(layout: Path) -> Path:
    return blob_path(layout, json.loads((layout / "index.json").read_text())["manifests"][0])


@pytest.mark.parametrize("find", [first_layer, the_manifest])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b" "), "is too long"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"), "corrupt or replaced"),
    ],
)
def test_a_spoiled_blob_is_refused(
    layout: Path, work: Path, find: Callable[[Path], Path], spoil: Spoil, words: str
) -> None:
    spoil(find(layout))
    assert_refused(
        RepositoryError, f"the blob sha256:[0-9a-f]{{64}} (is|has) .*{words}|the blob .* {words}", layout, work
    )


def test_no_more_of_a_blob_is_read_than_was_said(layout: Path, work: Path) -> None:
    size = first_layer(layout).stat().st_size
    with first_layer(layout).open("r+b") as file:
        file.truncate(8 << 30)
    counted: list[int] = []
    with pytest.raises(RepositoryError, match="is too long"):
        open_candidate(str(layout), work, sha256=None, progress=counted.append)
    assert sum(counted) <= size + sum(
        path.stat().st_size for path in layout.rglob("*") if path.stat().st_size < 1 << 20
    )


def titled(title: str) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["layers"][0]["annotations"].update({oci_toys.TITLE: title})


def in_layer(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["layers"][0].update(fields)


def in_manifest(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest.update(fields)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (titled("../escaped"), "leads out"),
        (titled("/escaped"), "leads out"),
        (titled("a/../../escaped"), "leads out"),
        (titled(""), "leads out"),
        (titled("."), "leads out"),
        (titled("escaped\0"), "leads out"),
        (titled("model.onnx"), "two layers have the title"),
        (in_layer(annotations={}), "corrupt|truncated"),
        (in_layer(annotations={}, mediaType="application/json"), "is no tar or"),
        (in_layer(annotations={}, mediaType=f"{oci_toys.TAR_TYPE}+zstd"), "is no tar or"),
        (in_layer(annotations=[1]), "annotations"),
        (in_layer(digest="sha512:" + "0" * 128), "not supported"),
        (in_layer(digest="sha256:../../../etc/passwd"), "64 hexadecimal digits"),
        (in_layer(digest=None), "not supported"),
        (in_layer(size=-1), "size of .* must be a whole number"),
        (in_layer(size="9"), "size of .* must be a whole number"),
        (in_layer(mediaType=None), "mediaType of .* must be a text"),
        (in_manifest(schemaVersion=1), "schemaVersion must be 2, got 1"),
        (in_manifest(mediaType=oci_toys.INDEX_TYPE), "mediaType must be"),
        (in_manifest(layers=[]), "layers must be a list of at least one"),
        (in_manifest(layers=None), "layers must be a list of at least one"),
        (in_manifest(layers=["x"]), "must be a JSON object"),
    ],
)
def test_a_wrong_manifest_is_refused(
    layout: Path, work: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    repush(layout, change)
    assert_refused(RepositoryError, words, layout, work)
    assert not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("oci-layout", "{}", "imageLayoutVersion must be '1.0.0', got None"),
        ("oci-layout", '{"imageLayoutVersion": "2.0.0"}', "got '2.0.0'"),
        ("oci-layout", "[]", "must hold a JSON object"),
        ("index.json", "{", "is no JSON"),
        ("index.json", "[" * 100_000, "is no JSON"),
        ("index.json", '{"schemaVersion": 1, "manifests": []}', "schemaVersion must be 2"),
        ("index.json", '{"schemaVersion": 2}', "manifests must be a list"),
        ("index.json", '{"schemaVersion": 2, "manifests": []}', "the layout is empty"),
        ("index.json", " " * ((4 << 20) + 1), "is larger than"),
    ],
)
def test_a_wrong_layout_is_refused(layout: Path, work: Path, name: str, content: str, words: str) -> None:
    (layout / name).write_text(content)
    assert_refused(RepositoryError, words, layout, work)


def test_a_layout_without_an_index_is_refused(layout: Path, work: Path) -> None:
    (layout / "index.json").unlink()
    assert_refused(RepositoryError, "index.json is missing", layout, work)


def test_an_index_of_platforms_is_refused(layout: Path, work: Path) -> None:
    write_index(layout, [write_blob(layout, (layout / "index.json").read_bytes(), oci_toys.INDEX_TYPE)])
    assert_refused(RepositoryError, "several platforms", layout, work)


def test_a_manifest_too_large_is_not_read(layout: Path, work: Path) -> None:
    write_index(layout, [write_blob(layout, b" " * ((4 << 20) + 1), oci_toys.MANIFEST_TYPE)])
    assert_refused(RepositoryError, "4194305 bytes, more than 4194304", layout, work)


def test_an_archive_layer_that_reaches_out_or_deletes_is_refused(layout: Path, work: Path, tmp_path: Path) -> None:
    for name, words in (("../escaped", "leads out"), ("1/.wh.model.onnx", "deletes files")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        layer = write_blob(layout, gzip.compress(out.getvalue()), oci_toys.GZIP_TYPE)
        write_index(layout, [oci_toys.write_manifest(layout, [layer])])
        assert_refused(RepositoryError, words, layout, work)
    assert not list(tmp_path.rglob("escaped"))


def test_the_manifest_in_an_artefact_counts(stage: Path, tmp_path: Path, work: Path) -> None:
    spoil_graph(stage)
    layout = tmp_path / "layout"
    write_index(layout, [oci_toys.write_manifest(layout, file_layers(layout, stage))])
    assert_refused(RepositoryError, "corrupt or replaced file", layout, work)


# The machine.

OPEN = """
import sys
from pathlib import Path
from warmswap_ops.errors import OpsError
from warmswap_ops.rollout.sources.open_candidate import open_candidate
try:
    open_candidate(sys.argv[1], Path(sys.argv[2]), sha256=None, progress=lambda count: None)
except OpsError as error:
    print(f"{type(error).__name__}: {error}")
print(sorted(Path(sys.argv[2]).iterdir()))
"""


@pytest.mark.parametrize("kind", ["folder", "archive", "oci"])
def test_a_full_disk_is_said_and_leaves_nothing(stage: Path, tmp_path: Path, work: Path, kind: str) -> None:
    work.mkdir()
    (stage / "model.onnx").write_bytes(os.urandom(2 << 20))
    write_manifest(stage, STAGE)
    source = stage
    if kind == "archive":
        source = tmp_path / "large.tar"
        source.write_bytes(packed(stage, "1", "w"))
    elif kind == "oci":
        source = tmp_path / "layout"
        write_index(source, [oci_toys.write_manifest(source, file_layers(source, stage))])
    command = [*with_tmpfs(work, "1m"), sys.executable, "-c", OPEN, str(source), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("MachineError: cannot write into")
    assert "No space left" in done.stdout
    assert done.stdout.splitlines()[1:] == ["[]"]


def test_a_work_folder_that_cannot_be_made_is_said(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"cannot bring .* into .*Not a directory"):
        run(stage, tmp_path / "file" / "work")


def test_mlflow_is_named_where_it_is_not_installed(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_LOGGING_LEVEL", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "true")  # restored afterwards
    assert_refused(MachineError, "MLflow is not installed .*; install it: pip install", "models:/face_swapper/1", work)


@pytest.mark.parametrize(
    "source", ["models:/", "models:/a", "models:/a/latest", "models:/a/0", "models:/a@", "models:/a/1/b"]
)
def test_a_malformed_model_uri_is_refused(work: Path, source: str) -> None:
    assert_refused(UsageError, "must be models:/NAME/VERSION", source, work)
