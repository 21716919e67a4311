"""``orca-sweep serve``: answer requests for predictions over HTTP."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.options import DeviceOption
from orca_ray.cli.output import say
from orca_ray.errors import UserError

if TYPE_CHECKING:
    from orca_ray.serving.replica import Description


_RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on any system: Ray's ports are on 127.0.0.1
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment of the Ray cluster that holds the model, which Ray reads when it is imported."""


def serve(
    model: Annotated[str, Argument(metavar="MODEL", help="Model folder, or hub:OWNER/NAME.")],
    host: Annotated[
        str, Option(help="Address to listen on; any other than this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="TCP port; 0: a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        Option(metavar="FILE", help="File with the token that requests must send. Default: ORCA_RAY_SERVE_TOKEN."),
    ] = None,
    max_body: Annotated[float, Option(min=0.001, max=1024, metavar="MIB", help="Largest body.")] = 16.0,
    max_samples: Annotated[int, Option(min=1, help="Most samples in a request.")] = 10_000,
    rate: Annotated[float, Option(min=0.01, help="Most requests a second, over all clients.")] = 500.0,
    timeout: Annotated[float, Option(min=0.1, metavar="SECONDS", help="Most time for a request.")] = 30.0,
    device: DeviceOption = "auto",
) -> None:
    """Serve a model over HTTP until Ctrl-C: predictions as JSON or Arrow, health, metrics, an OpenAPI description."""
    os.environ.update(_RAY)
    try:
        from orca_ray.serving.guard import Limits
        from orca_ray.serving.server import ServerOptions, read_token, serve_model
    except ModuleNotFoundError as error:
        raise UserError(f"serve needs the package {error.name!r}: pip install 'orca-ray[sweep,serve]'") from error
    body = int(max_body * 2**20)
    limits = Limits(body_bytes=body, samples=max_samples, rate=rate, seconds=timeout, held_bytes=8 * body)
    options = ServerOptions(host=host, port=port, token=read_token(token_file), device=device, limits=limits)
    try:
        serve_model(model, options, _started)
    except KeyboardInterrupt:
        say("stopped")


def _started(url: str, model: "Description") -> None:
    say(f"serving {model.task.name} at {url}/v1/predict, description at {url}/openapi.json; Ctrl-C ends it")
