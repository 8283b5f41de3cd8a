"""``residency.toml``: what is read, and the one sentence for each way to get it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ops.toys import STAGE_NAMES, write_repository, write_stage
from warmswap_ops.errors import UsageError
from warmswap_ops.residency.memory import Budget
from warmswap_ops.residency.planning import ResidencyPlan, plan_residency
from warmswap_ops.residency.policy import POLICY_NAME, ModelPolicy, Policy, parse_policy
from warmswap_ops.residency.state import ModelRecord

MODELS = ("face_detector", "face_embedder", "face_swapper", "face_swapper_512", "face_analysis", "face_swap")
KNOWN = ", ".join(MODELS)


def parse(text: str) -> Policy:
    return parse_policy(text, "the file", MODELS)


def plan(repository: Path, text: str | None = None, preload: tuple[str, ...] | None = None) -> ResidencyPlan:
    if text is not None:
        (repository / POLICY_NAME).write_text(text)
    return plan_residency(
        repository,
        STAGE_NAMES,
        ("face_analysis", "face_swap"),
        given=None,
        preload=preload,
        environ={},
        config_name=None,
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_stage(write_repository(tmp_path / "repository"), "face_swapper_512")
    return tmp_path / "repository"


def test_without_a_word_variants_come_on_demand_and_the_rest_is_resident() -> None:
    policy = parse("")
    assert policy.on_demand == ["face_swapper_512"]
    assert policy.at_start() == [name for name in MODELS if name != "face_swapper_512"]
    assert (policy.memory_budget_mb, policy.preload_models, policy.warmup_requests) == (None, None, None)


def test_everything_that_can_be_said() -> None:
    policy = parse(
        """
        memory_budget_mb = 1500
        preload_models = ["face_analysis"]
        warmup_requests = 3
        [models.face_swapper_512]
        residency = "on_demand"
        idle_s = 2.5
        priority = -1
        memory_mb = 150
        [models.face_swapper]
        residency = "on_demand"
        [models.face_detector]
        memory_mb = 250.5
        """
    )
    assert policy.models["face_swapper_512"] == ModelPolicy(on_demand=True, idle_s=2.5, priority=-1, memory_mb=150.0)
    assert policy.models["face_detector"] == ModelPolicy(memory_mb=250.5)
    assert policy.on_demand == ["face_swapper", "face_swapper_512"]
    assert policy.at_start() == ["face_detector", "face_embedder", "face_analysis"]
    assert (policy.memory_budget_mb, policy.warmup_requests) == (1500.0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("memory_budget_mb = ", "the file is not TOML: ", id="toml"),
        pytest.param(
            "memory_budget = 1",
            "the file: unknown key 'memory_budget' (did you mean memory_budget_mb?); known are memory_budget_mb, "
            "preload_models, warmup_requests, models",
            id="key",
        ),
        pytest.param(
            "memory_budget_gb = 1", "unknown key 'memory_budget_gb' (did you mean memory_budget_mb?)", id="gb"
        ),
        pytest.param(
            'memory_budget_mb = "1 GB"',
            "the file: memory_budget_mb must be a number of megabytes above 0, without unit or quotes, got '1 GB'",
            id="unit",
        ),
        pytest.param("memory_budget_mb = 0", "memory_budget_mb must be a number of megabytes above 0", id="zero"),
        pytest.param("memory_budget_mb = true", "memory_budget_mb must be a number", id="bool"),
        pytest.param("memory_budget_mb = inf", "memory_budget_mb must be a number", id="inf"),
        pytest.param("memory_budget_mb = nan", "memory_budget_mb must be a number", id="nan"),
        pytest.param(
            "[models.face_swaper_512]",
            f"the file: [models]: unknown model 'face_swaper_512' (did you mean face_swapper_512?); known are {KNOWN}",
            id="model",
        ),
        pytest.param(
            "[models.face_landmarker]",
            f"unknown model 'face_landmarker'; the repository has no such folder; known are {KNOWN}",
            id="absent",
        ),
        pytest.param("models = 3", "the file: models must be tables [models.<name>], got 3", id="no table"),
        pytest.param("[models]\nface_swapper = 3", "[models.face_swapper] must be a table, got 3", id="no sub-table"),
        pytest.param(
            "[models.face_swapper_512]\nidle_ms = 5",
            "the file: [models.face_swapper_512]: unknown key 'idle_ms' (did you mean idle_s?); known are residency, "
            "idle_s, priority, memory_mb",
            id="model key",
        ),
        pytest.param(
            '[models.face_swapper_512]\nresidency = "ondemand"',
            'the file: [models.face_swapper_512]: residency must be "resident" or "on_demand", got \'ondemand\'',
            id="residency",
        ),
        pytest.param(
            '[models.face_swapper_512]\nidle_s = "300s"',
            "idle_s must be a number of seconds above 0, without unit or quotes, got '300s'",
            id="idle unit",
        ),
        pytest.param("[models.face_swapper_512]\nidle_s = -1", "idle_s must be a number of seconds above 0", id="idle"),
        pytest.param(
            "[models.face_swapper_512]\npriority = 1.5", "priority must be a whole number, got 1.5", id="prio"
        ),
        pytest.param("[models.face_swapper_512]\nmemory_mb = []", "memory_mb must be a number of megabytes", id="list"),
        pytest.param(
            "[models.face_detector]\nidle_s = 5",
            'the file: [models.face_detector]: idle_s is only for residency = "on_demand"; a resident model stays',
            id="idle resident",
        ),
        pytest.param(
            '[models.face_swap]\nresidency = "on_demand"',
            "the file: [models.face_swap]: a pipeline cannot be on_demand: requests are addressed to it, and Triton "
            "refuses them before anything could load it. Leave it out with preload_models = [...]",
            id="pipeline",
        ),
        pytest.param(
            'preload_models = "face_swap"', 'must be a list of names such as ["face_swap"]', id="preload text"
        ),
        pytest.param("preload_models = []", "the file: preload_models names no model; name some of", id="preload none"),
        pytest.param(
            'preload_models = ["face_analyse"]',
            "the file: preload_models: unknown model 'face_analyse' (did you mean face_analysis?); known are",
            id="preload typo",
        ),
        pytest.param("warmup_requests = 0", "warmup_requests must be a whole number from 1, got 0", id="warm-up"),
        pytest.param(
            "warmup_requests = 1.0", "warmup_requests must be a whole number from 1, got 1.0", id="warm-up type"
        ),
    ],
)
def test_what_is_not_understood_is_refused_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert message in str(caught.value)
    assert str(caught.value).startswith("the file")
    assert "\n" not in str(caught.value)


def test_a_policy_file_that_cannot_be_read_is_named(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no\.toml cannot be read: .*No such file"):
        plan_residency(
            repository, STAGE_NAMES, (), given=tmp_path / "no.toml", preload=None, environ={}, config_name=None
        )


def test_the_file_is_the_given_one_else_the_environments_else_the_repositorys(repository: Path, tmp_path: Path) -> None:
    budgets = {"own": 1001, "variable": 1002, "given": 1003}
    files = {name: tmp_path / f"{name}.toml" for name in budgets} | {"own": repository / POLICY_NAME}
    for name, budget in budgets.items():
        files[name].write_text(f"memory_budget_mb = {budget}")
    environ = {"WARMSWAP_RESIDENCY": str(files["variable"])}

    def budget_of(given: Path | None, environ: dict[str, str]) -> float | None:
        made = plan_residency(repository, STAGE_NAMES, (), given=given, preload=None, environ=environ, config_name=None)
        return made.policy.memory_budget_mb

    assert budget_of(files["given"], environ) == 1003
    assert budget_of(None, environ) == 1002
    assert budget_of(None, {}) == 1001


def test_preloading_a_pipeline_loads_the_stages_that_it_calls_and_no_more(repository: Path) -> None:
    everything = plan(repository)
    assert everything.stages == STAGE_NAMES
    assert everything.pipelines == ("face_analysis", "face_swap")
    assert [version.model for version in everything.later] == ["face_swapper_512"]

    analysis = plan(repository, preload=("face_analysis",))
    assert (analysis.stages, analysis.pipelines) == (("face_detector", "face_embedder"), ("face_analysis",))

    asked_for = plan(repository, 'preload_models = ["face_analysis", "face_swapper_512"]')
    assert asked_for.stages == ("face_detector", "face_embedder", "face_swapper_512")

    with pytest.raises(UsageError, match=r"--preload: unknown model 'face_swp' \(did you mean face_swap"):
        plan(repository, preload=("face_swp",))


def test_a_budget_too_small_for_what_is_loaded_at_the_start_is_refused_with_the_arithmetic(repository: Path) -> None:
    declared = "".join(f"[models.{name}]\nmemory_mb = 100\n" for name in (*STAGE_NAMES, "face_analysis", "face_swap"))
    with pytest.raises(UsageError) as caught:
        plan(repository, "memory_budget_mb = 644\n" + declared)
    assert (
        "tritonserver 45 + face_detector 100 + face_landmarker 100 + face_embedder 100 + face_swapper 100 + "
        "face_analysis 100 + face_swap 100 = 645 MB > memory_budget_mb = 644"
    ) in str(caught.value)
    assert plan(repository, "memory_budget_mb = 645\n" + declared).policy.memory_budget_mb == 645


def test_estimates_grow_with_files_and_instances(repository: Path) -> None:
    small = plan(repository).estimates_mb["face_swapper_512"]
    (repository / "face_swapper_512/1/model.onnx").write_bytes(b"\0" * 10_000_000)
    large = plan(repository).estimates_mb["face_swapper_512"]
    assert large > small + 10
    config = repository / "face_swapper_512/config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 3"))
    assert plan(repository).estimates_mb["face_swapper_512"] == pytest.approx(3 * large)


def test_of_a_compiled_repository_only_what_is_served_is_counted(repository: Path) -> None:
    folder, config = repository / "face_swapper_512/1", repository / "face_swapper_512/config.pbtxt"
    exported = plan(repository)
    for name in ("model.compiled.onnx", "model.compiled.onnx.data"):
        (folder / name).write_bytes(b"\0" * 3_000_000)
    assert plan(repository).estimates_mb == exported.estimates_mb
    config.write_text(config.read_text() + 'default_model_filename: "model.compiled.onnx"')
    assert plan(repository).file_mb["face_swapper_512"] == 6.0


def test_a_broken_variant_is_a_warning_unless_it_must_be_loaded(repository: Path) -> None:
    (repository / "face_swapper_512/1/manifest.json").write_text("{}")
    (warning,) = plan(repository).warnings
    assert warning.startswith("face_swapper_512 cannot be served: model face_swapper_512: ")
    assert "manifest.json" in warning
    assert plan(repository, '[models.face_swapper_512]\nresidency = "resident"').stages[-1] == "face_swapper_512"


def test_a_budget_says_whether_it_is_kept() -> None:
    assert str(Budget({"a": 1.4, "b": 2.4}, 4)) == "a 1 + b 2 = 4 MB <= memory_budget_mb = 4"
    assert Budget({"a": 1e9}, None).fits


@pytest.mark.parametrize("waiting", [0, 1], ids=["nobody waits", "somebody waits"])
def test_a_new_server_still_owes_a_model_to_those_who_wait_for_it(waiting: int) -> None:
    model = ModelRecord("face_swapper_512", ModelPolicy(on_demand=True), 1.0, wanted=True, waiting=waiting)
    model.server_is_new()
    assert model.wanted is bool(waiting)
