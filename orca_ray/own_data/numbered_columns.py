"""Series in a table whose columns are numbered steps, such as t0 … t99.

Letters of shapes: N rows, C channels, L steps.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import types

from orca_ray.data.rows import Array
from orca_ray.errors import UserError, printable, quoted, shorten

TABLE_AXES = ("NL", "NCL")
"""Values of the option ``axes`` that read numbered columns as series."""
LEAST_STEPS = 8
"""Least number of columns of one name that are steps."""
LEAST_HINTED = 16
"""Least number of such columns of which a note says that they may be steps."""
_NUMBERED = re.compile(r"(.*?)(\d{1,9})", re.DOTALL)


def find_channels(names: Iterable[str]) -> dict[str, dict[int, str]]:
    """Return the columns of each channel: the name of the column of each step.

    The key of a channel is what stands before the number in the names of its columns:
    "lead1_" of ``lead1_000``. Names with fewer than `LEAST_STEPS` numbers are no
    channels.

    Raises UserError if two columns are the same step, such as ``t1`` and ``t01``.
    """
    channels: dict[str, dict[int, str]] = {}
    for name in names:
        match = _NUMBERED.fullmatch(name)
        if match is None:
            continue
        steps = channels.setdefault(match[1], {})
        step = int(match[2])
        if step in steps:
            raise UserError(
                f"columns {quoted(steps[step])} and {quoted(name)} are the same step:"
                " rename one of them"
            )
        steps[step] = name
    return {
        stem: steps for stem, steps in channels.items() if len(steps) >= LEAST_STEPS
    }


def hint(table: pa.Table, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return a note with the option that reads a table's columns as series, or ().

    There is a note if at least `LEAST_HINTED` columns of numbers are the steps of each
    channel, without a gap, and if these columns are at least half of the ``inputs``.
    """
    try:
        channels = find_channels(inputs)
        _check_steps(channels)
    except UserError:
        return ()
    columns = [name for steps in channels.values() for name in steps.values()]
    if not columns or min(map(len, channels.values())) < LEAST_HINTED:
        return ()
    if 2 * len(columns) < len(inputs) or not all(
        _is_number(table.schema.field(name).type) for name in columns
    ):
        return ()
    axes = "NL" if len(channels) == 1 else "NCL"
    listed = _list_channels(channels)
    return (
        f"columns {listed} are read as features without an order: if they are the steps"
        f" of series, use --axes {axes}",
    )


def read_series(
    source: str, table: pa.Table, inputs: Sequence[str], axes: str
) -> tuple[Array, list[str]]:
    """Return the series in the columns ``inputs``, and the columns that are no steps.

    The series are float32, [N, L] for the ``axes`` NL and [N, C, L] for NCL. Steps are
    in the order of their numbers, channels in that of their first columns.

    Raises UserError if no columns are steps, channels have different steps, a step is
    missing between others, or a column holds no numbers.
    """
    try:
        channels = find_channels(inputs)
        _check_steps(channels)
    except UserError as error:
        raise UserError(f"{source}, --axes {axes}: {error}") from error
    if not channels:
        listed = shorten(", ".join(map(printable, inputs)))
        raise UserError(
            f"{source}: --axes {axes} reads columns as steps of series that have one"
            f" name and a number, such as t0 … t99, {LEAST_STEPS} at least; columns:"
            f" {listed}"
        )
    if axes == "NL" and len(channels) > 1:
        raise UserError(
            f"{source}: --axes NL reads one channel, found {len(channels)}"
            f" ({_list_channels(channels)}): use --axes NCL, or name columns with"
            " --inputs"
        )
    x_NCL = np.stack(
        [
            np.stack(
                [_read_step(source, table, steps[step]) for step in sorted(steps)],
                axis=1,
            )
            for steps in channels.values()
        ],
        axis=1,
    )
    used = {name for steps in channels.values() for name in steps.values()}
    others = [name for name in inputs if name not in used]
    return (x_NCL[:, 0] if axes == "NL" else x_NCL), others


def is_header_of_steps(fields: Sequence[str]) -> bool:
    """Return whether a header that is all numbers names steps: 0, 1, 2, … in order.

    `LEAST_STEPS` numbers at least, the first of which is 0 or 1.
    """
    if len(fields) < LEAST_STEPS or fields[0] not in ("0", "1"):
        return False
    first = int(fields[0])
    return list(fields) == [str(first + place) for place in range(len(fields))]


def _check_steps(channels: dict[str, dict[int, str]]) -> None:
    """Raise UserError for a missing step, or channels of different steps."""
    for stem, steps in channels.items():
        for step in range(min(steps), max(steps)):
            if step not in steps:
                raise UserError(
                    f"columns {_list_channels({stem: steps})} lack step {step}: add it,"
                    " empty where no value is known, or number the steps without gaps"
                )
    first_stem, first_steps = next(iter(channels.items()), ("", {}))
    for stem, steps in channels.items():
        if steps.keys() != first_steps.keys():
            both = {first_stem: first_steps, stem: steps}
            raise UserError(
                f"channels have different steps: {_list_channels(both)}; drop some with"
                " --columns NAME=drop, or name the others with --inputs"
            )


def _list_channels(channels: dict[str, dict[int, str]]) -> str:
    """Return the first and last columns of each channel, for messages."""
    listed = [
        f"{printable(steps[min(steps)])} … {printable(steps[max(steps)])}"
        for steps in channels.values()
    ]
    return shorten(", ".join(listed))


def _is_number(kind: pa.DataType) -> bool:
    """Return whether values are numbers; a column without values may be any."""
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_null(kind)
    )


def _read_step(source: str, table: pa.Table, name: str) -> Array:
    """Return a column as float32 [N]; missing values are NaN."""
    column = table.column(name)
    if not _is_number(column.type):
        raise UserError(
            f"{source}, column {quoted(name)}: expected numbers, as it is a step of"
            f" series, found values of type {column.type}: correct them, or leave them"
            " empty"
        )
    numbers = column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # infinite values count as missing later
        return np.asarray(numbers, dtype=np.float32)
