from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes import pb_utils as fake
from warmswap_ensemble import errors
from warmswap_ensemble.contract import ERROR_CODES
from warmswap_ensemble.errors import PipelineError


def subclasses(base: type[PipelineError]) -> Iterator[type[PipelineError]]:
    yield base
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from subclasses(child)


CLASSES = list(subclasses(PipelineError))


@pytest.mark.parametrize("error_class", CLASSES)
def test_code_and_category_are_known(error_class: type[PipelineError]) -> None:
    assert error_class.code in ERROR_CODES
    assert isinstance(getattr(fake.TritonError, error_class.category), int)


def test_every_code_of_the_contract_has_a_class() -> None:
    assert {error_class.code for error_class in CLASSES} == set(ERROR_CODES)


@pytest.mark.parametrize("error_class", CLASSES)
def test_the_tree_in_the_docstring_is_the_real_one(error_class: type[PipelineError]) -> None:
    (line,) = (line for line in str(errors.__doc__).splitlines() if f" {error_class.__name__} " in line)
    if not error_class.__subclasses__():
        assert error_class.code in line
    if error_class.__base__ is PipelineError and error_class is not errors.InvalidInputError:
        assert error_class.category in line


def test_codes_of_leaves_differ() -> None:
    inner = (errors.InvalidInputError, errors.OverloadedError)  # these share the code of a class below them
    leaves = [error_class.code for error_class in CLASSES if error_class not in inner]
    assert len(set(leaves)) == len(leaves)


def test_message_begins_with_the_code() -> None:
    assert errors.NoFaceError("nobody is here").message == "no_face: nobody is here"


def test_class_with_an_unknown_code_cannot_be_written() -> None:
    with pytest.raises(TypeError, match=r"TypoError\.code 'no_fase' is not in contract\.ERROR_CODES"):

        class TypoError(PipelineError):
            code = "no_fase"
