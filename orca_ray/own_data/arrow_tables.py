"""Samples from Arrow tables: a data frame, or cells of images or lists.

For dates, see `dates`.
"""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import types

from orca_ray.data import cache
from orca_ray.data.archives import check_growth
from orca_ray.data.rows import Array
from orca_ray.errors import UserError, printable, quoted, shorten, unknown_name
from orca_ray.own_data import (
    TARGET_NAMES,
    LazySamples,
    Options,
    UserData,
)
from orca_ray.own_data.folders import decode
from orca_ray.own_data.numbered_columns import (
    TABLE_AXES,
    find_channels,
    hint,
    read_series,
)
from orca_ray.results.parquet import encoded_text_bytes

CELL_BYTES = 64.0
"""Memory of one cell of a table."""
NUMBER_BYTES = 8
"""Memory of a number. Cells of a file may take less, and some types none."""


def _read_cells(column: Any, source: str, colour: str, *, images: bool) -> LazySamples:
    """Return the images or lists of numbers in a column of an Arrow table.

    They are converted when they are selected. Selecting raises UserError for a cell
    that is missing or cannot be read.
    """

    def image(row: int) -> Array:
        where = f"{source}, row {row + 1}"
        value = column[row].as_py()
        content = value.get("bytes") if isinstance(value, dict) else None
        if not content:
            raise UserError(
                f"{where}: expected an image stored in the table, found none; embed"
                " the files"
            )
        return decode(io.BytesIO(content), where, colour)

    def numbers(row: int) -> Array:
        value = column[row].as_py()
        try:
            return np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{source}, row {row + 1}: expected lists of numbers of equal length,"
                f" found {quoted(value)}"
            ) from error

    return LazySamples(len(column), image if images else numbers)


def from_arrow(
    source: str,
    table: pa.Table,
    options: Options,
    labelled: bool,
    *,
    images: tuple[str, ...] = (),
    label_names: Mapping[str, tuple[str, ...]] | None = None,
) -> UserData:
    """Return the samples of a table, one per row.

    ``labelled``: a target is required. If not, no target, group, time or split is read,
    but `keys_of` the rows are. ``images`` are names of columns of encoded images, and
    ``label_names`` the class names of columns of class numbers.

    Raises UserError for a table without rows, columns without a name or of the same
    name, missing or binary columns, and if no input is left.
    """
    _check_usable(source, table)
    names = table.column_names
    target = _target_columns(source, names, options, labelled)
    if labelled:
        _check_named(source, names, options)
    inputs = _input_names(names, target, options)
    data = _read_inputs(source, table, inputs, images, options)
    if not labelled:
        read_names = {*target, *_step_columns(data, inputs)}
        other_columns = table.select([name for name in names if name not in read_names])
        return replace(data, target_names=target, keys=keys_of(other_columns))
    y = _read_targets(source, table, target)
    notes = data.notes
    if data.kind_hint == "table":
        notes = hint(table, inputs)
    class_names = (label_names or {}).get(target[0]) if len(target) == 1 else None
    if class_names:
        y = _name_classes(y, class_names)
    return replace(
        data,
        target_names=target,
        notes=notes,
        y=y,
        groups=_read_column(source, table, options.group) if options.group else None,
        times=_read_column(source, table, options.time) if options.time else None,
        splits=_read_column(source, table, options.split) if options.split else None,
    )


def _check_named(source: str, names: list[str], options: Options) -> None:
    """Raise UserError if options, but the target's, name a column the table lacks."""
    columns_of = {
        "--inputs": options.inputs,
        "--group": (options.group,),
        "--time": (options.time,),
        "--split": (options.split,),
        "--columns": options.columns,
    }
    for option, columns in columns_of.items():
        for name in filter(None, columns):
            if name not in names:
                raise unknown_name(f"column of {option}", name, names, f"({source})")


def _input_names(
    names: list[str], target: tuple[str, ...], options: Options
) -> list[str]:
    """Return the columns of inputs: those that options name, else all columns.

    Columns that have another use, or are dropped, are left out.
    """
    used = {*target, options.group, options.time, options.split}
    dropped = {name for name, how in options.columns.items() if how == "drop"}
    for name in sorted(used & dropped):
        raise UserError(
            f"column {quoted(name)} is dropped, and is also the target, the group, the"
            " time or the split: leave out one of these options"
        )
    candidates = options.inputs or names
    return [name for name in candidates if name in names and name not in used | dropped]


_KEY_TYPES = (
    types.is_integer,
    types.is_string,
    types.is_large_string,
    types.is_date,
    types.is_timestamp,
)
"""Checks for Arrow's types of whole numbers, text and times."""


def keys_of(table: pa.Table) -> dict[str, Array]:
    """Return the columns by name that tell rows apart, as ids do.

    Such columns are whole numbers, text or times that differ in all rows.
    """
    keys = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not any(is_kind(column.type) for is_kind in _KEY_TYPES):
            continue
        if not column.null_count and len(column.unique()) == len(column):
            keys[name] = column.to_numpy()
    return keys


def check_expanded(source: str, table: pa.Table, stored: int) -> None:
    """Raise UserError if dictionary-encoded text takes too much memory.

    The memory is compared with what is free, and with the ``stored`` bytes of the text.
    """
    expanded = sum(map(encoded_text_bytes, table.columns))
    check_growth(Path(source), expanded, stored, ", text")
    cells = CELL_BYTES * table.num_rows * table.num_columns
    cache.check_memory(
        2.0 * expanded + cells, f"{source}: its table", "give fewer rows or columns"
    )


def _check_usable(source: str, table: pa.Table) -> None:
    """Raise UserError for a table that cannot be read into columns.

    It has no rows, bad column names or binary columns, or its text takes too much
    memory once dictionaries are expanded.
    """
    names = table.column_names
    for name in names:
        if not name.strip() or names.count(name) > 1:
            raise UserError(
                f"{source}: column {quoted(name)} has no name, or another has the same;"
                " name each column"
            )
    if not table.num_rows:
        raise UserError(f"{source}: expected rows, found none")
    # Nulls and lists of size 0 take no bytes.
    num_bytes = NUMBER_BYTES * table.num_rows * table.num_columns
    check_growth(Path(source), num_bytes, table.nbytes, ", rows")
    check_expanded(source, table, table.nbytes)
    for field in table.schema:
        if types.is_binary(field.type):
            raise UserError(
                f"{source}, column {quoted(field.name)}: expected text in UTF-8 or"
                " numbers, found other bytes"
            )
        if types.is_map(field.type):
            raise UserError(
                f"{source}, column {quoted(field.name)}: expected numbers, text or"
                " lists, found a map; write a column for each of its keys"
            )


def _name_classes(y: Array, names: tuple[str, ...]) -> Array:
    """Return the names of class numbers ``y`` [N].

    None for a missing number, and for a number without a name.
    """
    named = []
    for number in y.tolist():
        has_name = number is not None and 0 <= number < len(names)
        named.append(names[int(number)] if has_name else None)
    return np.array(named, dtype=object)


def _target_columns(
    source: str, names: list[str], options: Options, labelled: bool
) -> tuple[str, ...]:
    """Return the columns of the target, which options name or which have a usual name.

    Unless ``labelled``, columns that the table lacks are left out.
    """
    usual = [name for name in names if name.lower() in TARGET_NAMES]
    target = options.target or tuple(usual[:1])
    if not labelled:
        return tuple(name for name in target if name in names)
    for name in target:
        if name not in names:
            raise unknown_name("target column", name, names, f"({source})")
    if not target:
        listed = shorten(", ".join(map(printable, names)))
        raise UserError(
            f"{source}: which column is the target? Name it with --target; columns:"
            f" {listed}"
        )
    return target


def _step_columns(data: UserData, inputs: list[str]) -> list[str]:
    """Return the columns that were read as steps of series."""
    if not isinstance(data.x, np.ndarray):
        return []
    channels = find_channels(inputs)
    return [name for steps in channels.values() for name in steps.values()]


def _read_inputs(
    source: str,
    table: pa.Table,
    inputs: list[str],
    images: tuple[str, ...],
    options: Options,
) -> UserData:
    """Return the samples with their inputs only.

    The inputs are a data frame, the one column of lists or images, or series whose
    steps are numbered columns, if ``options.axes`` asks for them. ``images`` are the
    names of columns of images.
    """
    if not inputs:
        raise UserError(
            f"{source}: no column is left to predict from besides target, group and"
            " time"
        )
    cells = [
        name
        for name in inputs
        if name in images or types.is_nested(table.schema.field(name).type)
    ]
    if not cells and options.axes in TABLE_AXES:
        x, unused = read_series(source, table, inputs, options.axes)
        return UserData(x=x, source=source, notes=_unused_note("the steps", unused))
    if not cells:
        frame = to_frame(source, table.select(inputs))
        return UserData(x=frame, kind_hint="table", source=source)
    if len(cells) > 1:
        raise UserError(
            f"{source}: columns {', '.join(cells)} hold lists or images; choose one"
            " with --inputs"
        )
    name = cells[0]
    is_image = name in images
    where = f"{source}, column {printable(name)}"
    unused = [other for other in inputs if other != name]
    return UserData(
        x=_read_cells(
            table.column(name), where, options.colour or "rgb", images=is_image
        ),
        kind_hint="images" if is_image else "array",
        source=source,
        notes=_unused_note(name, unused),
    )


def _unused_note(used: str, unused: list[str]) -> tuple[str, ...]:
    """Return a note on columns that are not used, or () if there are none."""
    if not unused:
        return ()
    return (f"columns not used beside {used}: {', '.join(map(printable, unused))}",)


def to_frame(source: str, table: pa.Table) -> pd.DataFrame:
    """Return a table as a data frame.

    Numbers become float64, and times become time stamps in microseconds. Other values
    become objects, None if missing. Raises UserError, which names the column, for
    values that cannot be converted.
    """
    columns: dict[str, Any] = {}
    for name in table.column_names:
        try:
            columns[name] = _convert_column(table.column(name))
        except (pa.ArrowException, ValueError, OverflowError) as error:
            kind = table.column(name).type
            raise UserError(
                f"{source}, column {quoted(name)}: expected values of type {kind},"
                f" found damaged ones: {shorten(error)}"
            ) from error
    return pd.DataFrame(columns)


def _convert_column(column: Any) -> Any:
    """Return a column with the type that `to_frame` describes."""
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_decimal(column.type):
        column = column.cast("float64")
    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind):
        return column.cast("float64", safe=False).to_numpy(zero_copy_only=False)
    is_duration = types.is_duration(kind) or types.is_time(kind)
    if types.is_temporal(kind) and not is_duration:
        # Nanoseconds are cut to microseconds, which a safe conversion would refuse.
        has_nanoseconds = getattr(kind, "unit", "") == "ns"
        times = column.cast("timestamp[us]", safe=not has_nanoseconds)
        return times.to_numpy(zero_copy_only=False)
    # pandas 3 would infer another type than object
    return pd.Series(column.to_pylist(), dtype=object)


def _read_column(source: str, table: pa.Table, name: str) -> Array:
    return np.asarray(to_frame(source, table.select([name]))[name])


def _read_targets(source: str, table: pa.Table, names: tuple[str, ...]) -> Array:
    """Return the targets: one column [N], several [N, K], or fields [N, ...]."""
    if len(names) == 1 and types.is_nested(table.schema.field(names[0]).type):
        return _read_field_targets(source, table, names[0])
    columns = [_read_column(source, table, name) for name in names]
    if len(columns) == 1:
        return columns[0]
    for name, column in zip(names, columns, strict=True):
        is_number = column.dtype.kind in "biuf"
        if not is_number and not all(isinstance(value, bool) for value in column):
            raise UserError(
                f"{source}, column {quoted(name)}: several targets must be numbers or"
                " true and false; give dates as numbers, such as days"
            )
    return np.stack([column.astype(np.float64) for column in columns], axis=1)


def _read_field_targets(source: str, table: pa.Table, name: str) -> Array:
    """Return the lists of numbers in a column as fields [N, ...] of one size."""
    where = f"{source}, column {name}"
    cells = _read_cells(table.column(name), where, colour="", images=False)[:]
    if len({cell.shape for cell in cells}) > 1:
        raise UserError(
            f"{where}: targets have unequal lengths; give fields of one size"
        )
    return np.stack(cells)
