"""Starts Ray Serve and the HTTP server, and ends them."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from orca_ray.errors import UserError
from orca_ray.methods import model_folder
from orca_ray.serving import application
from orca_ray.serving.batches import Batches
from orca_ray.serving.guard import Limits
from orca_ray.serving.replica import Description, Replica
from orca_ray.sweep.executors.base import allowed_cpus
from orca_ray.sweep.executors.ray import RayExecutor

HUB = "hub:"
TOKEN = "ORCA_RAY_SERVE_TOKEN"
MIN_TOKEN_LENGTH = 16
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
END_SECONDS = 5
"""How long requests in progress may take after Ctrl-C."""


@dataclass(frozen=True)
class ServerOptions:
    """Where the server listens, and what it takes."""

    host: str = "127.0.0.1"
    port: int = 8000
    """TCP port; 0: a free one."""
    token: str | None = None
    device: str = "auto"
    limits: Limits = field(default_factory=Limits)


def read_token(path: Path | None) -> str | None:
    """Return the token in a file, or else in the environment; None: there is none. Raises UserError for a weak one."""
    if path is not None and not path.is_file():
        raise UserError(f"--token-file {path}: there is no such file; write a token to it, e.g. openssl rand -hex 32")
    token = os.environ.get(TOKEN, "") if path is None else path.read_text(encoding="utf-8", errors="replace")
    token, source = token.strip(), TOKEN if path is None else str(path)
    if path is None and not token:
        return None
    if len(token) < MIN_TOKEN_LENGTH or not (token.isascii() and token.isprintable() and " " not in token):
        raise UserError(f"{source}: expected at least {MIN_TOKEN_LENGTH} ASCII characters without spaces as token")
    return token


def serve_model(path: str, options: ServerOptions, started: Callable[[str, Description], None]) -> None:
    """Serve a model folder until Ctrl-C.

    Args:
        path: the folder, or ``hub:OWNER/NAME``.
        options: where and how.
        started: is called with the server's URL and the model when it answers requests.

    Raises UserError if the model cannot be loaded, if the port is taken, or without a token for other machines.
    """
    if options.token is None and not _is_loopback(options.host):
        raise UserError(
            f"--host {options.host} is open to other machines, so a token is needed: put one into a file and give "
            f"--token-file, or set {TOKEN}"
        )
    from ray import serve

    if not path.startswith(HUB):
        path = str(Path(path).expanduser().absolute())
        model_folder.read_config(Path(path))  # Ray takes long to start; what is wrong with a folder is known before
    with contextlib.ExitStack() as cleanup:
        listener = cleanup.enter_context(_listen(options.host, options.port))
        executor = RayExecutor()
        cleanup.callback(executor.close)
        executor.open("local")
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # its warnings are clients' mistakes
        serve.start(proxy_location="Disabled", logging_config=_QUIET)
        handle = _deploy(path, options)
        model = handle.describe.remote().result()
        if isinstance(model, str):
            raise UserError(model)
        app = application.build(
            model, Batches(handle.predict.remote), handle.ready.remote, limits=options.limits, token=options.token
        )
        server = uvicorn.Server(_config(app, options.limits.seconds))
        host, port = listener.getsockname()[:2]
        listener.listen(256)
        started(f"http://{f'[{host}]' if ':' in host else host}:{port}", model)
        server.run(sockets=[listener])


def _deploy(path: str, options: ServerOptions) -> Any:
    import ray
    from ray import serve

    gpus = 0 if options.device == "cpu" else min(1, ray.cluster_resources().get("GPU", 0))
    deployment = serve.deployment(
        Replica, name="model", max_ongoing_requests=2 * options.limits.in_progress,
        logging_config=_QUIET, max_constructor_retry_count=1,
        ray_actor_options={"num_cpus": max(1, allowed_cpus() - 1), "num_gpus": gpus},
    )  # fmt: skip
    return serve.run(deployment.bind(path, options.device), name="orca-ray", route_prefix=None)


def _config(app: Any, seconds: float) -> uvicorn.Config:
    class Protocol(H11Protocol):
        """Ends connections whose first request has no complete head in time. h11 limits the size of heads to 64 KiB."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(seconds, lambda: None if self.cycle else transport.close())

    return uvicorn.Config(
        app, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=END_SECONDS,
    )  # fmt: skip


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}, port {port}: {error}; give another --host or --port") from error
    return listener
