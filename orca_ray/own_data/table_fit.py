"""Choose and measure the columns of a table: their kinds, categories, medians, means and deviations."""

import re
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from orca_ray.data.splits import Indices
from orca_ray.errors import UserError, printable, quoted, shorten
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.findings import Notes
from orca_ray.own_data.table_inputs import (
    DATE_PARTS,
    MOST_TEXT_SHARE,
    Column,
    DatePart,
    Floats,
    TableInputs,
    as_dates,
    parsed,
    texts,
)

if TYPE_CHECKING:
    import pandas as pd

ColumnKind = Literal["number", "category", "date", "drop"]

MOST_CATEGORIES = 64
"""Categories of a column that get a slot, the most frequent ones."""
_COUNTED = {"number": "of numbers", "category": "of categories", "date": "of dates"}
_ROW_NUMBER = re.compile(r"^(|id|index|idx|row|row_?(id|no|number)|unnamed.*|__index_level_\d+__)$", re.I)


def fit_table(data: UserData, train: Indices, options: Options, notes: Notes) -> TableInputs:
    """Return the encoder of a table, measured on the rows ``train``.

    Columns that are constant, empty, row numbers, or text that differs in each row are left out with a warning. Raises
    UserError if no column is left.
    """
    frame: pd.DataFrame = data.x  # type: ignore[assignment]
    names = list(map(str, frame.columns))
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{data.source}: several columns are named {quoted(twice[0])}; give each its own name")
    columns: list[Column] = []
    filled: dict[str, int] = {}
    for name in names:
        if options.columns.get(name) == "drop":
            continue
        kind, why = _kind(name, frame[name], options.columns.get(name))
        if kind == "drop":
            kept = "number" if frame[name].dtype.kind in "biuf" else "category"
            notes.warn(f"column {quoted(name)} is left out: {why}; to keep it: columns: {{{name}: {kept}}}")
            continue
        if why:
            notes.warn(f"column {quoted(name)}: {why}")
        made = _columns(data, name, frame[name].iloc[train], kind, filled)
        if not made:
            notes.warn(f"column {quoted(name)} is left out: it has one value, or none, in train")
        columns += made
    if not columns:
        raise UserError(f"{data.source}: no column is left to predict from; see what was left out: {notes.warnings}")
    if filled:
        listed = shorten(", ".join(f"{printable(name)} ({count})" for name, count in filled.items()), 300)
        notes.warn(f"missing numbers are filled in with the medians of train: {listed}")
    order = sorted(columns, key=lambda column: column.kind != "category")  # as `openml._encoding.encode`
    counts = {kind: len({column.name for column in columns if column.kind == kind}) for kind in _COUNTED}
    found = ", ".join(f"{count} {_COUNTED[kind]}" for kind, count in counts.items() if count)
    notes.find("columns", found, "by their types and values", "columns: {name: number, category, date or drop}")
    return TableInputs(columns=tuple(order))


def _kind(name: str, values: "pd.Series[Any]", given: ColumnKind | None) -> tuple[ColumnKind, str]:
    """Return the kind of a column, and why it is left out or suspicious ("": it is neither)."""
    import pandas as pd

    if given is not None:
        return given, ""
    known = values.dropna()
    if values.dtype.kind == "M":
        return "date", ""
    if values.dtype.kind in "biuf" or known.empty:
        whole = values.dtype.kind != "b" and len(known) == len(values) and bool((known % 1 == 0).all())
        numbered = bool(_ROW_NUMBER.match(name)) and whole and known.is_unique
        return ("drop", "it numbers the rows") if numbered else ("number", "")
    if isinstance(known.iloc[0], list | dict | bytes | np.ndarray):
        return "drop", "its values are neither numbers nor text"
    _, bad = parsed(values)
    text_share = len(bad) / len(known)
    if text_share <= MOST_TEXT_SHARE:
        mixed = (
            f"{len(bad)} of {len(known)} values are text, such as {quoted(values.iloc[int(bad[0])]) if len(bad) else 0}"
        )
        return "number", f"{mixed} in row {int(bad[0]) + 1}; they count as missing" if len(bad) else ""
    if pd.to_datetime(known, errors="coerce", utc=True, format="ISO8601").notna().all():
        return "date", ""
    number = known.nunique()
    if number > 20 and number > 0.5 * len(known):
        return "drop", f"{number} of its {len(known)} values are different, as of names or free text"
    mixed = f"numbers and text are mixed ({len(bad)} of {len(known)} are text): each value counts as a category"
    return "category", mixed if text_share < 1 else ""


def _columns(
    data: UserData, name: str, values: "pd.Series[Any]", kind: ColumnKind, filled: dict[str, int]
) -> list[Column]:
    if kind == "category":
        counts: dict[str, int] = {}
        for text in texts(values):
            if text is not None:
                counts[text] = counts.get(text, 0) + 1
        kept = sorted(counts, key=lambda text: (-counts[text], text))[:MOST_CATEGORIES]
        missing = any(text is None for text in texts(values))
        return [Column(name=name, kind="category", categories=tuple(sorted(kept)))] if len(kept) + missing > 1 else []
    if kind == "date":
        parts = ((part, as_dates(values, part, data)) for part in DATE_PARTS)
        return [made for part, numbers in parts if (made := _measured(name, "date", numbers, part)) is not None]
    numbers, _ = parsed(values)
    measured = _measured(name, "number", numbers)
    if measured is not None and (count := int(np.isnan(numbers).sum())):
        filled[name] = count
    return [measured] if measured is not None else []


def _measured(
    name: str, kind: Literal["number", "date"], numbers: Floats, part: DatePart | None = None
) -> Column | None:
    """Return a column of numbers with its statistics; None if it has fewer than two different values."""
    known = numbers[~np.isnan(numbers)]
    if not len(known) or known.min() == known.max():
        return None
    fill = float(np.median(known))
    complete = np.where(np.isnan(numbers), fill, numbers)
    mean, std = (float(f"{value:.7g}") for value in (complete.mean(), complete.std()))
    return Column(name=name, kind=kind, part=part, fill=fill, mean=mean, std=std or 1.0)
