from __future__ import annotations

from typing import Any

import pytest

from tests.ensemble.support import make_stage
from warmswap_ensemble.contract import FACE_SWAPPER
from warmswap_ensemble.identity import (
    IDENTITY_INPUTS,
    EmbeddingSpace,
    IdentityError,
    SpaceMismatchError,
    check_pair,
    space_of,
    wanted_space,
)
from warmswap_ensemble.types import Stage

ARCFACE: dict[str, Any] = {"embedding_space": "arcface_w600k_r50", "embedding_length": 512}


def a_swapper(*identity: str, **settings: Any) -> Stage:
    return make_stage("face_swapper", version=3, identity=list(identity), **settings)


def an_embedder(**settings: Any) -> Stage:
    return make_stage("face_embedder", version=5, **settings)


def test_identity_inputs_are_inputs_of_the_contract() -> None:
    assert set(IDENTITY_INPUTS) < {tensor.name for tensor in FACE_SWAPPER.inputs}


def test_matching_pair_is_accepted() -> None:
    check_pair(a_swapper("source_embedding", **ARCFACE), an_embedder(**ARCFACE))
    assert space_of(an_embedder(**ARCFACE)) == EmbeddingSpace("arcface_w600k_r50", 512)


def test_swapper_without_an_embedding_takes_any_embedder() -> None:
    swapper = a_swapper("source_crop_rgb", "source_landmarks")
    assert wanted_space(swapper) is None
    check_pair(swapper, an_embedder(**ARCFACE))
    check_pair(swapper, an_embedder())


@pytest.mark.parametrize(
    ("made", "words"),
    [
        pytest.param({"embedding_space": "dlib", "embedding_length": 128}, "dlib (128 numbers)", id="other"),
        pytest.param({**ARCFACE, "embedding_length": 256}, "arcface_w600k_r50 (256 numbers)", id="length"),
        pytest.param({**ARCFACE, "embedding_space": "arcface"}, "arcface (512 numbers)", id="name"),
    ],
)
def test_mismatch_names_both_models_versions_spaces_and_the_fix(made: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceMismatchError) as caught:
        check_pair(a_swapper("source_crop_rgb", "source_embedding", **ARCFACE), an_embedder(**made))
    assert str(caught.value) == (
        f"face_swapper 3 wants embeddings of the space arcface_w600k_r50 (512 numbers), but face_embedder 5 makes "
        f"{words}: pin another version with parameter stage_version.face_embedder (or stage_version.face_swapper) in "
        "the pipeline's config.pbtxt, or export a matching pair"
    )


@pytest.mark.parametrize(
    "identity",
    [
        pytest.param(None, id="nothing"),
        pytest.param([], id="empty"),
        pytest.param("source_embedding", id="text"),
        pytest.param(["source_embeding"], id="misspelt"),
        pytest.param(["target_crop_rgb"], id="not of the source"),
        pytest.param(["source_crop_rgb", 1], id="number"),
        pytest.param([["source_crop_rgb"]], id="list in a list"),
    ],
)
def test_swapper_must_say_what_it_uses(identity: object) -> None:
    settings: dict[str, Any] = {} if identity is None else {"identity": identity}
    swapper = make_stage("face_swapper", version=3, **settings)
    with pytest.raises(IdentityError, match=r"^face_swapper 3: setting identity must list .*source_embedding; got"):
        check_pair(swapper, an_embedder(**ARCFACE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"embedding_space": None}, "embedding_space must be a name, got None", id="no name"),
        pytest.param({"embedding_space": ""}, "embedding_space must be a name, got ''", id="empty name"),
        pytest.param({"embedding_space": 3}, "embedding_space must be a name, got 3", id="number for a name"),
        pytest.param({"embedding_length": None}, "embedding_length must be .* got None", id="no length"),
        pytest.param({"embedding_length": "512"}, "embedding_length must be .* got '512'", id="text for a length"),
        pytest.param({"embedding_length": True}, "embedding_length must be .* got True", id="flag for a length"),
        pytest.param({"embedding_length": 0}, "embedding_length must be .* got 0", id="no numbers"),
    ],
)
def test_space_must_be_named_by_both(change: dict[str, Any], message: str) -> None:
    with pytest.raises(IdentityError, match=f"^face_swapper 3: setting {message}"):
        check_pair(a_swapper("source_embedding", **{**ARCFACE, **change}), an_embedder(**ARCFACE))
    with pytest.raises(IdentityError, match=f"^face_embedder 5: setting {message}"):
        check_pair(a_swapper("source_embedding", **ARCFACE), an_embedder(**{**ARCFACE, **change}))
