"""``warmswap lint`` and the rule of identities, on toy repositories."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.ops.toys import PIPELINE_NAMES, STAGE_NAMES, write_repository, write_stage
from warmswap_ensemble.manifest import MANIFEST_NAME
from warmswap_ops.commands import lint as command
from warmswap_ops.errors import EXIT_FINDINGS, RepositoryError, UsageError
from warmswap_ops.finding import Finding
from warmswap_ops.lint import RepositoryOnDisk, lint, read_versions
from warmswap_ops.lint_rules.identity_rules import RULES
from warmswap_ops.matching import check_pipelines

ARCFACE = {"embedding_space": "arcface", "embedding_length": 512}
DLIB = {"embedding_space": "dlib", "embedding_length": 128}
WANTS_ARCFACE = {"identity": ["source_embedding"], **ARCFACE}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository without findings."""
    folder = write_repository(tmp_path / "repository")
    change(folder / "face_embedder/1", settings=DLIB)
    return folder


def change(folder: Path, **values: Any) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def add_version(repository: Path, model: str, version: int, **values: Any) -> None:
    write_stage(repository, model, version=version)
    change(repository / model / str(version), **values)


def pin(repository: Path, stage: str, version: int, config: str = "config.pbtxt") -> None:
    path = repository / "face_swap" / config
    with path.open("a") as file:
        file.write(f'\nparameters {{ key: "stage_version.{stage}" value: {{ string_value: "{version}" }} }}\n')


def findings(repository: Path, policy: str = "any") -> list[tuple[str, str]]:
    found = lint(read_versions(repository, policy), RULES)
    return [(finding.rule, str(finding.file.relative_to(repository))) for finding in found]


def run(*arguments: str) -> int:
    parser = ArgumentParser()
    command.add_arguments(parser)
    of_identity = (argument for rule in RULES for argument in ("--rule", rule.__name__))
    return command.run(parser.parse_args([*arguments, *of_identity]))


def test_clean_repository_has_no_findings(repository: Path) -> None:
    assert findings(repository) == findings(repository, "commercial") == []
    check_pipelines(repository, PIPELINE_NAMES)


def test_empty_folder_has_neither_versions_nor_findings(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert read_versions(tmp_path / "empty", "any").versions == ()
    assert findings(tmp_path / "empty") == []


def remove_manifest(repository: Path) -> None:
    (repository / "face_detector/1" / MANIFEST_NAME).unlink()


def cut_manifest(repository: Path) -> None:
    (repository / "face_detector/1" / MANIFEST_NAME).write_text("{")


def mistype_field(repository: Path) -> None:
    change(repository / "face_detector/1", commercial_use="yes")


def borrow_manifest(repository: Path) -> None:
    change(repository / "face_detector/1", model="face_embedder")


def cut_manifest_of_a_pipeline(repository: Path) -> None:
    (repository / "face_swap/1" / MANIFEST_NAME).write_text("{")


def replace_graph(repository: Path) -> None:
    (repository / "face_detector/1/model.onnx").write_bytes(b"another")


def replace_graph_that_is_not_served(repository: Path) -> None:
    add_version(repository, "face_detector", 7)
    replace_graph(repository)


def forget_identity(repository: Path) -> None:
    change(repository / "face_swapper/1", settings={})


def forget_space(repository: Path) -> None:
    change(repository / "face_embedder/1", settings={})


def want_what_nobody_makes(repository: Path) -> None:
    change(repository / "face_swapper/1", settings=WANTS_ARCFACE)


def want_what_nobody_makes_without_serving_it(repository: Path) -> None:
    add_version(repository, "face_swapper", 2)
    want_what_nobody_makes(repository)


def add_a_pair_and_a_newer_embedder(repository: Path) -> None:
    add_version(repository, "face_swapper", 2, settings=WANTS_ARCFACE)
    add_version(repository, "face_embedder", 2, settings=ARCFACE)
    add_version(repository, "face_embedder", 3, settings=DLIB)


MANIFEST_1 = f"face_detector/1/{MANIFEST_NAME}"
FAULTS: list[tuple[Callable[[Path], None], list[tuple[str, str]]]] = [
    (remove_manifest, [("manifest_is_readable", MANIFEST_1)]),
    (cut_manifest, [("manifest_is_readable", MANIFEST_1)]),
    (mistype_field, [("manifest_is_readable", MANIFEST_1)]),
    (borrow_manifest, [("manifest_is_readable", MANIFEST_1)]),
    (cut_manifest_of_a_pipeline, [("manifest_is_readable", f"face_swap/1/{MANIFEST_NAME}")]),
    (replace_graph, [("files_are_those_of_the_manifest", "face_detector/1/model.onnx")]),
    (replace_graph_that_is_not_served, [("files_are_those_of_the_manifest", "face_detector/1/model.onnx")]),
    (forget_identity, [("identity_is_declared", f"face_swapper/1/{MANIFEST_NAME}")]),
    (forget_space, [("identity_is_declared", f"face_embedder/1/{MANIFEST_NAME}")]),
    (want_what_nobody_makes, [("swapper_has_an_embedder", f"face_swapper/1/{MANIFEST_NAME}")]),
    (
        want_what_nobody_makes_without_serving_it,
        [("swapper_has_an_embedder", f"face_swapper/1/{MANIFEST_NAME}")],
    ),
    (add_a_pair_and_a_newer_embedder, [("pipeline_chooses_a_matching_pair", "face_swap/config.pbtxt")]),
]


@pytest.mark.parametrize(("spoil", "expected"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_each_rule_finds_its_fault_and_no_other_speaks(
    repository: Path, spoil: Callable[[Path], None], expected: list[tuple[str, str]]
) -> None:
    spoil(repository)
    found = lint(read_versions(repository, "any"), RULES)
    assert [(finding.rule, str(finding.file.relative_to(repository))) for finding in found] == expected
    assert all(finding.what and finding.why and finding.fix for finding in found)


def test_every_rule_is_tested() -> None:
    assert {rule.__name__ for rule in RULES} == {rule for _, expected in FAULTS for rule, _ in expected} | {
        "licence_fits_the_policy"
    }


def test_each_configuration_of_the_pipeline_is_looked_at(repository: Path) -> None:
    add_a_pair_and_a_newer_embedder(repository)
    pin(repository, "face_embedder", 2)
    assert findings(repository) == []
    (repository / "face_swap/configs").mkdir()
    (repository / "face_swap/configs/gpu.pbtxt").write_text('backend: "python"')
    assert findings(repository) == [("pipeline_chooses_a_matching_pair", "face_swap/configs/gpu.pbtxt")]
    pin(repository, "face_swapper", 1, "configs/gpu.pbtxt")
    assert findings(repository) == []


@pytest.mark.parametrize(("allowed", "word"), [(False, "forbidden"), ("unknown", "unknown"), (None, "unknown")])
def test_licences_are_findings_under_the_policy_commercial_only(repository: Path, allowed: object, word: str) -> None:
    add_version(repository, "face_swapper", 2)
    change(repository / "face_swapper/1", commercial_use=allowed, licence_note="Ask the author.")
    assert findings(repository) == []
    (finding,) = lint(read_versions(repository, "commercial"), RULES)
    assert finding.file == repository / "face_swapper/1" / MANIFEST_NAME
    assert word in finding.what
    assert "Ask the author." in finding.what
    assert "get a licence" in finding.fix


def test_rules_are_run_in_order_and_named() -> None:
    def first(repository: RepositoryOnDisk) -> list[Finding]:
        return [Finding(repository.folder, "a", "b"), Finding(repository.folder, "c", "d")]

    def second(_: RepositoryOnDisk) -> list[Finding]:
        return []

    found = lint(RepositoryOnDisk(Path("x"), (), "any"), [second, first])
    assert [(finding.rule, finding.what) for finding in found] == [("first", "a"), ("first", "c")]


def test_json_lists_every_version_and_the_findings(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_version(
        repository,
        "face_swapper",
        2,
        settings=WANTS_ARCFACE,
        commercial_use="unknown",
        licence_note="Ask.",
        twin_seed=3,
        precision="fp16",
    )
    assert run("--repository", str(repository), "--json") == EXIT_FINDINGS == 9
    report = json.loads(capsys.readouterr().out)
    assert (report["repository"], report["policy"]) == (str(repository), "any")
    by_version = {(version["model"], version["version"]): version for version in report["versions"]}
    assert by_version.keys() == {(model, 1) for model in (*STAGE_NAMES, *PIPELINE_NAMES)} | {("face_swapper", 2)}
    assert by_version["face_swapper", 2] == {
        "model": "face_swapper",
        "version": 2,
        "name": "toy",
        "licence": "MIT",
        "commercial_use": "unknown",
        "licence_note": "Ask.",
        "twin_seed": 3,
        "precision": "fp16",
        "embedding_space": "arcface",
    }
    assert by_version["face_embedder", 1]["embedding_space"] == "dlib"
    assert by_version["face_swap", 1]["licence"] is None
    assert [set(finding) for finding in report["findings"]] == [
        {"rule", "severity", "file", "line", "what", "why", "fix"}
    ]


def test_text_is_a_table_and_three_lines_per_finding(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_version(repository, "face_swapper", 2, twin_seed=3, commercial_use=False)
    assert run("--repository", str(repository)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "model"
    assert [line.split() for line in lines if line.startswith("face_swapper")] == [
        ["face_swapper", "1", "toy", "MIT", "yes", "-", "fp32", "-"],
        ["face_swapper", "2", "toy", "MIT", "no", "seed", "3", "fp32", "-"],
    ]
    assert lines[-1] == "0 findings"
    assert run("--repository", str(repository), "--policy", "commercial") == EXIT_FINDINGS
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4] == "1 finding"
    place = f"{repository}/face_swapper/2/{MANIFEST_NAME}"
    assert lines[-3].startswith(f"{place}: error: face_swapper 2, toy, licence MIT, commercial use forbidden")
    assert lines[-3].endswith("(licence_fits_the_policy)")
    assert lines[-2].startswith("  why: ")
    assert lines[-1].startswith("  fix: remove the version")


def test_what_cannot_be_linted_is_an_error(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RepositoryError, match="is not a folder"):
        run("--repository", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="--policy must be"):
        run("--repository", str(repository), "--policy", "free")
    monkeypatch.setenv("WARMSWAP_POLICY", "free")
    with pytest.raises(UsageError, match=r"\$WARMSWAP_POLICY must be"):
        run("--repository", str(repository))


def test_pipeline_with_a_wrong_pair_is_refused_before_the_start(repository: Path) -> None:
    add_a_pair_and_a_newer_embedder(repository)
    with pytest.raises(RepositoryError, match=r"^model face_swap: face_swapper 2 wants .* but face_embedder 3 makes"):
        check_pipelines(repository, PIPELINE_NAMES)
    check_pipelines(repository, ["face_analysis"])
    pin(repository, "face_embedder", 2)
    check_pipelines(repository, PIPELINE_NAMES)


@pytest.mark.parametrize("pinned", [99, "latest", ""])
def test_pin_to_nothing_is_left_to_the_pipeline(repository: Path, pinned: Any) -> None:
    want_what_nobody_makes(repository)
    pin(repository, "face_embedder", pinned)
    check_pipelines(repository, PIPELINE_NAMES)
