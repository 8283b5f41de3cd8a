"""Errors of the simulator: what the user gave cannot be used (exit code 2)."""

from __future__ import annotations


class ScalingInputError(Exception):
    """A trace, a policy or an option is wrong; the message says which, and what to do."""

    exit_code = 2


class TraceError(ScalingInputError):
    """A trace cannot be used."""


class PolicyError(ScalingInputError):
    """A policy cannot be used."""
