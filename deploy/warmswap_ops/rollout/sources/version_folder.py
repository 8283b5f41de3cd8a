"""Find the one version folder in a tree of files, and hold it against its manifest."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

from warmswap_ensemble.manifest import MANIFEST_NAME, ManifestError, read_manifest, verify_files
from warmswap_ops.errors import RepositoryError

PIPELINE_CODE: Final = "model.py"


def find_version_folder(tree: Path, source: str, *, anywhere: bool) -> Path:
    """Return the folder with a ``manifest.json``, or where there is none, the one with a ``model.py``.

    Args:
        tree: Folder to look in.
        source: What messages call it.
        anywhere: Look at every depth, and want exactly one in all of them. Otherwise the folder itself wins, and else
            exactly one of those directly in it must be a version.

    Raises:
        RepositoryError: there is no such folder, or more than one.
    """
    if not anywhere and any((tree / name).is_file() for name in (MANIFEST_NAME, PIPELINE_CODE)):
        return tree
    if not any(path.is_file() for path in tree.rglob("*")):
        raise RepositoryError(f"{source} is empty; a candidate holds a {MANIFEST_NAME} and the files that it names")
    for name in (MANIFEST_NAME, PIPELINE_CODE):
        pattern = f"**/{name}" if anywhere else f"*/{name}"
        folders = sorted(path.parent for path in tree.glob(pattern) if path.is_file())
        if len(folders) == 1:
            return folders[0]
        if folders:
            named = ", ".join(f"{folder.relative_to(tree) / name}" for folder in folders[:3])
            raise RepositoryError(
                f"{source} holds {len(folders)} versions ({named}{', ...' if len(folders) > 3 else ''}); "
                "a candidate is one version of one model, so name its folder"
            )
    raise RepositoryError(
        f"{source} holds neither a {MANIFEST_NAME} (of a stage) nor a {PIPELINE_CODE} (of a pipeline); "
        "export the model again, or name the version folder itself"
    )


def check_version_folder(folder: Path, source: str) -> None:
    """Refuse a version whose files are not those that its manifest names; a pipeline may come without a manifest.

    Raises:
        RepositoryError: the manifest is missing or wrong, names nothing, or a file is missing or differs.
    """
    is_pipeline = (folder / PIPELINE_CODE).is_file()
    if is_pipeline and not (folder / MANIFEST_NAME).exists():
        return
    try:
        manifest = read_manifest(folder)
        for name in manifest.files | manifest.compiled_files:
            if leads_out(name):
                raise ManifestError(folder / MANIFEST_NAME, f"names {name!r}, which leads out of the version folder")
        verify_files(folder, manifest)
    except ManifestError as error:
        raise RepositoryError(f"{source}: {error.path.name}: {error.reason}") from error
    if not manifest.files and not is_pipeline:
        raise RepositoryError(f"{source}: {MANIFEST_NAME} names no files; export the model again")


def leads_out(name: str) -> bool:
    """Whether a name from elsewhere is no path below the folder that it is to be put into."""
    path = PurePosixPath(name)
    return not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name
