"""What to serve, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from warmswap_ensemble.contract import PIPELINES, STAGES
from warmswap_ops.ports import Ports


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """What to serve, and how.

    Attributes:
        repository: Model repository; ``None`` = look for it (see ``find_repository``).
        host: Address to listen on.
        ports: Ports to listen on; 0 = any free one.
        exit_timeout_s: How long in-flight requests may take after the server was told to stop.
        port_timeout_s: How long the empty server may take to open its ports.
        load_timeout_s: How long the load of one model may take.
        config_name: ``configs/<name>.pbtxt`` of each model wins; ``None`` = ``gpu`` where there is a GPU.
        verbose: Pass on everything that the server writes.
        policy: Whose licences may be served, see ``licences``; ``None`` = what the environment says, else any.
        stages: Models to load first.
        pipelines: Models to load when all stages are ready.
        warmup_requests: Golden requests to each pipeline instance before it is READY; ``None`` = as configured.
        on_failure: ``stay`` = keep the metrics and an empty server that says why; ``exit`` = leave nothing.
        max_restarts: How often within ten minutes ``watch`` makes the death of a model's process good.
    """

    repository: Path | None = None
    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    exit_timeout_s: int = 25
    port_timeout_s: float = 30.0
    load_timeout_s: float = 300.0
    config_name: str | None = None
    verbose: bool = False
    policy: str | None = None
    stages: tuple[str, ...] = tuple(spec.name for spec in STAGES)
    pipelines: tuple[str, ...] = tuple(spec.name for spec in PIPELINES)
    warmup_requests: int | None = None
    on_failure: Literal["exit", "stay"] = "exit"
    max_restarts: int = 3
