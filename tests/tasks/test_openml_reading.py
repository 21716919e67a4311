"""Reading a table of OpenML, and fetching it from a server on loopback.

The server gives OpenML's real answers about iris. Descriptions, ARFF dense and sparse,
what is refused, and a server that answers badly.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.data.download import Patience
from orca_ray.data.raw import PINS, Workspace
from orca_ray.errors import UserError
from orca_ray.tasks.openml import _table
from orca_ray.tasks.openml._table import read_table
from orca_ray.tasks.registry import get_task
from tests.data.faulty_server import Fault, Server, serving
from tests.raw_files.openml import (
    SmallTable,
    edit_description,
    edit_table,
    mock,
    write_bytes,
    write_mock,
    write_table,
)

TABLE = SmallTable(
    name="a small table",
    columns=[
        ("length in cm", "REAL"),
        ("count", "INTEGER"),
        ("colour", ("light blue", "it's red", "a,b", "?", "never")),
        ("class", ("yes", "no")),
    ],
    rows=[
        [1.5, 2, "light blue", "yes"],
        [None, -3, "it's red", "no"],
        [0.25, 0, "a,b", "no"],
        [2e-3, None, None, None],
        [7.0, 1, "?", "yes"],
    ],
    target="class",
)


def _read(raw: Path, dataset_id: int = 7) -> "tuple[pd.DataFrame, pd.Series[Any]]":
    return read_table(Workspace(f"openml/{dataset_id}", raw, raw), dataset_id)


class TestTables:
    def test_quoted_categories_numbers_and_missing_values(self, tmp_path: Path) -> None:
        write_table(tmp_path, 7, TABLE)
        table, target = _read(tmp_path)
        # A quoted question mark is missing, too, as the reference reads it.
        colours = pd.Categorical(
            ["light blue", "it's red", "a,b", None, None], list(TABLE.columns[2][1])
        )
        numbers = {
            "length in cm": [1.5, math.nan, 0.25, 2e-3, 7.0],
            "count": [2, -3, 0, math.nan, 1],
        }
        pd.testing.assert_frame_equal(
            table, pd.DataFrame({**numbers, "colour": colours})
        )
        classes = pd.Categorical(["yes", "no", "no", None, "yes"], ["yes", "no"])
        pd.testing.assert_series_equal(target, pd.Series(classes, name="class"))

    def test_sparse_rows_leave_out_zeros_and_first_categories(
        self, tmp_path: Path
    ) -> None:
        rows: list[list[Any]] = [
            [0.0, 2, "it's red", "no"],
            [1.5, 0, "light blue", "yes"],
            [0.0, 0, None, "no"],
        ]
        write_table(
            tmp_path, 7, SmallTable("sparse", TABLE.columns, rows, "class", sparse=True)
        )
        assert (
            "{1 2, 2 'it\\'s red', 3 no}" in (tmp_path / "7" / "data.arff").read_text()
        )
        table, target = _read(tmp_path)
        assert table["length in cm"].tolist() == [0, 1.5, 0]
        assert table["colour"].tolist() == [
            "it's red",
            "light blue",
            pytest.approx(math.nan, nan_ok=True),
        ]
        assert target.tolist() == ["no", "yes", "no"]

    @pytest.mark.parametrize(
        ("row_id", "ignored"), [("count", ("colour",)), ("", ("count,colour",))]
    )
    def test_row_numbers_and_ignored_columns_are_no_features(
        self, row_id: str, ignored: tuple[str, ...], tmp_path: Path
    ) -> None:
        write_table(
            tmp_path,
            7,
            SmallTable("x", TABLE.columns, TABLE.rows, "class", row_id, ignored),
        )
        assert list(_read(tmp_path)[0]) == ["length in cm"]


class TestRealAnswers:
    def test_iris_as_another_reader_reads_it(self, tmp_path: Path) -> None:
        from scipy.io import arff

        write_mock(tmp_path, 61, "api-v1-jd-61.json.gz", "data-v1-dl-61.arff.gz")
        table, target = _read(tmp_path, 61)
        content, meta = arff.loadarff(tmp_path / "61" / "data.arff")
        assert list(table) == meta.names()[:-1]
        for name, column in table.items():
            np.testing.assert_array_equal(column, content[name])
        assert target.tolist() == [value.decode() for value in content["class"]]

    def test_sparse_rows_of_australian(self, tmp_path: Path) -> None:
        write_mock(tmp_path, 292, "api-v1-jd-292.json.gz", "data-v1-dl-49822.arff.gz")
        table, target = _read(tmp_path, 292)
        # "{0 -1, 1 1, 2 -0.7494737, 3 -0.1814286, 5 …": the target comes first, the
        # fourth feature is left out.
        assert target[:4].tolist() == ["-1", "-1", "-1", "1"]
        assert [float(value) for value in table.iloc[0, :4]] == [
            1,
            -0.7494737,
            -0.1814286,
            0,
        ]

    def test_mice_leave_out_their_number_and_what_makes_up_the_class(
        self, tmp_path: Path
    ) -> None:
        write_mock(
            tmp_path, 40966, "api-v1-jd-40966.json.gz", "data-v1-dl-17928620.arff.gz"
        )
        table, _ = _read(tmp_path, 40966)
        assert table.select_dtypes("number").shape == table.shape
        assert table.shape[1] == 77


def _field(name: str, value: Any) -> Callable[[str], str]:
    def edit(text: str) -> str:
        content = json.loads(text)
        content["data_set_description"][name] = value
        return json.dumps(content)

    return edit


BAD_DESCRIPTIONS: list[tuple[Callable[[str], str], str]] = [
    (lambda _: "[" * 100_000, r"not the JSON that OpenML answers with"),
    (
        lambda _: '{"error":{"message":"Unknown dataset"}}',
        r"no field data_set_description.*Unknown dataset",
    ),
    (
        lambda _: "[1]",
        "not the JSON that OpenML answers with: expected a JSON object, found a list",
    ),
    (_field("id", "8"), r"describes data set 8, expected 7"),
    (_field("md5_checksum", "abc"), r"field md5_checksum is 'abc'"),
    (_field("md5_checksum", None), r"field md5_checksum is None"),
    (
        _field("format", "csv"),
        r"field format is 'csv', expected text that matches .*sparse_arff",
    ),
    (
        _field("default_target_attribute", "a,b"),
        r"field default_target_attribute is 'a,b'",
    ),
    (
        _field("ignore_attribute", [1]),
        r"field ignore_attribute is \[1\], expected names",
    ),
    (_field("file_id", "../7"), r"field file_id is '\.\./7'"),
    (_field("url", "file:///etc/passwd"), r"field url is 'file:///etc/passwd'"),
]


def _swap(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


def _wide(_: str) -> str:
    header = "".join(f"@ATTRIBUTE a{i} REAL\n" for i in range(9999))
    return f"@RELATION r\n{header}@DATA\n" + "{}\n" * 9999


BAD_TABLES: list[tuple[Callable[[str], str], str]] = [
    (
        _swap("@ATTRIBUTE class", "@ATTRIBUTE other"),
        r"no column 'class', the target; its columns: .*other",
    ),
    (_swap(",no\n", ",100%,no\n"), r"not a table in ARFF: Bad .* line 12: .*100%"),
    (_swap(",no\n", ",maybe\n"), r"not a table in ARFF: .*maybe"),
    (_swap("0.25,", "a quarter,"), r"not a table in ARFF"),
    (
        _swap("0.25,", "inf,"),
        r"column 'length in cm': expected finite numbers, found inf at index \[2\]",
    ),
    (_swap("0.25,", "1e308,"), r"expected finite numbers up to 3\.4.*e\+38"),
    (
        _swap("REAL", "STRING"),
        r"column 'length in cm' is of type STRING, expected categories or NUMERIC",
    ),
    (_swap("REAL", 'DATE "yyyy"'), r"not a table in ARFF"),
    (lambda text: text[: text.index("@DATA") + 5], r"has no rows"),
    (_swap("@ATTRIBUTE count", "@ATTRIBUTE class"), r"not a table in ARFF: .*class"),
    (lambda text: "", r"not a table in ARFF"),
    (lambda text: text + "{9 1}\n", r"not a table in ARFF"),
    (
        lambda text: text + '"' + "\\" * 6001 + ",no\n",
        r"not a table in ARFF: .{1,250}$",
    ),
    (_wide, r"unfolds to more than 200 times its size as rows with all their zeros"),
]


@pytest.mark.parametrize(
    ("edited", "told"),
    [
        *(
            (edit_description(7, edit), rf"description\.json(.|\n)*{told}")
            for edit, told in BAD_DESCRIPTIONS
        ),
        *(
            (edit_table(7, edit), rf"data\.arff(.|\n)*{told}")
            for edit, told in BAD_TABLES
        ),
    ],
)
def test_a_bad_file_is_refused_by_name(
    tmp_path: Path, edited: Callable[[Path], None], told: str
) -> None:
    write_table(tmp_path, 7, TABLE)
    edited(tmp_path)
    with pytest.raises(UserError, match=told):
        _read(tmp_path)


def test_text_that_is_no_utf8_a_table_that_is_another_and_missing_files_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        UserError,
        match=r"7/description\.json is not in .*orca-sweep data fetch openml/7",
    ):
        _read(tmp_path)
    write_bytes(
        tmp_path, 7, TABLE, b"@RELATION x\n@ATTRIBUTE a {caf\xe9}\n@DATA\ncaf\xe9\n"
    )
    with pytest.raises(UserError, match="not a table in ARFF: 'utf-8' codec"):
        _read(tmp_path)
    (tmp_path / "7" / "data.arff").write_bytes(b"another")
    other = (
        r"data\.arff has MD5 \w{32}, expected \w{32} as description\.json beside it"
        r" says"
    )
    with pytest.raises(UserError, match=other):
        _read(tmp_path)


@given(
    text=st.text(alphabet="@ATRIBUEDLO{}',?\"\\%\n 01ab\x00", max_size=80),
    sparse=st.booleans(),
)
@settings(max_examples=150)
def test_whatever_a_table_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, text: str, sparse: bool
) -> None:
    raw = tmp_path_factory.mktemp("raw")
    table = SmallTable("x", [], [], "a", sparse=sparse)
    header = f"@RELATION x\n@ATTRIBUTE a {{0,1}}\n@ATTRIBUTE b REAL\n{text}\n"
    write_bytes(raw, 7, table, f"{header}@DATA\n{text}\n".encode())
    with contextlib.suppress(UserError):
        features, target = _read(raw)
        assert len(features) == len(target)


IRIS = get_task("openml/61")
HASTY = Patience(
    tries=3, first_wait=0.01, longest_wait=0.02, connect_seconds=30, silence_seconds=30
)
DESCRIPTION = "api/v1/json/data/61"
ARFF = "data/v1/download/61/iris.arff"
MIRROR = "data/v1/download/61"
CONTENT = mock(61, "data-v1-dl-61.arff.gz")


@pytest.fixture
def server() -> Iterator[Server]:
    """Serve the real description, and the table at both of its addresses.

    The description has this server's address in it.
    """
    with serving() as server:
        description = mock(61, "api-v1-jd-61.json.gz")
        server.add(
            DESCRIPTION,
            description.replace(b"https:\\/\\/www.openml.org", server.url.encode()),
        )
        for path in (ARFF, MIRROR):
            server.add(path, CONTENT)
        yield server


def _fetch(server: Server, raw: Path) -> list[str]:
    told: list[str] = []
    _table.fetch(61, raw, told.append, server=server.url, patience=HASTY)
    return told


def _asked(server: Server) -> list[str]:
    return [request.path for request in server.log]


def _is_whole(raw: Path) -> bool:
    return (raw / "61" / "data.arff").read_bytes() == CONTENT


def test_a_data_set_is_fetched_once_verified_pinned_and_prepared(
    server: Server, tmp_path: Path
) -> None:
    assert [file.urls for file in IRIS.files] == [
        ("https://www.openml.org/api/v1/json/data/61",),
        (),
    ]
    told = _fetch(server, tmp_path)
    assert _asked(server) == [DESCRIPTION, ARFF]
    assert any("fetching 61/data.arff" in line for line in told)
    assert _is_whole(tmp_path)
    pins = json.loads((tmp_path / PINS).read_text())["files"]
    assert set(pins) == {"61/description.json", "61/data.arff"}
    assert pins["61/data.arff"]["bytes"] == len(CONTENT)
    _fetch(server, tmp_path)
    assert _asked(server) == [DESCRIPTION, ARFF]


def test_the_task_fetches_into_its_raw_directory(
    server: Server, empty_home: Path
) -> None:
    fetcher = partial(_table.fetch, 61, server=server.url, patience=HASTY)
    replace(IRIS, files=_table.raw_files(61, server.url), fetcher=fetcher).fetch()
    assert _is_whole(empty_home / "raw" / "openml")
    data = IRIS.prepare()
    assert (len(data.train), len(data.validation), len(data.test)) == (121, 14, 15)


@pytest.mark.parametrize("fault", [Fault(status=404), Fault(flip=99)])
def test_where_the_announced_address_fails_the_file_is_asked_for_by_its_id(
    fault: Fault, server: Server, tmp_path: Path
) -> None:
    server.faults[ARFF] = [fault] * 9
    _fetch(server, tmp_path)
    assert _asked(server)[-1] == MIRROR
    assert _is_whole(tmp_path)


def test_an_unknown_data_set_is_told(server: Server, tmp_path: Path) -> None:
    server.faults[DESCRIPTION] = [Fault(status=412)]
    with pytest.raises(
        UserError,
        match=r"61/description\.json cannot be fetched.*\n.*the server answered 412",
    ):
        _fetch(server, tmp_path)
    assert _asked(server) == [DESCRIPTION]
