"""All contenders by name, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from warmswap_loadtests.contenders.contender import Contender
from warmswap_loadtests.contenders.fastapi_servers import naive, preloading
from warmswap_loadtests.contenders.triton_servers import TritonDocumented, Warmswap, can_compile
from warmswap_loadtests.errors import BenchError

COMPILED: Final = "warmswap-compiled"

CONTENDERS: Final[dict[str, Callable[[], Contender]]] = {
    "naive": naive,
    "preloading": preloading,
    "triton-documented": TritonDocumented,
    "warmswap": lambda: Warmswap(compiled=False),
    COMPILED: lambda: Warmswap(compiled=True),
}


def make_contenders(names: Sequence[str] | None, progress: Callable[[str], None]) -> list[Contender]:
    """Return contenders that are not prepared yet.

    Args:
        names: Which; ``None`` = all that can run here.
        progress: Gets a line for each that cannot.

    Raises:
        BenchError: an unknown name, or one that cannot run here.
    """
    unknown = [name for name in names or () if name not in CONTENDERS]
    if unknown:
        raise BenchError(f"unknown contender {unknown[0]!r}: choose from {', '.join(CONTENDERS)}")
    if not can_compile():
        why = f"{COMPILED} cannot run: this warmswap has no sub-command compile"
        if names and COMPILED in names:
            raise BenchError(why)
        if not names:
            progress(why)
            names = [name for name in CONTENDERS if name != COMPILED]
    return [CONTENDERS[name]() for name in dict.fromkeys(names or CONTENDERS)]
