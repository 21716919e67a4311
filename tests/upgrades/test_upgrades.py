"""Stores, sweeps and models of earlier commits are read, or refused in one sentence.

README.md in this folder says how the files were written.
"""

from pathlib import Path
from shutil import copytree

import numpy as np
import pandas as pd
import pytest

from orca_ray.results.marker import MARKER
from orca_ray.results.store import ResultsStore
from tests.cli.conftest import Command, command

__all__ = ["command"]

HERE = Path(__file__).parent
PLANTS = str(HERE / "plants.csv")
SWEEP = str(HERE / "sweep.yaml")
COMMITS = ("b6ebf5a", "0a7a14ad")
MODELS = tuple(
    path.relative_to(HERE).with_suffix("")
    for path in sorted(HERE.glob("*/*.csv"))
    if path.name != "scores.csv"
)
"""Folders of models beside which predictions of the same commit lie."""


@pytest.fixture(params=COMMITS)
def commit(request: pytest.FixtureRequest) -> Path:
    """The folder of a commit."""
    return HERE / str(request.param)


@pytest.fixture
def store(commit: Path, tmp_path: Path) -> Path:
    """A copy of the store of a commit."""
    return copytree(commit / "store", tmp_path / "store")


def read_scores(store: Path) -> pd.DataFrame:
    """Return the columns of ``scores.csv``, one row for each trial."""
    columns = pd.read_csv(HERE / COMMITS[0] / "scores.csv", nrows=0).columns
    frame = ResultsStore(store).records()[list(columns)]
    return frame.sort_values("trial_key", ignore_index=True)


def check_scores(commit: Path, store: Path) -> None:
    """Check that trials of the commit have the scores that the commit read."""
    expected = pd.read_csv(commit / "scores.csv")
    found = read_scores(store)
    found = found[found["trial_key"].isin(expected["trial_key"])]
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True), expected, check_dtype=False, check_exact=False
    )


def test_a_store_has_the_records_and_scores_that_its_commit_read(
    commit: Path, store: Path
) -> None:
    check_scores(commit, store)
    assert len(read_scores(store)) == len(pd.read_csv(commit / "scores.csv"))
    curves = ResultsStore(store).curves()
    scored = set(read_scores(store).dropna(subset="validation_score")["trial_key"])
    assert scored <= set(curves["trial_key"])


def test_a_store_becomes_a_leaderboard(store: Path, command: Command) -> None:
    options = ("--sweep", "upgrade/full", "--results", str(store), "--format", "json")
    board = command.succeed("leaderboard", "pocket", *options).json
    assert {method["name"] for method in board["methods"]} == {
        "gradient_boosting",
        "no_body",
    }


@pytest.mark.usefixtures("empty_home")
def test_a_finished_sweep_has_nothing_to_do_and_its_store_stays_as_it_is(
    store: Path, command: Command
) -> None:
    marker = (store / MARKER).read_bytes()
    num_records = len(read_scores(store))
    options = ("--results", str(store), "--executor", "inline")
    ending = command.succeed("run", SWEEP, *options)
    assert "up to date" in ending.out + ending.err
    assert len(read_scores(store)) == num_records
    assert (store / MARKER).read_bytes() == marker


@pytest.mark.slow
@pytest.mark.usefixtures("own_home")
def test_a_sweep_is_extended_by_one_seed(
    commit: Path, store: Path, command: Command
) -> None:
    before = read_scores(store)
    options = ("--results", str(store), "--executor", "inline", "--seeds", "3")
    command.succeed("run", SWEEP, *options, "--methods", "gradient_boosting")
    after = read_scores(store)
    new = after[~after["trial_key"].isin(before["trial_key"])]
    assert new[["method", "phase", "seed", "status"]].to_numpy().tolist() == [
        ["gradient_boosting", "confirm", 3, "completed"]
    ]
    check_scores(commit, store)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_model_predicts_what_it_predicted(
    model: Path, command: Command, tmp_path: Path
) -> None:
    out = tmp_path / "predictions.csv"
    command.succeed("predict", str(HERE / model), PLANTS, "-o", str(out))
    expected = pd.read_csv(HERE / model.with_suffix(".csv"))
    found = pd.read_csv(out)
    assert list(found.columns) == list(expected.columns)
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    probabilities = expected.columns[expected.columns.str.startswith("p_")]
    np.testing.assert_allclose(
        found[probabilities], expected[probabilities], rtol=0, atol=1e-5
    )


def test_a_model_of_the_first_preprocessing_is_refused_with_what_to_do(
    command: Command, tmp_path: Path
) -> None:
    model = str(HERE / "b6ebf5a" / "network")
    message = command.fail("predict", model, PLANTS, "-o", str(tmp_path / "out.csv"))
    [line] = message.splitlines()
    assert "version 1" in line
    assert "orca-sweep adapt again" in line
