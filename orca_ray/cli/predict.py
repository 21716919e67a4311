"""``orca-sweep predict``, ``export`` and ``serve``: use a trained model, write its network, or serve it over HTTP."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.data_progress import DataProgress
from orca_ray.cli.options import DeviceOption, JsonOption, QuietOption
from orca_ray.cli.output import duration, emit_json, note, say, size
from orca_ray.errors import UserError
from orca_ray.protocol import ExportFormat

if TYPE_CHECKING:
    from orca_ray.serving.replica import Description

ModelArgument = Annotated[
    str, Argument(metavar="MODEL", help="Model folder, models/KEY of a results store, or hub:OWNER/NAME.")
]


def predict(
    model: ModelArgument,
    data: Annotated[
        str,
        Argument(metavar="DATA", help="File or folder of the kind that the model was made of; targets are ignored."),
    ],
    out: Annotated[Path, Option("--out", "-o", help="File to write: .parquet, or .csv for tables of numbers.")],
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Predict with a trained model: one row a sample with its id, prediction and probabilities.

    Data are read in parts, so they may be larger than the memory. The output appears when it is complete.
    """
    from orca_ray.export.predictions import check_output, write_predictions
    from orca_ray.predictor import load

    adapted = load(model, device)
    check_output(out, adapted)
    inputs, started = adapted.inputs(data), time.perf_counter()
    with DataProgress(quiet=quiet) as progress:
        write_predictions(adapted, inputs, out, lambda done: progress(f"predicting: {done} of {len(inputs)} samples"))
    if not quiet:
        place = f"{out} ({size(out.stat().st_size)})"
        say(f"{len(inputs):,} predictions of {adapted.task.name} in {duration(time.perf_counter() - started)}: {place}")


def export(
    model: ModelArgument,
    out: Annotated[Path, Option("--out", "-o", help="File to write.")],
    to: Annotated[ExportFormat, Option("--to", help="onnx: for ONNX runtimes; torch: a program of torch.export.")],
    json: JsonOption = False,
) -> None:
    """Write the network of a trained model for other programs, with any batch size, and compare its outputs.

    Label names and preprocessing go along as JSON, under the key orca_ray; inputs are those after preprocessing.
    """
    from orca_ray.export import export_model
    from orca_ray.predictor import load

    if out.is_dir():
        raise UserError(f"{out} is a directory: name a file")
    exported = export_model(load(model, "cpu"), to.value, out)
    if json:
        emit_json(exported)
        return
    if exported.difference is None:
        note(exported.note)
    else:
        say(f"largest difference from the model: {exported.difference:.1e} of the largest output")
    say(f"{to.value}: {out} ({size(out.stat().st_size)})")


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
