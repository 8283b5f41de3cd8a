"""Errors of the operations side, by what an operator can do about each.

    OpsError                      one line for a human, and an exit code
    ├── UsageError           2    correct the option, the environment variable or the policy file
    ├── MachineError         3    install or upgrade what the line names
    ├── RepositoryError      4    repair the model repository (a model missing, corrupt, or not what its manifest says)
    ├── PortInUseError       5    choose another port, or stop what holds this one
    ├── ServerError          6    the tritonserver process did not start, or died
    ├── ControlError         7    the control API said no
    │   ├── ServerUnreachableError   nothing answers at the address
    │   ├── ControlDeniedError       it wants a token, or another one
    │   ├── ControlTimeoutError      no answer in time
    │   │   └── LoadTimeoutError     a model did not become ready in time
    │   ├── UnknownModelError        no such model in the repository
    │   └── ModelLoadError           a model was refused: the reason is Triton's or the model's own
    ├── LicenceError         8    the policy forbids what the line names: remove it, license it, or change the policy
    ├── CompileError         10   a graph could not be compiled, or was compiled for another machine: compile here
    └── RolloutError              a rollout cannot go on
        ├── CandidateStoppedError 11   a candidate was refused, or rolled back: the text says why
        └── RolloutBusyError 12   another rollout, or somebody else, is at work: wait, or take it over

Exit code 1 is for faults of this program, 2 for wrong usage, 9 for ``warmswap lint`` that finds errors.
"""

from __future__ import annotations

from typing import ClassVar, Final

EXIT_FINDINGS: Final = 9


class OpsError(Exception):
    """Base of all errors of ``warmswap_ops``; its text is one line.

    Attributes:
        exit_code: What the process exits with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        """Join the lines of ``message``: an operator greps for one."""
        super().__init__(" ".join(message.split()))


class UsageError(OpsError):
    """An option, an environment variable or a policy file has a value that it must not have."""

    exit_code = 2


class MachineError(OpsError):
    """The machine lacks something; the text names it and the fix."""

    exit_code = 3


class RepositoryError(OpsError):
    """The model repository is missing, incomplete or corrupt."""

    exit_code = 4


class PortInUseError(OpsError):
    """A port that was asked for is taken."""

    exit_code = 5

    def __init__(self, role: str, host: str, port: int) -> None:
        """Name the port, and the option that changes it."""
        super().__init__(f"{role} port {port} on {host} is already in use; choose another with --{role}-port (0 = any)")
        self.port = port


class ServerError(OpsError):
    """The tritonserver process did not start, or died."""

    exit_code = 6


class ControlError(OpsError):
    """The control API refused a call."""

    exit_code = 7


class ServerUnreachableError(ControlError):
    """Nothing answers at the address."""


class ControlDeniedError(ControlError):
    """The control API wants a token, or another one."""


class ControlTimeoutError(ControlError):
    """No answer in time."""


class LoadTimeoutError(ControlTimeoutError):
    """A model did not become ready in time."""

    def __init__(self, model: str, timeout_s: float) -> None:
        """Name the model, and the option that gives it longer."""
        super().__init__(f"model {model} was not ready after {timeout_s:g} s; a larger --load-timeout gives it longer")
        self.model = model


class UnknownModelError(ControlError):
    """The repository has no such model, or the model no such version."""


class ModelLoadError(ControlError):
    """A model was refused."""

    def __init__(self, model: str, reason: str) -> None:
        """Name the model and why it was refused."""
        super().__init__(f"model {model} failed to load: {reason}")
        self.model = model
        self.reason = reason


class LicenceError(OpsError):
    """A version would be served whose licence does not allow what the policy demands."""

    exit_code = 8


class CompileError(OpsError):
    """A graph could not be compiled, or what was compiled is not for this machine."""

    exit_code = 10


class RolloutError(OpsError):
    """A rollout cannot go on."""


class CandidateStoppedError(RolloutError):
    """A candidate was refused, or rolled back."""

    exit_code = 11


class RolloutBusyError(RolloutError):
    """Another rollout, or somebody else, is at work."""

    exit_code = 12
