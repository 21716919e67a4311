"""What the command groups share: exit codes, option types, tables, JSON and messages."""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from orca_ray.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from orca_ray.results.store import ResultsStore

DONE = 0
TRIALS_FAILED = 1
USER_ERROR = 2
DEFECT = 70
INTERRUPTED = 130


JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout, for machines.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors and failed trials.")]
ResultsOption = Annotated[
    str | None,
    typer.Option(
        "--results",
        metavar="URI",
        envvar="ORCA_RAY_RESULTS",
        help="Results store: a directory, or a URI that pyarrow.fs understands (s3://…). "
        "Default: results/, or inside the cache directory for a job that Ray runs from a temporary directory.",
    ),
]


def console(least: int = 0) -> "Console":
    """Return a console on today's stdout (tests replace it), ``least`` columns wide or wider."""
    from rich.console import Console

    # In a file or a pipe nothing is gained by breaking lines for a terminal that is not there.
    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
    found = Console(width=wide, soft_wrap=False, highlight=False)
    found.width = max(found.width, least)
    return found


def show(
    columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = (), wrap: Iterable[str] = ()
) -> None:
    """Print a table as :func:`table` builds it, and no cell shortened: a terminal may break its lines instead."""
    from rich.cells import cell_len

    cells = [[*map(str, row)] for row in rows]
    soft = set(wrap)
    least = 2 * (len(columns) - 1)
    for name, *column in zip(columns, *cells, strict=True):
        parts = [part for text in (name, *column) for part in (text.split() if name in soft else [text])]
        least += max(map(cell_len, parts), default=0)
    console(least).print(table(columns, cells, right, soft), crop=False)


def fail(message: str, code: int) -> int:
    """Print one message to stderr and return ``code``."""
    prefix = "" if message.lower().startswith(("error", "interrupted", "usage")) else "error: "
    print(f"{prefix}{message}", file=sys.stderr)
    return code


def note(message: str) -> None:
    """Print one line to stderr, where it disturbs neither a table nor JSON."""
    print(message, file=sys.stderr)


def emit_json(value: Any) -> None:
    """Print ``value`` as strict JSON: dataclasses as objects, NaN as null."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def plain(value: Any) -> Any:
    """Turn dataclasses, enums, paths, times and sets into JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = (), wrap: Iterable[str] = ()
) -> "RenderableType":
    """Build a plain table; ``right`` names the columns that hold numbers, ``wrap`` those that may break."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    numbers, soft = set(right), set(wrap)
    result = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        side: Literal["left", "right"] = "right" if column in numbers else "left"
        result.add_column(column, justify=side, overflow="fold", no_wrap=column not in soft)
    for row in rows:
        result.add_row(*(Text("–" if cell is None else str(cell)) for cell in row))
    return result


def split_names(option: str, values: Sequence[str] | None) -> list[str] | None:
    """Split an option that may be repeated, comma-separated, or both; None when it was not given.

    Raises:
        UserError: it was given without a name, as an unset variable of a script does: that must not mean "all".
    """
    if not values:
        return None
    names = [name for value in values for name in (part.strip() for part in value.split(",")) if name]
    if not names:
        raise UserError(f"{option} {','.join(values)!r} names nothing: give names, or leave the option out for all")
    return names


def results_uri(given: str | None, *, tell: bool = False) -> str:
    """Return the store to use.

    ``ray job submit`` runs the command in a temporary copy of the working directory, which Ray deletes: a
    relative ``results/`` there would be lost, so a submitted job keeps its store in the cache directory.
    """
    if given:
        return given
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return "results"
    from orca_ray.data.cache import home

    uri = str(home() / "results")
    if tell:
        note(f"results store: {uri} (the working directory of a submitted job is temporary)")
    return uri


def existing_store(uri: str) -> "ResultsStore | None":
    """Open the store for reading, or return None when there is nothing at ``uri`` yet.

    Raises:
        UserError: something is there, and it is not a results store.
    """
    from orca_ray.results.folder import open_folder
    from orca_ray.results.store import ResultsStore

    folder = open_folder(uri)
    kind = folder.kind()
    if kind == "missing" or (kind == "directory" and not folder.names()):
        return None
    return ResultsStore(uri)


def duration(seconds: float) -> str:
    """Format a time span: ``8.4 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """Format a size in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def score(value: float | None) -> str:
    """Format a score, ``–`` when there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"
