"""The processes of a tritonserver, by the version that they serve."""

from __future__ import annotations

from warmswap_ops.residency.background import child_pids
from warmswap_ops.stub_watch import stub_version


def stubs_of(server_pid: int, model: str, version: int) -> list[int]:
    """Return the living processes that serve a version; a dead one has no command line."""
    return [pid for pid in child_pids(server_pid) if stub_version(pid) == (model, version)]


def all_processes(server_pid: int) -> list[int]:
    """Return the server and the processes of its models."""
    return [server_pid, *child_pids(server_pid)]
