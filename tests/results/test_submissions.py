"""Files beside the tables of a store: submitted scores and models.

CSV files of scores are checked by line; models are complete or absent.
"""

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.errors import UserError
from orca_ray.results import submissions
from orca_ray.results.folder import open_folder
from orca_ray.results.models import StoredModels
from orca_ray.results.store import ResultsStore
from orca_ray.results.submissions import (
    Known,
    SubmittedScore,
    import_scores,
    imported_scores,
    parse_scores,
    read_scores,
    write_scores,
)
from tests.results.factories import files_of, make_record
from tests.results.test_s3 import server, uri  # noqa: F401 (fixtures)

CURRENT = {("pocket/digits", "error", "held-out"): (1, "ab12")}
KNOWN = Known(
    {"pocket/digits": ("error",), "pocket/darcy16": ("relative_l2",)},
    {"error": 1.0},
    CURRENT,
)
HEADER = "method,task,metric,protocol,score,seed,source"
GOOD = "theirs,pocket/digits,error,held-out,0.125,0,https://example.org/paper"


def parse(*lines: str) -> list[SubmittedScore]:
    return parse_scores(
        "\n".join(lines).encode("utf-8", "surrogateescape"), "rows.csv", KNOWN
    )


def read_problems(*lines: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(*lines)
    return str(caught.value)


def test_columns_may_have_any_order_a_byte_order_mark_and_windows_line_ends() -> None:
    text = (
        "\ufeffstd,seed,source,score,protocol,metric,task,method\r\n"
        "0.01,,paper,2e-1,paper,error,pocket/digits,a\r\n"
    )
    scores = parse_scores(text.encode(), "rows.csv", KNOWN) + parse(HEADER, GOOD)
    assert scores == [
        SubmittedScore(
            "a", "pocket/digits", "error", "paper", 0.2, None, "paper", 0.01
        ),
        SubmittedScore(
            "theirs",
            "pocket/digits",
            "error",
            "held-out",
            0.125,
            0,
            "https://example.org/paper",
        ),
    ]


def test_written_scores_are_read_back() -> None:
    methods = ['a"b', "a,b", ";", "=1+1", "'", "a  b"]
    scores = [
        SubmittedScore(
            method,
            "pocket/digits",
            "error",
            "paper",
            0.1 / (number + 1),
            10**17 + number,
            "here",
        )
        for number, method in enumerate(methods)
    ]
    mean = replace(
        scores[0],
        protocol="held-out",
        score=5e-324,
        seed=None,
        std=1 / 3,
        data_fingerprint="ab12",
    )
    scores.append(mean)
    assert parse_scores(write_scores(scores).encode(), "rows.csv", KNOWN) == scores


@settings(max_examples=40)
@given(
    st.binary(max_size=300)
    | st.text(max_size=300).map(
        lambda text: f"{HEADER}\n{text}".encode("utf-8", "replace")
    )
)
def test_any_content_is_read_or_refused(content: bytes) -> None:
    with contextlib.suppress(UserError):
        assert parse_scores(content, "rows.csv", KNOWN)


BAD = GOOD.replace("0.125", "x")
MEAN = GOOD.replace("0.125,0,", "0.125,,")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("theirs", ""), "method is empty"),
        (("theirs", "a\x1b[2J"), "is not printable text"),
        (
            ("pocket/digits", "pocket/digit"),
            "unknown task 'pocket/digit'. Did you mean 'pocket/digits'?",
        ),
        (("error", "nrmse"), "metric 'nrmse' is not one of pocket/digits: error"),
        (("held-out", "test"), "unknown protocol 'test'; allowed are held-out, paper"),
        (("0.125", "nan"), "score 'nan' is not a finite number of 0 or more"),
        (("0.125", "12.5"), "score 12.5: error is at most 1, not in percent"),
        (("0.125,0,", "0.125,-1,"), "seed '-1' is not an integer of 0 or more"),
        (
            ("https://example.org/paper", ""),
            "source is empty; give a paper, URL or DOI",
        ),
        ((",https://example.org/paper", ""), "1 cells missing"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(
    change: tuple[str, str], message: str
) -> None:
    bad_row = GOOD.replace(*change).replace("theirs", "other")
    text = read_problems(HEADER, GOOD, bad_row)
    assert text.startswith("rows.csv: 1 problem\n  line 3: ")
    assert message in text


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (
            [HEADER, BAD, GOOD, BAD],
            ["rows.csv: 2 problems", "line 2: score", "line 4: score"],
        ),
        (
            [HEADER, *[BAD] * 1000],
            ["more than 20 problems; the first are", "line 21: score"],
        ),
        (
            [HEADER, GOOD.replace("theirs", '"a\nb"'), BAD],
            ["line 2: method", "line 4: score"],
        ),
        (
            [HEADER, GOOD, GOOD.replace("0.125", "0.5"), BAD],
            ["line 3: repeats line 2", "line 4: score"],
        ),
        ([HEADER, GOOD, MEAN], ["line 3: repeats line 2"]),
        ([f"{HEADER},std", f"{GOOD},0.1"], ["std belongs to a mean"]),
        ([f"{HEADER},std", f"{MEAN},x"], ["std 'x' is not a finite number"]),
        (
            [f"{HEADER},metric_version", f"{GOOD},x"],
            ["metric_version 'x' is not an integer"],
        ),
        (
            [f"{HEADER},metric_version", f"{GOOD},", f"{GOOD},2"],
            ["line 3: made with version 2 of error, which"],
        ),
        (
            [f"{HEADER},data_fingerprint", f"{GOOD},0d"],
            ["line 2: made on data 0d, which are ab12 here: com"],
        ),
        (["method,task"], ["columns missing: metric, protocol, score, seed, source"]),
        ([f"{HEADER},colour", f"{GOOD},red"], ["names 'colour'"]),
        ([HEADER], ["the file has no rows"]),
        ([HEADER, "x" * 200_000], ["not CSV: field larger than"]),
        ([HEADER, "PAR1\udcff\udcfe"], ["line 2: the text is not UTF-8"]),
    ],
)
def test_a_bad_file_is_refused_with_its_problems(
    lines: list[str], messages: list[str]
) -> None:
    text = read_problems(*lines)
    for message in messages:
        assert message in text
    assert text.count("\n") <= submissions.MAX_PROBLEMS


def test_a_large_file_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="larger than 10 MiB"):
        read_scores(path, KNOWN)
    monkeypatch.setattr(submissions, "MAX_ROWS", 2)
    rows = [GOOD.replace(",0,", f",{seed},") for seed in range(3)]
    assert "more than 2 rows" in read_problems(HEADER, *rows)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A file with one good row."""
    path = tmp_path / "rows.csv"
    path.write_text(f"{HEADER}\n{GOOD}\n")
    return path


def test_imported_scores_are_kept_beside_the_records(
    store: ResultsStore, rows: Path
) -> None:
    store.append([make_record()])
    before = files_of(store)
    for _ in range(2):  # the second import of the same file changes nothing
        assert import_scores(store.uri, rows, KNOWN) == 1
        assert imported_scores(store.uri) == (parse(HEADER, GOOD), [])
    assert files_of(store) == before
    assert len(store.records()) == 1


def test_a_bad_file_writes_nothing(rows: Path) -> None:
    rows.write_text(f"{HEADER}\n{GOOD}\n{GOOD}\n")
    with pytest.raises(UserError, match="repeats line 2"):
        import_scores(str(rows.with_name("results")), rows, KNOWN)
    assert not rows.with_name("results").exists()


def test_a_damaged_file_of_a_store_is_named_and_left_out(
    store: ResultsStore, rows: Path
) -> None:
    import_scores(store.uri, rows, KNOWN)
    (Path(store.uri) / submissions.DIRECTORY / "torn.csv").write_text(
        f"{HEADER}\n{GOOD[:30]}"
    )
    scores, (warning,) = imported_scores(store.uri)
    assert scores == parse(HEADER, GOOD)
    assert "imported/torn.csv: 1 problem" in warning
    assert "cells missing" in warning
    (copy,) = (Path(store.uri) / submissions.DIRECTORY).glob("?" * 16 + ".csv")
    copy.write_text(copy.read_text().replace("0.125", "0.25"))
    scores, (warning, _) = imported_scores(store.uri)
    assert scores == []
    assert (
        f"imported/{copy.name} was changed since it was imported; delete it, and import"
        " the file again" in warning
    )


def test_scores_of_one_source_are_taken_from_one_file(
    store: ResultsStore, rows: Path
) -> None:
    """Otherwise a corrected file would be averaged with the file that it corrects."""
    new = rows.with_name("new.csv")
    corrected = GOOD.replace("0.125,0", "0.25,1")
    another = GOOD.replace("theirs", "other")
    new.write_text(f"{HEADER}\n{corrected}\n{another}\n")
    import_scores(store.uri, rows, KNOWN)
    message = (
        r"new\.csv: 1 score\(s\) .* that imported/.*\.csv has\. Delete the old file"
    )
    with pytest.raises(UserError, match=message):
        import_scores(store.uri, new, KNOWN)
    assert imported_scores(store.uri) == (parse(HEADER, GOOD), [])
    (Path(store.uri) / submissions.DIRECTORY / "zzz.csv").write_bytes(new.read_bytes())
    scores, (warning,) = imported_scores(store.uri)
    assert [score.method for score in scores] == ["theirs", "other"]
    assert "imported/zzz.csv: 1 score(s)" in warning


KEY = "0123456789abcdef0123"
OTHER = "fedcba98765432100123"


def make_folder(path: Path, **files: str) -> Path:
    """Create a model folder; ``files`` are additional or other contents by name."""
    path.mkdir(parents=True)
    contents = {"config.json": "{}", "model.safetensors": "w"} | files
    for name, content in contents.items():
        (path / name).write_text(content)
    return path


@pytest.fixture
def models(tmp_path: Path) -> StoredModels:
    (tmp_path / "results").mkdir()
    return StoredModels(tmp_path / "results")


def check_models(models: StoredModels, tmp_path: Path) -> None:
    """Check what models must do in every store."""
    assert not models.has(KEY)
    models.add(KEY, make_folder(tmp_path / "first", notes="old"))
    models.add(OTHER, make_folder(tmp_path / "other"))
    models.add(KEY, make_folder(tmp_path / "second"))
    assert models.has(KEY)
    assert models.read(KEY, "model.safetensors") == b"w"
    assert models.read(KEY, "notes") is None, "nothing of an earlier model remains"
    models.write(KEY, "README.md", b"card")
    assert models.read(KEY, "README.md") == b"card"
    models.remove(KEY)
    models.remove(KEY)
    assert not models.has(KEY)
    assert models.has(OTHER)


def test_models_of_a_local_store(models: StoredModels, tmp_path: Path) -> None:
    store = tmp_path / "results"
    check_models(models, tmp_path)
    assert [path.name for path in (store / "models").iterdir()] == [OTHER]
    assert models.place(OTHER) == f"{store}/models/{OTHER}"


def test_a_model_is_fetched_in_place_of_another_and_other_files_stay(
    models: StoredModels, tmp_path: Path
) -> None:
    models.add(KEY, make_folder(tmp_path / "first", **{"model.safetensors": "new"}))
    out = make_folder(tmp_path / "out", **{"predictions.parquet": "mine"})
    models.fetch(KEY, out)
    contents = {path.name: path.read_text() for path in out.iterdir()}
    assert contents == {
        "config.json": "{}",
        "model.safetensors": "new",
        "predictions.parquet": "mine",
    }


@pytest.mark.slow
def test_models_of_an_object_store(uri: str, tmp_path: Path) -> None:  # noqa: F811
    models = StoredModels(uri)
    check_models(models, tmp_path)
    assert open_folder(uri).names(f"models/{KEY}", hidden=True) == []
    assert "secret" not in models.place(KEY)
    assert models.place(KEY).endswith(f"/models/{KEY}")


def test_an_interrupted_upload_is_no_model(
    models: StoredModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models.add(KEY, make_folder(tmp_path / "first"))
    before_the_configuration = [mock.DEFAULT, UserError("no network")]
    upload = mock.Mock(
        wraps=models._folder.upload, side_effect=before_the_configuration
    )
    monkeypatch.setattr(models._folder, "upload", upload)
    with pytest.raises(UserError, match="no network"):
        models.add(KEY, make_folder(tmp_path / "second"))
    assert not models.has(KEY), "a mixture of two models is none"


def test_models_leave_room_for_records(
    models: StoredModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**31))
    with pytest.raises(UserError, match="use --keep-models best or none"):
        models.add(KEY, make_folder(tmp_path / "first"))
    assert not models.has(KEY)
