"""``orca-sweep data list`` and ``show``: list the data of tasks; show one task's data
as numbers.
"""

from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument

from orca_ray.cli.options import BenchmarkArgument, JsonOption, SplitsOption
from orca_ray.cli.output import emit_json, note, say, size, to_json_types
from orca_ray.cli.output import show as show_table
from orca_ray.options import Protocol

if TYPE_CHECKING:
    from orca_ray.data.prepared import PreparedData
    from orca_ray.data.rows import Rows
    from orca_ray.tasks.task import Task

MAX_BYTES = 64 * 2**20
"""Largest number of bytes of an array that are read to compute its minimum, maximum,
mean and std.
"""
MAX_CLASSES = 30
"""Largest number of classes for which the number of samples of each is printed."""
_ORIGIN = ("licence", "terms", "citation", "reference")


def list_(benchmark: BenchmarkArgument = None, json: JsonOption = False) -> None:
    """List the raw data of tasks: number of files, size, licence, and whether they are
    fetched and prepared.
    """
    from orca_ray.tasks.registry import all_tasks, get_benchmark

    rows = [
        _listed(task)
        for task in (
            all_tasks().values() if benchmark is None else get_benchmark(benchmark)
        )
    ]
    if json:
        emit_json(rows)
        return
    cells = []
    for row in rows:
        some = f"{row['fetched']} of {row['files']}"
        fetched = (
            {0: "no", row["files"]: "yes"}.get(row["fetched"], some)
            if row["files"]
            else "–"
        )
        extent = "?" if row["bytes"] is None else size(row["bytes"])
        prepared = "yes" if row["prepared"] else "damaged" if row["damaged"] else "no"
        cells.append(
            (row["name"], row["files"], extent, fetched, prepared, row["licence"])
        )
    columns = ("task", "files", "size", "fetched", "prepared", "licence")
    show_table(columns, cells, right=("files", "size"), wrap=("licence",))


def _listed(task: "Task") -> dict[str, Any]:
    from orca_ray.data.packages import is_cached

    present = [file.present(task.raw_directory) for file in task.files] + [
        is_cached(each) for each in task.packages
    ]
    sizes = [file.num_bytes for file in task.files] + [
        round(1e6 * each.size_mb) for each in task.packages
    ]
    data = task.prepared()
    return {
        "name": task.name,
        "files": len(present),
        "bytes": sum(sizes) if all(sizes) else None,
        "fetched": sum(present),
        "prepared": (
            None
            if data is None
            else {"fingerprint": data.fingerprint, "path": str(data.directory)}
        ),
        "damaged": data is None and _damaged(task),
        "licence": task.licence,
        "terms": task.terms,
        "raw_directory": str(task.raw_directory),
    }


def _damaged(task: "Task", protocol: str = Protocol.HELD_OUT.value) -> bool:
    """Return whether there are prepared data of a task that cannot be read."""
    from orca_ray.data.prepared import opened

    directory = task.prepared_directory(protocol)
    return any(directory.glob("*")) and opened(task.name, directory) is None


def show(
    task: Annotated[str, Argument(metavar="TASK", help="Task, e.g. pocket/digits.")],
    protocol: SplitsOption = Protocol.HELD_OUT,
    json: JsonOption = False,
) -> None:
    """Show a task's data: shapes, classes, ranges, sizes, licence."""
    from orca_ray.tasks.registry import get_task

    chosen = get_task(task).under(protocol.value)
    data = chosen.prepared(protocol.value)
    facts = _facts(chosen if data is None else chosen.resolved(data), data)
    if json:
        emit_json(facts)
        return
    _print(facts)
    if data is None:
        state = (
            "prepared data are damaged"
            if _damaged(chosen, protocol.value)
            else "not prepared"
        )
        option = (
            "" if protocol is Protocol.HELD_OUT else f" --protocol {protocol.value}"
        )
        note(
            f"{state}: after 'orca-sweep data prepare {task}{option}', this command"
            " also shows counts and ranges"
        )


def _facts(task: "Task", data: "PreparedData | None") -> dict[str, Any]:
    keys = (
        "name",
        "title",
        "modality",
        "input_shape",
        "target",
        "loss",
        "metric",
        "body",
        "augmentation",
    )
    files = [
        {
            "path": f.path,
            "bytes": f.num_bytes or None,
            "present": f.present(task.raw_directory),
        }
        for f in task.files
    ]
    return {
        **{
            key: to_json_types(getattr(task, "domain" if key == "modality" else key))
            for key in (*keys, *_ORIGIN)
        },
        "files": (
            files
            + [
                {"package": p.requirement, "bytes": round(1e6 * p.size_mb)}
                for p in task.packages
            ]
        ),
        "prepared": None if data is None else _prepared(task, data),
    }


def _prepared(task: "Task", data: "PreparedData") -> dict[str, Any]:
    import numpy as np

    splits = {}
    for name, split in data.splits.items():
        if not len(split):  # own data may have no test split
            continue
        splits[name] = {"samples": len(split), "x": _range(split.x)}
        if task.target.kind == "classes":
            splits[name]["counts"] = np.bincount(
                split.y, minlength=task.target.size
            ).tolist()
        elif task.target.kind == "labels":
            splits[name]["counts"] = (split.y > 0).sum(axis=0).tolist()
        else:
            splits[name]["y"] = _range(split.y)
    stored = sum(path.stat().st_size for path in data.directory.glob("*.npy"))
    return {
        "path": str(data.directory),
        "fingerprint": data.fingerprint,
        "bytes": stored,
        "splits": splits,
    }


def _range(rows: "Rows") -> dict[str, Any]:
    """Return the shape of rows, and minimum, maximum, mean and std; of a large array,
    of evenly spaced rows only.
    """
    import numpy as np

    each = max(1, int(np.prod(rows.shape[1:], dtype=np.int64)) * rows.dtype.itemsize)
    num = min(len(rows), max(1, MAX_BYTES // each))
    values = rows[np.linspace(0, len(rows) - 1, num).astype(np.int64)].astype(
        np.float64
    )
    measured = {
        name: float(f"{getattr(values, name)():.6g}")
        for name in ("min", "max", "mean", "std")
    }
    return {"shape": list(rows.shape), "of_samples": num, **measured}


def _print(facts: dict[str, Any]) -> None:
    target = facts["target"]
    extent = (
        "×".join(map(str, target["shape"]))
        if target["kind"] == "dense"
        else target["size"] or "?"
    )
    lines = {
        "task": f"{facts['name']}: {facts['title']}",
        "modality": facts["modality"],
        "input": "×".join(map(str, facts["input_shape"] or "?")),
        "target": (
            "one number" if target["kind"] == "scalar" else f"{target['kind']} {extent}"
        ),
        **{
            key: facts[key]
            for key in ("loss", "metric", "body", "augmentation", *_ORIGIN)
        },
    }
    width = max(map(len, lines))
    for key, value in lines.items():
        if value:
            say(f"{key:{width}}  {value}")
    for file in facts["files"]:
        state = (
            ""
            if file.get("present") is None
            else ", fetched"
            if file["present"]
            else ", not fetched"
        )
        extent = size(file["bytes"]) if file["bytes"] else "size unknown"
        say(f"{'raw':{width}}  {file.get('path') or file['package']} ({extent}{state})")
    if facts["prepared"] is not None:
        _print_prepared(facts["prepared"], width)


def _print_prepared(prepared: dict[str, Any], width: int) -> None:
    say(
        f"{'prepared':{width}}  {prepared['fingerprint']}, {size(prepared['bytes'])} in"
        f" {prepared['path']}\n"
    )
    numbers = ("samples", "min", "max", "mean", "std", "measured on")
    rows = []
    for name, split in prepared["splits"].items():
        for array in sorted({"x", "y"} & set(split)):
            found = split[array]
            measured = (f"{found[key]:.4g}" for key in ("min", "max", "mean", "std"))
            shape = "×".join(map(str, found["shape"][1:])) or "1"
            rows.append(
                (name, array, shape, split["samples"], *measured, found["of_samples"])
            )
    show_table(("split", "array", "shape", *numbers), rows, right=numbers)
    counts = {
        name: split["counts"]
        for name, split in prepared["splits"].items()
        if "counts" in split
    }
    if not counts:
        return
    say()
    num = len(next(iter(counts.values())))
    if num <= MAX_CLASSES:
        show_table(
            ("class", *counts),
            [(i, *(c[i] for c in counts.values())) for i in range(num)],
            right=tuple(counts),
        )
    else:
        columns = ("classes", "fewest", "median", "most")
        extremes = [
            (split, num, min(each), sorted(each)[num // 2], max(each))
            for split, each in counts.items()
        ]
        show_table(("split", *columns), extremes, right=columns)
