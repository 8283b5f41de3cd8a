"""``warmswap lint`` at its edges: launch files, exit codes, and files that are no configurations."""

from __future__ import annotations

import json
import os
import random
from argparse import ArgumentParser
from pathlib import Path

import pytest

from tests.ops.lint_toys import (
    CPU,
    GPU,
    LAUNCH,
    PIPE,
    PIPELINE,
    Change,
    find,
    replace,
    rules_that_speak,
    write,
    write_good_repository,
)
from warmswap_ensemble.manifest import MANIFEST_NAME
from warmswap_ops.commands import lint as command
from warmswap_ops.errors import EXIT_FINDINGS, RepositoryError, UsageError
from warmswap_ops.lint import lint, read_versions
from warmswap_ops.lint_config import MAX_TEXT_BYTES, read_config_on_disk
from warmswap_ops.lint_rules import RULES

OWN_REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_good_repository(tmp_path / "repository")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("exec tritonserver --model-store /m --load-model face_analysis --model-control-mode explicit", 1),
        ("web: tritonserver --model-control-mode=explicit --load-model='*'", 1),
        ('CMD ["tritonserver", "--model-control-mode=explicit", \\\n "--load-model", "face_analysis"]', 2),
        ("args:\n- --model-control-mode=explicit\n- --load-model\n- face_analysis\n", 3),
        ("#!/bin/sh\n# starts it\n/opt/tritonserver/bin/tritonserver --model-repository=/models\n", 3),
        ("tritonserver --model-repository=/models --model-control-mode=explicit", None),
        ("tritonserver --model-repository=/models --model-control-mode=poll", 1),
    ],
)
def test_launch_files_of_every_kind(repository: Path, text: str, line: int | None) -> None:
    (repository / LAUNCH).write_text(text)
    found = find(repository)
    assert {finding.rule for finding in found} == ({"pipelines_are_loaded_after_the_start"} if line else set())
    assert [finding.line for finding in found] == ([line] if line else [])


def test_what_looks_like_a_pipeline_is_one(repository: Path) -> None:
    (repository / "face_analysis").rename(repository / "chain")
    replace("chain/config.pbtxt", '"face_analysis"', '"chain"')(repository)
    (repository / LAUNCH).write_text("tritonserver --model-repository=/m")
    assert rules_that_speak(repository) == set()
    (repository / "chain/1/model.py").write_text("pb_utils.InferenceRequest(model_name='x')")
    assert rules_that_speak(repository) == {"pipelines_are_loaded_after_the_start"}


def test_own_repository_is_clean() -> None:
    """Bytecode is what Triton's stub leaves there; it is a warning, so also a repository that was served passes."""
    found = lint(read_versions(OWN_REPOSITORY, "commercial"), RULES)
    assert [finding for finding in found if finding.rule != "bytecode_is_not_in_versions"] == []
    assert run("--repository", str(OWN_REPOSITORY)) == 0


def run(*arguments: str) -> int:
    parser = ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def test_exit_code_counts_errors_and_warnings_only_if_strict(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ("--repository", str(repository))
    assert run(*at, "--strict") == 0
    replace(CPU, "    count: 1\n", "    count: 2\n")(repository)
    assert run(*at) == 0
    capsys.readouterr()
    assert run(*at, "--strict") == EXIT_FINDINGS
    place = f"{repository / CPU}:14: warning: 2 instances"
    assert any(line.startswith(place) for line in capsys.readouterr().out.splitlines())
    replace(CPU, "model_warmup", "model_warmups")(repository)
    assert run(*at, "--json") == EXIT_FINDINGS
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert (finding["rule"], finding["line"], finding["severity"]) == ("config_can_be_read", 21, "error")
    assert run(*at, "--rule", "threads_are_limited", "--rule", "models_are_warmed") == 0
    with pytest.raises(UsageError, match="no rule misspelt"):
        run(*at, "--rule", "misspelt")


def test_rules_can_be_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list-rules") == 0
    assert "conv_search_is_heuristic: On a GPU" in capsys.readouterr().out
    assert run("--list-rules", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["rules"]) == len(RULES)


def config_as_folder(repository: Path) -> None:
    (repository / CPU).unlink()
    (repository / CPU).mkdir()


def config_as_pipe(repository: Path) -> None:
    (repository / CPU).unlink()
    os.mkfifo(repository / CPU)


def config_as_broken_link(repository: Path) -> None:
    (repository / GPU).unlink()
    (repository / GPU).symlink_to("nowhere")


def huge_config(repository: Path) -> None:
    with (repository / CPU).open("ab") as file:
        file.truncate(8 * MAX_TEXT_BYTES)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (config_as_folder, "not a regular file"),
        (config_as_pipe, "not a regular file"),
        (config_as_broken_link, "No such file"),
        (huge_config, "are not read"),
        (write(CPU, random.Random(1).randbytes(4096)), "UTF-8"),
        (write(CPU, b"\x00\x01\x02"), r"\x00"),
        (write(CPU, b"input " + b"{" * 100_000), "Expected"),
        (write(CPU, b"name: " + b'"\\' * 100_000), "name:"),
    ],
)
def test_what_is_no_configuration_is_one_finding(repository: Path, change: Change, text: str) -> None:
    change(repository)
    (finding,) = find(repository)
    assert finding.rule == "config_can_be_read"
    assert text in finding.what
    assert len(finding.what) < 400
    assert finding.what.isprintable()


def test_empty_configuration_lacks_what_a_model_needs(repository: Path) -> None:
    (repository / PIPE).write_bytes(b"")
    expected = {"inputs_and_outputs_are_written", "instance_count_is_explicit", "models_are_warmed"}
    assert expected <= rules_that_speak(repository)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("x" * 300, "File name too long"),
        (r"\000", "which is not there"),
        ("../config.pbtxt/x", "which is not there"),
        (".", "which is not there"),
    ],
)
def test_odd_file_names_are_findings(repository: Path, name: str, what: str) -> None:
    replace(CPU, "crop.raw", name)(repository)
    (finding,) = find(repository)
    assert (finding.rule, what in finding.what) == ("warmup_files_are_complete", True)
    replace(CPU, "# The good one.", f'default_model_filename: "{name}"')(repository)
    assert "versions_hold_their_model" in rules_that_speak(repository) or name == "."


@pytest.mark.parametrize(("data", "reason"), [(b"[" * 100_000, "cannot be read"), (bytes(2 * MAX_TEXT_BYTES), "bytes")])
def test_manifest_that_is_none_is_one_finding(repository: Path, data: bytes, reason: str) -> None:
    (repository / "face_embedder/1" / MANIFEST_NAME).write_bytes(data)
    (finding,) = find(repository)
    assert (finding.rule, reason in finding.what) == ("manifest_is_readable", True)


def test_folder_that_cannot_be_listed_is_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> list[Path]:
        raise PermissionError(13, "Permission denied", "/models/private")

    monkeypatch.setattr("warmswap_ops.lint.version_dirs", refuse)
    with pytest.raises(RepositoryError, match="/models/private cannot be listed: Permission denied"):
        find(repository)


def test_damaged_bytes_never_break_it(repository: Path) -> None:
    """A byte of a real configuration changed, lost or doubled: findings or none, in bounded time, no traceback."""
    chance = random.Random(20)
    originals = [path.read_bytes() for path in sorted(OWN_REPOSITORY.glob("*/**/*.pbtxt"))] + [PIPELINE.encode()]
    unread = 0
    rules = [rule for rule in RULES if rule.__name__ != "files_are_those_of_the_manifest"]
    for _ in range(400):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 2)] = chance.choice(
                [b"", b"{", b"}", b'"', b"-", b"<", chance.randbytes(2)]
            )
        (repository / CPU).write_bytes(data)
        config = read_config_on_disk(repository / CPU, "face_embedder")
        unread += config.problem is not None
        for finding in lint(read_versions(repository, "any"), rules):
            assert finding.what
            assert finding.line is None or 1 <= finding.line <= data.count(b"\n") + 1
    assert 100 < unread < 400


def test_lines_of_every_way_to_write_a_field(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text(
        "# input { }\n"
        "instance_group <\n"
        "  count: 1\n"
        ">\n"
        "instance_group: [ { count: 2 },\n"
        '  { name: "a" "b"\n'
        "    gpus: [ 0,\n"
        "            1 ] } ]\n"
        'parameters { value { string_value: "}" }\n'
        '  key: "late" }\n'
    )
    config = read_config_on_disk(path, "any")
    assert config.problem is None
    assert [config.line(("instance_group", index), "count") for index in range(3)] == [3, 5, 6]
    assert config.line(("instance_group", 2), ("gpus", 1)) == 8
    assert config.line(("parameters", "late")) == 9
    assert config.line("model_warmup") is None
