"""What a launcher has to do with rollouts: a folder for what pipelines observe, and which processes nobody needs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from warmswap_ensemble.contract import MODELS, swapper_variant
from warmswap_ensemble.manifest import version_dirs
from warmswap_ensemble.routes import ROLLOUT_FOLDER_VARIABLE
from warmswap_ops.rollout.state_file import routes_of
from warmswap_ops.stub_watch import DeadStub


class RolloutFolder:
    """A private folder of one replica, gone with it; what must last lies in the repository."""

    def __init__(self) -> None:
        """Make it."""
        self.path = Path(tempfile.mkdtemp(prefix="warmswap-rollout-"))

    def environment(self) -> dict[str, str]:
        """Return what lets the pipelines and the agent find it."""
        return {ROLLOUT_FOLDER_VARIABLE: str(self.path)}

    def remove(self) -> None:
        """Remove it. Safe to call again."""
        shutil.rmtree(self.path, ignore_errors=True)


def needs(repository: Path, stub: DeadStub) -> bool:
    """Whether the versions that answer requests need a process that died.

    Candidates of a rollout are not needed, and neither is what serves only the operations side. Where a repository has
    never seen a rollout, every process is needed.

    Raises:
        RepositoryError: the state of the rollout cannot be read.
    """
    if not stub.version:
        return True
    if stub.model not in MODELS and not swapper_variant(stub.model):
        return False
    routes = routes_of(repository)
    if stub.model not in routes.stable:
        if stub.model not in routes.used:
            return True
        highest = [int(folder.name) for folder in version_dirs(repository / stub.model)][-1:]
        return highest == [stub.version]
    return routes.stable[stub.model] == stub.version
