"""``results check``, ``import`` and ``export``, and published and imported scores on a leaderboard."""

from pathlib import Path

import pytest

from orca_ray.results.store import ResultsStore
from orca_ray.sweep.run.reproduce import Comparison
from tests.cli.conftest import Command
from tests.leaderboard.test_published import ORCA
from tests.results.factories import make_record

ROWS = """\
method,task,metric,protocol,score,seed,source
theirs,pocket/digits,error,held-out,0.125,0,https://example.org/paper
theirs,pocket/digits,error,held-out,0.25,1,https://example.org/paper
"""


@pytest.fixture
def rows() -> Path:
    path = Path("rows.csv")
    path.write_text(ROWS)
    return path


@pytest.mark.parametrize("store", ["missing", "empty", "of another benchmark"])
def test_without_own_scores_a_board_shows_the_published_ones(command: Command, store: str) -> None:
    if store != "missing":
        ResultsStore("results", create=True).append([] if store == "empty" else [make_record()])
    ending = command("leaderboard", "nasbench360")
    assert ending.code == 0
    assert "nothing ran here yet" in ending.out
    line = next(line for line in ending.out.splitlines() if line.startswith("ORCA "))
    assert [word.strip("*") for word in line.split()][1:8] == ORCA[:7]


def test_imported_rows_are_on_the_board_with_their_source_and_are_no_records(command: Command, rows: Path) -> None:
    assert command("results", "import", str(rows)).code == 0
    text = command("leaderboard", "pocket").out
    assert "nothing ran here yet" in text
    assert "theirs [1] (imported)" in text
    store = ResultsStore("results", create=True)
    store.append([make_record(test_score=0.5)])
    text = command("leaderboard", "pocket").out
    assert "theirs [1] (imported)" in text
    assert "[1] https://example.org/paper" in text
    document = command("leaderboard", "pocket", "--json").json
    assert [row["source"] for row in document["published"]["rows"]] == ["https://example.org/paper"]
    assert [each["name"] for each in document["methods"]] == ["orca"]
    assert document["published"]["beside"]["methods"][0]["cells"]["pocket/digits"]["score"] == 0.1875
    assert len(store.records()) == 1
    text = command("leaderboard", "pocket", "--hide", "digitised,imported").out
    assert "theirs" not in text
    assert "hidden published scores, out of all ranks: 1 imported" in text


def test_export_and_import_of_another_store(command: Command) -> None:
    scores = {0: 0.1, 1: 1 / 3}
    records = [make_record(f"k{seed}", seed=seed, test_score=score) for seed, score in scores.items()]
    ResultsStore("results", create=True).append(records)
    assert command("results", "export", "pocket", "-o", "mine.csv", "--source", "my page").code == 0
    assert Path("mine.csv").read_text() == (
        "method,task,metric,protocol,score,seed,source,std\n"
        "orca,pocket/digits,error,held-out,0.1,0,my page,\n"
        "orca,pocket/digits,error,held-out,0.3333333333333333,1,my page,\n"
    )
    assert command("results", "export", "pocket", "--source", "my page").out == Path("mine.csv").read_text()
    assert "2 score(s) of 1 method(s) on 1 task(s)" in command("results", "check", "mine.csv").out
    assert command("results", "import", "mine.csv", "--results", "elsewhere").code == 0
    document = command("leaderboard", "pocket", "--results", "elsewhere", "--json").json
    assert document["published"]["rows"][0]["score"] == pytest.approx((0.1 + 1 / 3) / 2)
    error = command.refused("results", "export", "pocket", "-o", "missing/mine.csv")
    assert "missing is no directory; give the path of a file in an existing directory" in error


def test_check_names_every_bad_file_and_line(command: Command, rows: Path) -> None:
    Path("bad.csv").write_text(ROWS.replace("0.25", "25"))
    Path("worse.csv").write_bytes(b"\x00\xff")
    ending = command("results", "check", "bad.csv", str(rows), "worse.csv")
    assert ending.code == 2
    assert "bad.csv: 1 problem" in ending.err
    assert "line 3: score 25: error is at most 1, not in percent" in ending.err
    assert "worse.csv: 1 problem" in ending.err
    assert "rows.csv: 2 score(s)" in ending.out
    for name in ("bad.csv", "missing.csv", ".", "/dev/zero"):
        assert name in command.refused("results", "import", name)
    assert not Path("results").exists()
    assert command("results", "check").code == 0, "the submitted rows of the project are valid"


@pytest.mark.parametrize(("test_score", "shown"), [(0.5, "test: 0.5"), (None, "validation: 0.25")])
def test_a_trial_that_ran_again_is_compared_on_the_split_of_its_score(
    command: Command, test_score: float | None, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record("abc", test_score=test_score)
    same = Comparison(record=record, again=record, agrees=True, rule="equal", differences={}, environment={})
    monkeypatch.setattr("orca_ray.sweep.run.reproduce.reproduce", lambda *_: same)
    ResultsStore("results", create=True).append([record])
    assert f"error on {shown} in the record" in command("reproduce", "abc").out
