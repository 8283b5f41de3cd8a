"""What to serve, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from warmswap_ensemble.contract import PIPELINES, STAGES
from warmswap_ops.ports import Ports
from warmswap_ops.tls import Tls
from warmswap_ops.tracing import Tracing


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
        compile_to: Compile the repository into this folder, unless that is up to date, and serve the folder.
        compile_cache: Folder of compiled graphs; ``None`` = see ``compiling.cache``.
        verify_fully: Hash every file, also those that a compiled repository's stamp vouches for.
        stages: Models to load first.
        pipelines: Models to load when all stages are ready.
        residency: Policy file, see ``residency.policy``; ``None`` = the environment's or the repository's, if any.
        preload: Models to load at the start, with the stages that they call; ``None`` = what the policy says.
        warmup_requests: Golden requests to each pipeline instance before it is READY; ``None`` = as the policy or the
            configuration of the pipeline says.
        on_failure: ``stay`` = keep the metrics and an empty server that says why; ``exit`` = leave nothing.
        max_restarts: How often within ten minutes ``watch`` makes the death of a model's process good.
        tracing: Where traces go; ``None`` = there are none.
        request_log: Which requests get a line in the log.
        control_token_file: Who has what is in it may call the control API; ``None`` = see ``access.find_access``.
        max_connection_age_s: Close gRPC connections after so long, gently, so that clients look for other replicas;
            0 = never.
        require_gpu: Refuse to start without a GPU.
        release: Value of the label ``_release`` on every metric of the models; ``None`` = there is no such label.
        tls: Of the gRPC port; ``None`` = there is none.
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
    compile_to: Path | None = None
    compile_cache: Path | None = None
    verify_fully: bool = False
    stages: tuple[str, ...] = tuple(spec.name for spec in STAGES)
    pipelines: tuple[str, ...] = tuple(spec.name for spec in PIPELINES)
    residency: Path | None = None
    preload: tuple[str, ...] | None = None
    warmup_requests: int | None = None
    on_failure: Literal["exit", "stay"] = "exit"
    max_restarts: int = 3
    tracing: Tracing | None = None
    request_log: Literal["off", "errors", "all"] = "errors"
    control_token_file: Path | None = None
    max_connection_age_s: int = 0
    require_gpu: bool = False
    release: str | None = None
    tls: Tls | None = None
