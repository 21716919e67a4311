"""Trials that are run again from their record, and compared with it."""

import json
from dataclasses import replace
from math import nextafter
from pathlib import Path
from typing import Any

import pytest

from orca_ray.cli.app import run
from orca_ray.errors import UserError
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.run import reproduce as module
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.run.reproduce import Verdict, find_record, make_trial, reproduce
from tests.sweep.real import TEXT, make_tiny_spec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_home")]
SWEEP = TEXT.replace("search_trials: 3", "search_trials: 1")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ResultsStore:
    """Deterministic records of two methods with a tiny body, on real data."""
    directory = tmp_path_factory.mktemp("real")
    store = ResultsStore(directory / "results", create=True)
    spec = make_tiny_spec(directory, SWEEP)
    overrides = replace(spec.overrides, deterministic=True)
    deterministic = replace(spec, overrides=overrides)
    run_sweep(deterministic, store, executor=InlineExecutor())
    return store


def select_record(store: ResultsStore, method: str) -> Record:
    """Return the first record of a method whose trial has a test score."""
    return store.select({"phase": ["confirm"], "method": [method]})[0]


def make_store(tmp_path: Path, *records: Record) -> ResultsStore:
    """Return a new store with records."""
    store = ResultsStore(tmp_path / "changed", create=True)
    store.append(records)
    return store


def list_files(store: ResultsStore) -> list[str]:
    return sorted(path.name for path in Path(store.uri).rglob("*"))


def test_a_deterministic_record_is_reproduced_bit_for_bit(real: ResultsStore) -> None:
    record = select_record(real, "orca")
    files_before = list_files(real)
    compared = reproduce(record, real)
    assert compared.agrees
    assert compared.differences == {}
    assert compared.environment == {}
    assert compared.scores == (record.test_score, record.test_score)
    assert not compared.again.align_reused
    assert list_files(real) == files_before


def test_a_score_that_differs_in_the_last_bit_does_not_agree(
    real: ResultsStore, tmp_path: Path
) -> None:
    record = select_record(real, "nft")
    assert record.test_score is not None
    other_score = nextafter(record.test_score, 1)
    other = replace(
        record,
        test_score=other_score,
        training_loss=None,  # as in records of older versions
        torch_version="1.0",
        node="elsewhere",
    )
    compared = reproduce(other, make_store(tmp_path, other))
    assert not compared.agrees
    assert compared.differences == {"test_score": (other_score, record.test_score)}
    assert compared.environment == {
        "torch_version": ("1.0", record.torch_version),
        "node": ("elsewhere", record.node),
    }


@pytest.mark.parametrize(
    ("score", "verdict"),
    [
        (0.3, Verdict.EQUAL),
        (1.69, Verdict.WITHIN_NOISE),
        (1.71, Verdict.DIFFERS),
    ],
)
def test_other_scores_are_within_the_interval_of_new_seeds(
    real: ResultsStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    score: float,
    verdict: Verdict,
) -> None:
    """The logarithms of 0.2, 0.3 and 0.4 have a deviation of 0.348.

    Student's quantile for 2 degrees of freedom is 4.303.
    """
    record = replace(select_record(real, "nft"), deterministic=False)
    first, second, third = (
        replace(record, trial_key=f"{seed}", seed=seed, test_score=score)
        for seed, score in enumerate((0.2, 0.3, 0.4))
    )
    older = replace(record, trial_key="9", seed=9, test_score=0.9, metric_version=9)
    again = replace(record, test_score=score)
    monkeypatch.setattr(module, "make_trial", lambda record: None)
    monkeypatch.setattr(module, "run_again", lambda record, trial, model: again)
    compared = reproduce(second, make_store(tmp_path, first, second, third, older))
    assert compared.verdict is verdict
    if verdict is not Verdict.EQUAL:
        assert "between 0.05318 and 1.692: there, 3 seeds and the" in compared.rule
        without_other_seeds = make_store(tmp_path / "alone", second)
        assert reproduce(second, without_other_seeds).verdict is Verdict.UNKNOWN


def test_only_the_same_processor_must_give_equal_bits(
    real: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = select_record(real, "nft")
    assert record.test_score is not None
    again = replace(record, test_score=record.test_score * 1.0001)
    monkeypatch.setattr(module, "run_again", lambda record, trial, model: again)
    assert reproduce(record, real).verdict is Verdict.DIFFERS
    again = replace(again, processor="another")
    compared = reproduce(record, real)
    assert compared.verdict is Verdict.WITHIN_NOISE
    assert compared.agrees


def test_a_trial_that_was_stopped_early_is_run_as_far(real: ResultsStore) -> None:
    whole = select_record(real, "nft")
    curve = real.curves(trial_key=whole.trial_key).query("stage == 'refine'")[:2]
    scores = curve["validation_score"].tolist()
    losses = curve["loss"].tolist()
    record = replace(
        whole,
        status=Status.STOPPED_EARLY,
        phase="search",
        test_score=None,
        epochs=2,
        validation_score=min(scores),
        best_epoch=scores.index(min(scores)) + 1,
        training_loss=losses[1],
    )
    compared = reproduce(record, real)
    assert compared.agrees
    assert compared.again.epochs == 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": Status.FAILED_OOM}, "ended as failed_oom, so it has no score"),
        (
            {"data_fingerprint": "0" * 16},
            "are not those of the record .*data fetch pocket/wdbc",
        ),
        ({"task": "pocket/digit"}, "pocket/digits"),
        ({"method": "orka"}, "orca"),
        ({"hyperparameters": '{"refine.epochs":7}'}, "it was changed"),
    ],
)
def test_a_record_that_cannot_be_reproduced_is_refused(
    real: ResultsStore, changes: dict[str, Any], reason: str
) -> None:
    record = replace(select_record(real, "nft"), **changes)
    with pytest.raises(UserError, match=reason):
        make_trial(record)


def test_a_trial_whose_data_are_missing_is_not_run_again(
    real: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = select_record(real, "nft")
    monkeypatch.setenv("ORCA_RAY_HOME", "/nonexistent")
    message = "not prepared on this machine: run 'orca-sweep data fetch pocket/wdbc'"
    with pytest.raises(UserError, match=message):
        make_trial(record)


def test_a_record_is_found_by_the_start_of_its_key(real: ResultsStore) -> None:
    record = select_record(real, "nft")
    assert find_record(real, record.trial_key[:12]) == record
    assert find_record(real, record.trial_key, record.sweep) == record


@pytest.mark.parametrize("key", ["nokey", ""])
def test_an_unknown_key_is_refused(real: ResultsStore, key: str) -> None:
    with pytest.raises(UserError, match=f"no trial with the key '{key}'"):
        find_record(real, key)


def test_a_key_of_several_records_is_refused(
    real: ResultsStore, tmp_path: Path
) -> None:
    record = select_record(real, "nft")
    alike = [replace(record, trial_key=f"abc{number}") for number in range(7)]
    store = make_store(tmp_path, *alike, replace(alike[0], sweep="other"))
    message = r"7 trials in .* abc0, abc1, abc2, abc3, abc4, …; give more digits"
    with pytest.raises(UserError, match=message):
        find_record(store, "abc")
    message = "abc0 belongs to 2 sweeps: give --sweep, one of other, tiny/full"
    with pytest.raises(UserError, match=message):
        find_record(store, "abc0")
    assert find_record(store, "abc0", "other").sweep == "other"


def test_a_command_whose_scores_agree_exits_with_0(
    real: ResultsStore, capsys: pytest.CaptureFixture[str]
) -> None:
    record = select_record(real, "nft")
    assert run(["reproduce", record.trial_key[:12], "--results", real.uri]) == 0
    score = repr(record.test_score)
    sentence = (
        f"one_minus_auroc on test: {score} in the record, {score} now: agrees, bit for"
        " bit"
    )
    assert sentence in capsys.readouterr().out


def test_a_command_whose_scores_differ_exits_with_1(
    real: ResultsStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = select_record(real, "nft")
    wrong = make_store(tmp_path, replace(record, test_score=0.25))
    assert run(["reproduce", record.trial_key, "--results", wrong.uri, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["scores"] == [0.25, record.test_score]
    assert not printed["agrees"]


def test_a_command_without_a_record_exits_with_2(
    real: ResultsStore, tmp_path: Path
) -> None:
    assert run(["reproduce", "nokey", "--results", real.uri]) == 2
    assert run(["reproduce", "nokey", "--results", str(tmp_path / "none")]) == 2
