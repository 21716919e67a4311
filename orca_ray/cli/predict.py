"""``orca-sweep predict`` and ``export``: use a trained model, or write its network for other programs."""

import time
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from orca_ray.cli.data_progress import DataProgress
from orca_ray.cli.options import DeviceOption, JsonOption, QuietOption
from orca_ray.cli.output import duration, emit_json, note, say, size
from orca_ray.errors import UserError
from orca_ray.protocol import ExportFormat

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
    from orca_ray.adapted import load
    from orca_ray.export.predictions import check_output, write_predictions

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
    from orca_ray.adapted import load
    from orca_ray.export import export_model

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
