"""``orca-sweep data list`` and ``show``: the data of tasks, as numbers and pictures."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from orca_ray.cli.catalogue import task_facts
from orca_ray.cli.options import BenchmarkArgument, JsonOption, SplitsOption
from orca_ray.cli.output import emit_json, note, say, size
from orca_ray.cli.output import show as show_table
from orca_ray.data.cache import disk_errors, write_bytes
from orca_ray.errors import UserError
from orca_ray.options import Protocol
from orca_ray.paths import check_output

if TYPE_CHECKING:
    from orca_ray.data.prepared import PreparedData
    from orca_ray.data.rows import Rows
    from orca_ray.tasks.task import Task

MAX_BYTES = 64 * 2**20
"""Largest number of bytes of an array that are read for its minimum and mean."""
MAX_CLASSES = 30
"""Largest number of classes for which the number of samples of each is printed."""
_ORIGIN = ("licence", "terms", "citation", "reference")
"""Attributes of a task that say where its data come from."""


def list_(benchmark: BenchmarkArgument = None, json: JsonOption = False) -> None:
    """List the raw data of tasks: number of files, size, licence, and whether they are
    fetched and prepared.
    """
    from orca_ray.tasks.registry import all_tasks, get_benchmark

    tasks = all_tasks().values() if benchmark is None else get_benchmark(benchmark)
    rows = [_data_state(task) for task in tasks]
    if json:
        emit_json(rows)
        return
    columns = ("task", "files", "size", "fetched", "prepared", "licence")
    cells = [_data_cells(row) for row in rows]
    show_table(columns, cells, right=("files", "size"), wrap=("licence",))


def _data_cells(row: dict[str, Any]) -> tuple[object, ...]:
    """Return the cells of the table of `list_` for the result of `_data_state`."""
    if not row["files"]:
        fetched = "–"
    elif row["fetched"] == 0:
        fetched = "no"
    elif row["fetched"] == row["files"]:
        fetched = "yes"
    else:
        fetched = f"{row['fetched']} of {row['files']}"
    extent = "?" if row["bytes"] is None else size(row["bytes"])
    prepared = "no"
    if row["prepared"]:
        prepared = "yes"
    elif row["damaged"]:
        prepared = "damaged"
    return row["name"], row["files"], extent, fetched, prepared, row["licence"]


def _data_state(task: "Task") -> dict[str, Any]:
    """Return the facts about a task's raw files and prepared data that `list_` prints.

    ``files`` is the number of raw files, and ``fetched`` how many of them are on this
    machine. ``bytes`` is their size; None if it is unknown.
    """
    from orca_ray.data.packages import is_cached

    present = [file.present(task.raw_directory) for file in task.files]
    present += [is_cached(package) for package in task.packages]
    sizes = [file.num_bytes for file in task.files]
    sizes += [round(1e6 * package.size_mb) for package in task.packages]
    data = task.prepared()
    prepared = None
    if data is not None:
        prepared = {"fingerprint": data.fingerprint, "path": str(data.directory)}
    return {
        "name": task.name,
        "files": len(present),
        # A file of unknown size has 0 bytes.
        "bytes": sum(sizes) if all(sizes) else None,
        "fetched": sum(present),
        "prepared": prepared,
        "damaged": data is None and _is_damaged(task),
        "licence": task.licence,
        "terms": task.terms,
        "raw_directory": str(task.raw_directory),
    }


def _is_damaged(task: "Task", protocol: str = Protocol.HELD_OUT.value) -> bool:
    """Return whether there are prepared data of a task that cannot be read."""
    from orca_ray.data.prepared import open_prepared

    directory = task.prepared_directory(protocol)
    return any(directory.glob("*")) and open_prepared(task.name, directory) is None


def show(
    task: Annotated[str, Argument(metavar="TASK", help="Task, e.g. pocket/digits.")],
    picture: Annotated[
        Path | None,
        Option(metavar="FILE.png", help="Draw some training samples to this file."),
    ] = None,
    protocol: SplitsOption = Protocol.HELD_OUT,
    json: JsonOption = False,
) -> None:
    """Show a task's data: shapes, classes, ranges, sizes, licence, and a picture."""
    from orca_ray.tasks.registry import get_task

    shown_task = get_task(task).under(protocol.value)
    if picture is not None:
        _check_picture(picture, shown_task)
    data = shown_task.prepared(protocol.value)
    if data is not None:
        shown_task = shown_task.resolved(data)
    facts = _facts(shown_task, data)
    prepare_command = f"orca-sweep data prepare {task}{_protocol_option(protocol)}"
    if picture is not None:
        if data is None:
            raise UserError(
                f"--picture {picture}: {task} is not prepared, so there is nothing to"
                f" draw; type '{prepare_command}'"
            )
        _draw(shown_task, data, picture)
    if json:
        emit_json(facts)
        return
    _print(facts)
    if data is None:
        state = "not prepared"
        if _is_damaged(shown_task, protocol.value):
            state = "prepared data are damaged"
        note(
            f"{state}: after '{prepare_command}', this command also shows counts and"
            " ranges"
        )


def _protocol_option(protocol: Protocol) -> str:
    """Return the option that selects the protocol; "" for the default."""
    return "" if protocol is Protocol.HELD_OUT else f" --protocol {protocol.value}"


def _check_picture(path: Path, task: "Task") -> None:
    """Raise UserError if ``path`` cannot become the picture of a task."""
    check_output(path, "--picture", reads=[task.raw_directory])
    if path.suffix.lower() != ".png":
        raise UserError(
            f"--picture {path}: pictures are PNG files, so the name must end in .png"
        )


def _draw(task: "Task", data: "PreparedData", path: Path) -> None:
    """Write the picture of a task; UserError without Pillow, or if the disk is full."""
    try:
        from orca_ray.cli.picture import draw
    except ModuleNotFoundError as error:
        raise UserError(
            f"--picture needs the package {error.name!r}: pip install"
            " 'orca-ray[predict]'"
        ) from error
    content = io.BytesIO()
    draw(task, data).save(content, format="PNG")
    with disk_errors(path.absolute().parent):
        write_bytes(path, content.getvalue())


def _facts(task: "Task", data: "PreparedData | None") -> dict[str, Any]:
    """Return what `show` prints of a task, as JSON types."""
    names = (
        "name",
        "title",
        "modality",
        "input_shape",
        "target",
        "loss",
        "metric",
        "body",
        "augmentation",
        *_ORIGIN,
    )
    facts = task_facts(task, names)
    files: list[dict[str, Any]] = [
        {
            "path": file.path,
            "bytes": file.num_bytes or None,
            "present": file.present(task.raw_directory),
        }
        for file in task.files
    ]
    for package in task.packages:
        num_bytes = round(1e6 * package.size_mb)
        files.append({"package": package.requirement, "bytes": num_bytes})
    facts["files"] = files
    facts["prepared"] = None if data is None else _prepared_facts(task, data)
    return facts


def _prepared_facts(task: "Task", data: "PreparedData") -> dict[str, Any]:
    """Return the part of `_facts` about prepared data.

    For each split, it has the range of the inputs, and the number of samples of each
    class or label, or the range of other targets.
    """
    import numpy as np

    splits = {}
    for name, split in data.splits.items():
        if not len(split):  # own data may have no test split
            continue
        splits[name] = {"samples": len(split), "x": _value_range(split.x)}
        if task.target.kind == "classes":
            splits[name]["counts"] = np.bincount(
                split.y, minlength=task.target.size
            ).tolist()
        elif task.target.kind == "labels":
            splits[name]["counts"] = (split.y > 0).sum(axis=0).tolist()
        else:
            splits[name]["y"] = _value_range(split.y)
    stored = sum(path.stat().st_size for path in data.directory.glob("*.npy"))
    return {
        "path": str(data.directory),
        "fingerprint": data.fingerprint,
        "bytes": stored,
        "splits": splits,
    }


def _value_range(rows: "Rows") -> dict[str, Any]:
    """Return shape, minimum, maximum, mean and standard deviation of an array.

    Only evenly spaced rows of a large array are read.
    """
    import numpy as np

    num_values = int(np.prod(rows.shape[1:], dtype=np.int64))
    row_bytes = max(1, num_values * rows.dtype.itemsize)
    num_rows = min(len(rows), max(1, MAX_BYTES // row_bytes))
    indices = np.linspace(0, len(rows) - 1, num_rows).astype(np.int64)
    values = rows[indices].astype(np.float64)
    statistics = {
        name: float(f"{getattr(values, name)():.6g}")
        for name in ("min", "max", "mean", "std")
    }
    return {"shape": list(rows.shape), "of_samples": num_rows, **statistics}


def _print(facts: dict[str, Any]) -> None:
    """Print the result of `_facts`, a line for each fact."""
    names = ("loss", "metric", "body", "augmentation", *_ORIGIN)
    lines = {
        "task": f"{facts['name']}: {facts['title']}",
        "modality": facts["modality"],
        "input": "×".join(map(str, facts["input_shape"] or "?")),
        "target": _target_text(facts["target"]),
        **{name: facts[name] for name in names},
    }
    width = max(map(len, lines))
    for key, value in lines.items():
        if value:
            say(f"{key:{width}}  {value}")
    for file in facts["files"]:
        details = size(file["bytes"]) if file["bytes"] else "size unknown"
        if file.get("present") is not None:
            details += ", fetched" if file["present"] else ", not fetched"
        say(f"{'raw':{width}}  {file.get('path') or file['package']} ({details})")
    if facts["prepared"] is not None:
        _print_prepared(facts["prepared"], width)


def _target_text(target: dict[str, Any]) -> str:
    """Return the kind and extent of a target, e.g. ``classes 10``."""
    if target["kind"] == "scalar":
        return "one number"
    if target["kind"] == "dense":
        return f"dense {'×'.join(map(str, target['shape']))}"
    return f"{target['kind']} {target['size'] or '?'}"


def _print_prepared(prepared: dict[str, Any], width: int) -> None:
    """Print the shapes, ranges and classes of prepared data."""
    say(
        f"{'prepared':{width}}  {prepared['fingerprint']}, {size(prepared['bytes'])} in"
        f" {prepared['path']}\n"
    )
    statistics = ("min", "max", "mean", "std")
    numbers = ("samples", *statistics, "measured on")
    rows = []
    for name, split in prepared["splits"].items():
        for array in sorted({"x", "y"} & set(split)):
            measured = split[array]
            # The first axis is that of the samples.
            shape = "×".join(map(str, measured["shape"][1:])) or "1"
            values = [f"{measured[statistic]:.4g}" for statistic in statistics]
            rows.append(
                (name, array, shape, split["samples"], *values, measured["of_samples"])
            )
    show_table(("split", "array", "shape", *numbers), rows, right=numbers)
    counts = {
        name: split["counts"]
        for name, split in prepared["splits"].items()
        if "counts" in split
    }
    if counts:
        say()
        _print_counts(counts)


def _print_counts(counts: dict[str, list[int]]) -> None:
    """Print the number of samples of each class, for each split.

    For more than `MAX_CLASSES` classes, print only the smallest, the median and the
    largest number.
    """
    num_classes = len(next(iter(counts.values())))
    if num_classes <= MAX_CLASSES:
        by_class = zip(*counts.values(), strict=True)
        rows = [(number, *row) for number, row in enumerate(by_class)]
        show_table(("class", *counts), rows, right=tuple(counts))
        return
    columns = ("classes", "fewest", "median", "most")
    extremes = []
    for name, split_counts in counts.items():
        median = sorted(split_counts)[num_classes // 2]
        extremes.append(
            (name, num_classes, min(split_counts), median, max(split_counts))
        )
    show_table(("split", *columns), extremes, right=columns)
