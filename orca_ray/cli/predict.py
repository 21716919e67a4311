"""``orca-sweep predict``, ``export`` and ``serve``: use a trained model."""

import ipaddress
import logging
import os
import resource
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from orca_ray.cli.options import DeviceOption, JsonOption, QuietOption
from orca_ray.cli.output import DataProgress, duration, emit_json, note, say, size
from orca_ray.errors import UserError
from orca_ray.options import ExportFormat
from orca_ray.paths import check_output
from orca_ray.process import allowed_cpus

if TYPE_CHECKING:
    import uvicorn

    from orca_ray.serving.application import Application

ModelArgument = Annotated[
    str,
    Argument(
        metavar="MODEL",
        help="Model folder, models/KEY of a results store, or hub:OWNER/NAME.",
    ),
]


def predict(
    model: ModelArgument,
    data: Annotated[
        str,
        Argument(
            metavar="DATA",
            help=(
                "File or folder of the kind that the model was made of; targets are"
                " ignored."
            ),
        ),
    ],
    out: Annotated[
        Path,
        Option(
            "--out",
            "-o",
            help="File to write: .parquet, .npz or, but not for fields, .csv.",
        ),
    ],
    interval: Annotated[
        float | None,
        Option(
            metavar="LEVEL",
            help=(
                "Write intervals of numbers, or sets of classes, that hold the truth"
                " with this probability, e.g. 0.9."
            ),
        ),
    ] = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Predict with a trained model: one row a sample with its ids, prediction and
    probabilities.

    Data are read in parts, so they may be larger than the memory. The output appears
    when it is complete.
    """
    from orca_ray.export import check_predictions, write_predictions
    from orca_ray.predictor import load

    check_output(out, "--out", reads=[model, data])
    predictor = load(model, device)
    check_predictions(out, predictor)
    if interval is not None:
        predictor.check_interval(interval)
    inputs = predictor.inputs(data)
    begin = time.perf_counter()
    check_output(out, "--out", reads=[inputs.data.source])  # a task file names the data
    with DataProgress(quiet=quiet) as progress:

        def report(num_rows: int) -> None:
            progress(f"predicting: {num_rows} of {len(inputs)} samples")

        write_predictions(predictor, inputs, out, report, interval=interval)
    if not quiet:
        say(
            f"{len(inputs):,} predictions of {predictor.task.name} in"
            f" {duration(time.perf_counter() - begin)}: {out}"
            f" ({size(out.stat().st_size)})"
        )


def export(
    model: ModelArgument,
    out: Annotated[Path, Option("--out", "-o", help="File to write.")],
    to: Annotated[
        ExportFormat,
        Option(
            "--to", help="onnx: for ONNX runtimes; torch: a program of torch.export."
        ),
    ],
    json: JsonOption = False,
) -> None:
    """Write the network of a trained model for other programs, with any batch size, and
    compare its outputs.

    Label names and preprocessing go along as JSON, under the key orca_ray; inputs are
    those after preprocessing.
    """
    from orca_ray.export import export_model
    from orca_ray.predictor import load

    check_output(out, "--out", reads=[model])
    exported = export_model(load(model, "cpu"), to.value, out)
    if json:
        emit_json(exported)
        return
    if exported.difference is None:
        note(exported.note)
    else:
        say(
            f"largest difference from the model: {exported.difference:.1e} of the"
            " largest output"
        )
    say(f"{to.value}: {out} ({size(out.stat().st_size)})")


TOKEN = "ORCA_RAY_SERVE_TOKEN"
"""Environment variable with the token that requests must send."""
MIN_TOKEN_LENGTH = 16
"""Smallest number of characters of a token."""
MAX_TOKEN_BYTES = 4096
"""Largest size of a file with a token."""
MOST_CONNECTIONS = 512
"""Number of connections at a time; at most half of the process's file descriptors."""
END_SECONDS = 5
"""Seconds that requests in progress may still take after Ctrl-C."""


def serve(
    model: Annotated[
        str, Argument(metavar="MODEL", help="Model folder, or hub:OWNER/NAME.")
    ],
    host: Annotated[
        str,
        Option(
            help=(
                "Address to listen on; any other than this machine's own needs a token."
            )
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, Option(min=0, max=65535, help="TCP port; 0: a free one.")
    ] = 8000,
    token_file: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help=(
                "File with the token that requests must send. Default:"
                " ORCA_RAY_SERVE_TOKEN."
            ),
        ),
    ] = None,
    max_body: Annotated[
        float, Option(min=0.001, max=1024, metavar="MIB", help="Largest body.")
    ] = 16.0,
    max_samples: Annotated[
        int, Option(min=1, help="Most samples in a request.")
    ] = 10_000,
    rate: Annotated[
        float, Option(min=0.01, help="Most requests a second from one address.")
    ] = 500.0,
    timeout: Annotated[
        float, Option(min=0.1, metavar="SECONDS", help="Most time for a request.")
    ] = 30.0,
    device: DeviceOption = "auto",
) -> None:
    """Serve a model over HTTP until Ctrl-C: predictions as JSON or Arrow, health,
    metrics, an OpenAPI description.
    """
    token = read_token(token_file)
    limits = {
        "body_bytes": int(max_body * 2**20),
        "samples": max_samples,
        "rate": rate,
        "seconds": timeout,
    }
    try:
        with listen(host, port, token) as listener:
            _serve(model, device, token, limits, listener)
    except ModuleNotFoundError as error:
        raise UserError(
            f"serve needs the package {error.name!r}: pip install 'orca-ray[serve]'"
        ) from error
    except KeyboardInterrupt:
        say("stopped")


def _serve(
    model: str,
    device: str,
    token: str | None,
    limits: Mapping[str, Any],
    listener: socket.socket,
) -> None:
    """Serve a model on a listening socket until Ctrl-C.

    ``limits`` are the fields of `Limits`.
    """
    import torch
    import uvicorn

    from orca_ray.predictor import Predictor
    from orca_ray.serving.application import Application, Limits
    from orca_ray.serving.decoding import DecodingProcess, ModelForm

    # one core is for HTTP; torch does not know of containers
    torch.set_num_threads(max(1, allowed_cpus() - 1))
    predictor = Predictor.load(model, device)
    bounds = Limits(**limits)
    form = ModelForm(predictor.task, predictor.preprocessing, bounds.samples)
    decoder = DecodingProcess(form, bounds.body_bytes, bounds.seconds)
    decoder.wait()  # the time limit of the first request begins when it can be decoded
    app = Application(predictor, bounds, token, decoder.read)
    host, port = listener.getsockname()[:2]
    if ":" in host:  # an IPv6 address
        host = f"[{host}]"
    url = f"http://{host}:{port}"
    say(
        f"serving {predictor.task.name} at {url}/v1/predict, description at"
        f" {url}/openapi.json; Ctrl-C ends it"
    )
    try:
        uvicorn.Server(_server_config(app, bounds.seconds)).run(sockets=[listener])
    finally:
        decoder.close()


def read_token(path: Path | None) -> str | None:
    """Return the token in the file ``path``, or in the environment variable `TOKEN`.

    Returns None if ``path`` is None and the variable is not set. Raises UserError if
    the file is missing, or the token is short, has spaces or is not ASCII.
    """
    if path is None:
        source = TOKEN
        token = os.environ.get(TOKEN, "").strip()
        if not token:
            return None
    else:
        source = str(path)
        if not path.is_file():
            raise UserError(
                f"--token-file {path}: there is no such file; write a token to it, e.g."
                " openssl rand -hex 32"
            )
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_BYTES + 1)
        if len(content) > MAX_TOKEN_BYTES:
            raise UserError(
                f"--token-file {path} has more than {MAX_TOKEN_BYTES} bytes, so it is"
                " no token; write one to a file, e.g. openssl rand -hex 32"
            )
        token = content.decode(errors="replace").strip()
    is_plain = token.isascii() and token.isprintable() and " " not in token
    if len(token) < MIN_TOKEN_LENGTH or not is_plain:
        raise UserError(
            f"{source}: expected at least {MIN_TOKEN_LENGTH} ASCII characters without"
            " spaces as token"
        )
    return token


def listen(host: str, port: int, token: str | None) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``.

    Raises UserError if the port is taken, or if ``token`` is None and other machines
    can reach ``host``.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        if token is None and not ipaddress.ip_address(address[0]).is_loopback:
            raise UserError(
                f"--host {host} is open to other machines, so a token is needed:"
                f" put one into a file and give --token-file, or set {TOKEN}"
            )
        return socket.create_server(address[:2], family=family, backlog=256)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {host}, port {port}: {error}; give another --host or"
            " --port"
        ) from error


def _server_config(app: "Application", seconds: float) -> "uvicorn.Config":
    """Return uvicorn's configuration; a request's head must arrive in ``seconds``."""
    import uvicorn

    from orca_ray.serving.uvicorn_private import limited_protocol

    file_descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most_connections = min(MOST_CONNECTIONS, file_descriptors // 2)
    # uvicorn warns only about mistakes of clients
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=limited_protocol(seconds, most_connections),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=END_SECONDS,
        backlog=256,
    )
