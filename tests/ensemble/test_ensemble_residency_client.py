"""The stub's side of the residency protocol, against sockets that misbehave: no wait is without an end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from warmswap_ensemble import residency_client
from warmswap_ensemble.errors import ModelLoadingError, OverloadedError, StageFailedError, StageNotReadyError
from warmswap_ensemble.residency_client import ResidencyClient

MODEL = "face_swapper_512"
READY = {"state": "ready", "lease": 7}
Script = Callable[[dict[str, Any]], dict[str, Any] | bytes | None]


@contextmanager
def launcher(folder: Path, script: Script) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A socket that answers each question by a function; bytes are sent as they are, None closes the connection."""
    questions: list[dict[str, Any]] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "leases"))
    listener.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), connection, connection.makefile("rb") as lines:
                for line in lines:
                    question = json.loads(line)
                    questions.append(question)
                    answer = {"state": "hello"} if "pipeline" in question else script(question)
                    if answer is None:
                        break
                    connection.sendall(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield str(folder / "leases"), questions
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
        assert not thread.is_alive()


def client(path: str) -> ResidencyClient:
    return ResidencyClient("face_swap", path, frozenset({MODEL}))


def test_a_lease_is_given_back_when_the_block_ends(tmp_path: Path) -> None:
    with launcher(tmp_path, lambda question: READY if "acquire" in question else {"state": "released"}) as (
        path,
        asked,
    ):
        asking = client(path)
        with asking.hold(MODEL, 1500):
            assert asked == [{"pipeline": "face_swap"}, {"acquire": MODEL, "wait_ms": 1500}]
        with pytest.raises(StageNotReadyError), asking.hold(MODEL, 0):
            raise StageNotReadyError("gone")
        asking.close()
    assert asked[2:] == [
        {"release": 7, "lost": False},
        {"acquire": MODEL, "wait_ms": 0},
        {"release": 7, "lost": True},
    ]


def test_models_that_are_always_there_are_not_asked_for(tmp_path: Path) -> None:
    with ResidencyClient("face_swap", str(tmp_path / "nothing"), frozenset()).hold(MODEL, 100):
        pass
    with ResidencyClient("face_swap", "", frozenset({MODEL})).hold(MODEL, 100):
        pass


@pytest.mark.parametrize(
    ("answer", "expected", "message"),
    [
        ({"state": "loading", "estimate_ms": 840}, ModelLoadingError, f"{MODEL} is being loaded, ready in about 0.8 s"),
        ({"state": "loading", "estimate_ms": 3}, ModelLoadingError, "ready in about 0.1 s; try again"),
        ({"state": "refused", "reason": "no room: 1 + 2"}, StageFailedError, "no room: 1 \\+ 2"),
        ({"state": "busy", "reason": "stopping"}, OverloadedError, "stopping"),
        ({"state": "loading"}, OverloadedError, "does not say whether it is loaded"),
        ({"state": "dancing"}, OverloadedError, "KeyError: 'dancing'"),
        (b"no json\n", OverloadedError, "does not say whether it is loaded"),
        (b"[1]\n", OverloadedError, "does not say whether it is loaded"),
        (b"x" * 70_000, OverloadedError, "too long"),
        (None, OverloadedError, "the launcher closed the connection"),
    ],
)
def test_every_answer_but_ready_is_an_error_that_says_why(
    tmp_path: Path, answer: Any, expected: type[Exception], message: str
) -> None:
    with launcher(tmp_path, lambda _: answer) as (path, _):
        asking = client(path)
        with pytest.raises(expected, match=message) as caught, asking.hold(MODEL, 10):
            pytest.fail("the block must not run")
        assert type(caught.value) is expected
        asking.close()


def test_a_launcher_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency_client, "ANSWER_TIMEOUT_S", 0.05)
    silent = [True]
    released = {"state": "released"}
    script: Script = lambda question: (b"" if silent[0] else READY) if "acquire" in question else released  # noqa: E731
    with launcher(tmp_path, script) as (path, asked):
        asking = client(path)
        with pytest.raises(OverloadedError, match="does not say whether it is loaded"), asking.hold(MODEL, 10):
            pytest.fail("the block must not run")
        silent[0] = False
        with asking.hold(MODEL, 10):  # over a new connection: a late answer must not be taken for this one's
            pass
        asking.close()
    assert [question for question in asked if "pipeline" in question] == [{"pipeline": "face_swap"}] * 2


def test_a_launcher_that_is_gone_is_an_error_and_hello_is_none(tmp_path: Path) -> None:
    asking = client(str(tmp_path / "nothing"))
    asking.connect()
    with pytest.raises(OverloadedError, match="FileNotFoundError"), asking.hold(MODEL, 10):
        pytest.fail("the block must not run")


def test_a_launcher_that_dies_during_the_block_does_no_harm(tmp_path: Path) -> None:
    with launcher(tmp_path, lambda question: READY if "acquire" in question else None) as (path, _):
        asking = client(path)
        with asking.hold(MODEL, 10):
            pass
        asking.close()


def test_the_environment_tells_where_to_ask_and_for_what() -> None:
    environ = {"WARMSWAP_RESIDENCY_SOCKET": "/s", "WARMSWAP_ON_DEMAND": "a,b"}
    assert ResidencyClient.from_environment("face_swap", environ) == ResidencyClient("face_swap", "/s", frozenset("ab"))
    assert ResidencyClient.from_environment("face_swap", {}) == ResidencyClient("face_swap", "", frozenset())


def test_two_threads_get_each_its_own_answer(tmp_path: Path) -> None:
    """A candidate that is being waited for no more, and the stable version that answers in its place."""
    pause = threading.Event()

    def lease(question: dict[str, Any]) -> dict[str, Any]:
        pause.wait(0.002)  # the other thread's turn
        return {"state": "ready", "lease": question["wait_ms"]}

    wrong: list[object] = []
    with launcher(tmp_path, lease) as (path, _):
        asking = client(path)
        asking.connect()

        def ask(number: int) -> None:
            for count in range(20):
                try:
                    got = asking._acquire(MODEL, number + count)
                except OverloadedError as error:
                    wrong.append(error)
                    return
                if got != number + count:
                    wrong.append((number + count, got))

        threads = [threading.Thread(target=ask, args=(number,)) for number in (1000, 2000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        asking.close()
    assert wrong == []
