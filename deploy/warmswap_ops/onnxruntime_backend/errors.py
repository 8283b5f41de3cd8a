"""Errors of the portable backend.

BackendError
├── ConfigError          config.pbtxt asks for what cannot be had: the load fails
└── InvalidRequestError  a tensor does not fit the graph: this request alone fails (INVALID_ARG)
"""


class BackendError(Exception):
    """Base of all errors of the portable backend."""


class ConfigError(BackendError):
    """``config.pbtxt``, the graph and the machine do not fit together."""


class InvalidRequestError(BackendError):
    """A tensor of a request does not fit the graph."""
