"""Trials that are run again from their record: agreement bit for bit, within the spread
of seeds, and refusals.
"""

import json
from dataclasses import replace
from math import nextafter
from pathlib import Path

import pytest

from orca_ray.cli.app import run
from orca_ray.errors import UserError
from orca_ray.results.record import Record, Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.executors.inline import InlineExecutor
from orca_ray.sweep.run import reproduce as module
from orca_ray.sweep.run.driver import run_sweep
from orca_ray.sweep.run.reproduce import find_record, make_trial, reproduce
from tests.sweep.real import TEXT, tiny_spec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_home")]
SWEEP = TEXT.replace("search_trials: 3", "search_trials: 1")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> ResultsStore:
    """Records of two methods, deterministic, of a tiny body on real data."""
    directory = tmp_path_factory.mktemp("real")
    store = ResultsStore(directory / "results", create=True)
    spec = tiny_spec(directory, SWEEP)
    run_sweep(
        replace(spec, overrides=replace(spec.overrides, deterministic=True)),
        store,
        executor=InlineExecutor(),
    )
    return store


def record_of(store: ResultsStore, method: str) -> Record:
    return store.select({"phase": ["confirm"], "method": [method]})[0]


def changed(tmp_path: Path, *changes: Record) -> ResultsStore:
    store = ResultsStore(tmp_path / "changed", create=True)
    store.append(changes)
    return store


def test_a_deterministic_record_is_reproduced_bit_for_bit(real: ResultsStore) -> None:
    record = record_of(real, "orca")
    before = sorted(path.name for path in Path(real.uri).rglob("*"))
    compared = reproduce(record, real)
    assert compared.agrees
    assert compared.differences == {}
    assert compared.environment == {}
    assert compared.scores == (record.test_score, record.test_score)
    assert not compared.again.align_reused
    assert sorted(path.name for path in Path(real.uri).rglob("*")) == before


def test_a_score_that_differs_in_the_last_bit_does_not_agree(
    real: ResultsStore, tmp_path: Path
) -> None:
    record = replace(
        record_of(real, "nft"), training_loss=None
    )  # as of an older version
    assert record.test_score is not None
    other = replace(
        record,
        test_score=nextafter(record.test_score, 1),
        torch_version="1.0",
        node="elsewhere",
    )
    compared = reproduce(other, changed(tmp_path, other))
    assert not compared.agrees
    assert compared.differences == {"test_score": (other.test_score, record.test_score)}
    assert compared.environment == {
        "torch_version": ("1.0", record.torch_version),
        "node": ("elsewhere", record.node),
    }


def test_otherwise_scores_agree_where_new_seeds_would_be(
    real: ResultsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deviation of 0.2, 0.3 and 0.4 is 0.1, and Student's quantile for 2 degrees of
    freedom 4.303.
    """
    record = replace(record_of(real, "nft"), deterministic=False)
    seeds = [
        replace(record, trial_key=f"{n}", seed=n, test_score=0.2 + n / 10)
        for n in range(3)
    ]
    older = replace(record, trial_key="9", seed=9, test_score=0.9, metric_version=9)
    store = changed(tmp_path, *seeds, older)
    alone = changed(tmp_path / "alone", seeds[1])
    monkeypatch.setattr(module, "make_trial", lambda record: None)
    for shift, agrees in ((0.49, True), (0.50, False), (-0.50, False)):
        again = replace(record, test_score=0.3 + shift)
        monkeypatch.setattr(
            module, "run_again", lambda record, trial, model, again=again: again
        )
        compared = reproduce(seeds[1], store)
        assert compared.agrees is agrees
        assert (
            compared.rule
            == "scores agree within 0.497 of 0.3: there, 3 seeds say, 95 % of new"
            " scores are"
        )
        assert not reproduce(seeds[1], alone).agrees


def test_a_trial_that_was_stopped_early_is_run_as_far(real: ResultsStore) -> None:
    whole = record_of(real, "nft")
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


def test_what_cannot_be_reproduced_here(
    real: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = record_of(real, "nft")
    refusals = [
        (
            replace(record, status=Status.FAILED_OOM),
            "ended as failed_oom, so it has no score",
        ),
        (
            replace(record, data_fingerprint="0" * 16),
            "are not those of the record .*data fetch pocket/wdbc",
        ),
        (replace(record, task="pocket/digit"), "pocket/digits"),
        (replace(record, method="orka"), "orca"),
        (replace(record, hyperparameters='{"refine.epochs":7}'), "it was changed"),
    ]
    for each, reason in refusals:
        with pytest.raises(UserError, match=reason):
            make_trial(each)
    monkeypatch.setenv("ORCA_RAY_HOME", "/nonexistent")
    with pytest.raises(
        UserError,
        match="not prepared on this machine: run 'orca-sweep data fetch pocket/wdbc'",
    ):
        make_trial(record)


def test_a_record_is_found_by_the_start_of_its_key(
    real: ResultsStore, tmp_path: Path
) -> None:
    record = record_of(real, "nft")
    assert find_record(real, record.trial_key[:12]) == record
    assert find_record(real, record.trial_key, record.sweep) == record
    for key in ("nokey", ""):
        with pytest.raises(UserError, match=f"no trial with the key '{key}'"):
            find_record(real, key)
    alike = [replace(record, trial_key=f"abc{number}") for number in range(7)]
    store = changed(tmp_path, *alike, replace(alike[0], sweep="other"))
    with pytest.raises(
        UserError,
        match=r"7 trials in .* abc0, abc1, abc2, abc3, abc4, …; give more digits",
    ):
        find_record(store, "abc")
    with pytest.raises(
        UserError,
        match="abc0 belongs to 2 sweeps: give --sweep, one of other, tiny/full",
    ):
        find_record(store, "abc0")
    assert find_record(store, "abc0", "other").sweep == "other"


def test_exit_codes(
    real: ResultsStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of(real, "nft")
    assert run(["reproduce", record.trial_key[:12], "--results", real.uri]) == 0
    out = capsys.readouterr().out
    score = repr(record.test_score)
    assert (
        f"one_minus_auroc on test: {score} in the record, {score} now: agrees, bit"
        " for bit" in out
    )
    wrong = replace(record, test_score=0.25)
    other = changed(tmp_path, wrong)
    assert run(["reproduce", record.trial_key, "--results", other.uri, "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["scores"] == [0.25, record.test_score]
    assert not printed["agrees"]
    assert run(["reproduce", "nokey", "--results", real.uri]) == 2
    assert run(["reproduce", "nokey", "--results", str(tmp_path / "none")]) == 2
