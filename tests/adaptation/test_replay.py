"""The replay of searches on stored trials (``benchmarks/replay.py``)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay import (
    Answers,
    first_division,
    make_plans,
    make_problem,
    register_declaration,
    replay,
    search_of_tree,
    simulate,
    trial_of,
)
from benchmarks.replay_table import (
    PEERS,
    TEST,
    VALIDATION,
    StoredTrial,
    TrialTable,
    read_table,
    write_table,
)
from orca_ray.adaptation.configuration import ALL, EPOCHS
from orca_ray.adaptation.sweep import AdaptationSweep
from orca_ray.data.prepared import held_rows
from orca_ray.data.rows import Array
from orca_ray.results.record import Status
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import SearchPlan, num_epochs, plan_searches
from orca_ray.sweep.plan.trial_spec import TrialSpec, canonical_json
from tests.adaptation.toy import NUM_KNOWN, Toy
from tests.results.factories import make_record

GOOD = "nft"
BAD = "linear"


@pytest.fixture
def toy(tmp_path: Path, empty_home: Path) -> Toy:
    return Toy(tmp_path / "results")


def plans_of(toy: Toy) -> dict[str, SearchPlan]:
    """Return the plans of `GOOD` and `BAD`, as `adapt` makes them."""
    register_declaration(toy.task)
    spec = AdaptationSweep(task=toy.task, methods=[BAD, GOOD]).spec()
    fingerprints = {toy.task.name: toy.data.fingerprint}
    plans = plan_searches(spec, fingerprints, gpus=False)
    return {plan.method: plan for plan in plans}


def stored_trial(
    toy: Toy, plan: SearchPlan, fold: int, values: Mapping[str, Scalar] | None = None
) -> StoredTrial:
    """Return a stored trial that takes a second for each epoch; `GOOD` has no error."""
    trial = trial_of(plan, {**plan.first, **(values or {})}, fold)
    known = toy.y[:NUM_KNOWN]
    rows = held_rows(toy.data, fold) if fold > 0 else np.arange(NUM_KNOWN)
    test = toy.y[NUM_KNOWN:]
    record = make_record(
        trial.key,
        task=toy.task.name,
        method=plan.method,
        hyperparameters=canonical_json(dict(trial.hyperparameters)),
        epochs=trial.epochs,
        best_epoch=trial.epochs,
        validation_score=0.0 if plan.method == GOOD else 1.0,
        refine_seconds=float(trial.epochs),
        align_seconds=0.0,
        evaluate_seconds=0.0,
        wall_seconds=float(trial.epochs),
    )
    outputs = {
        VALIDATION: logits(known[rows], plan.method),
        TEST: logits(test, plan.method),
        PEERS: logits(test, plan.method),
    }
    return StoredTrial(record, outputs)


def logits(y: Array, method: str) -> Array:
    """Return logits [n, 2] that are right if the method is `GOOD`, else wrong."""
    sign = 1.0 if method == GOOD else -1.0
    return (sign * np.where(np.arange(2) == y[:, None], 1, -1)).astype(np.float32)


def make_table(toy: Toy, trials: Sequence[StoredTrial]) -> TrialTable:
    return TrialTable(
        name="toy",
        kind="table",
        task=toy.task,
        data=toy.data,
        answers=toy.y[NUM_KNOWN:],
        estimates={GOOD: 5.0, BAD: 0.1},
        sources={GOOD: "", BAD: ""},
        trials=trials,
    )


def usual_table(toy: Toy) -> TrialTable:
    """Return the table of both methods' usual trials on all folds and all samples."""
    trials = [
        stored_trial(toy, plan, fold)
        for plan in plans_of(toy).values()
        for fold in (1, 2, 3, 4, 5, ALL)
    ]
    return make_table(toy, trials)


def usual_trial(toy: Toy, fold: int, **values: Scalar) -> TrialSpec:
    plan = plans_of(toy)[GOOD]
    return trial_of(plan, {**plan.first, **values}, fold)


def test_table_is_read_as_it_was_written(toy: Toy, tmp_path: Path) -> None:
    table = usual_table(toy)
    write_table(table, tmp_path)
    read = read_table("toy", tmp_path)
    assert [each.record for each in read.trials] == [
        each.record for each in table.trials
    ]
    for stored, expected in zip(read.trials, table.trials, strict=True):
        assert stored.outputs.keys() == expected.outputs.keys()
        for name, outputs in expected.outputs.items():
            np.testing.assert_allclose(stored.outputs[name], outputs, rtol=1e-3)
    np.testing.assert_array_equal(read.answers, table.answers)
    np.testing.assert_array_equal(read.data.validation.y, toy.data.validation.y)
    assert replace(read.task, build=toy.task.build) == toy.task


def test_stored_trial_answers_for_the_same_trial(toy: Toy) -> None:
    table = usual_table(toy)
    answers = Answers(table, speed=2.0)
    trial = usual_trial(toy, 3)
    record = answers.answer(trial, now=7.0)
    stored = next(
        each for each in table.trials if each.record.trial_key == trial.key
    ).record
    assert record.trial_key == trial.key
    assert record.wall_seconds == stored.wall_seconds / 2
    assert record.validation_score == stored.validation_score
    assert answers.counts == {"exact": 1}


def test_nearest_schedule_answers_with_scaled_seconds(toy: Toy) -> None:
    table = usual_table(toy)
    answers = Answers(table)
    usual = num_epochs(plans_of(toy)[GOOD].first)
    record = answers.answer(usual_trial(toy, 1, **{EPOCHS: 2 * usual}), now=0.0)
    assert record.wall_seconds == 2 * usual
    assert record.best_epoch == 2 * usual
    assert answers.counts == {"epochs": 1}


def test_trial_on_a_fold_that_is_not_stored_fails(toy: Toy) -> None:
    plan = plans_of(toy)[GOOD]
    answers = Answers(make_table(toy, [stored_trial(toy, plan, 1)]))
    record = answers.answer(usual_trial(toy, 2), now=0.0)
    assert record.status is Status.FAILED_CODE
    assert record.wall_seconds == num_epochs(plan.first)
    assert answers.counts == {"hole": 1}


def test_stored_suggestions_answer_for_others_in_turn(toy: Toy) -> None:
    plan = plans_of(toy)[GOOD]
    rates = (0.5, 0.25)
    suggested = [
        stored_trial(toy, plan, 1, {"refine.learning_rate": rate}) for rate in rates
    ]
    table = make_table(toy, [stored_trial(toy, plan, 1), *suggested])
    answers = Answers(table)
    asked = [usual_trial(toy, 1, **{"refine.learning_rate": 10**-n}) for n in (5, 6, 7)]
    found = [answers.find(trial) for trial in asked]
    assert [each.stored for each in found] == [*suggested, suggested[0]]
    assert answers.find(asked[1]).stored is suggested[1]
    assert {each.how for each in found} == {"suggested"}


def test_search_ends_before_its_deadline_with_the_best_method(toy: Toy) -> None:
    table = usual_table(toy)
    problem = make_problem(table, 1.0, 1.0)
    records = simulate(problem, search_of_tree(problem))
    assert {record.method for record in records} == {GOOD, BAD}
    assert sum(record.wall_seconds for record in records) <= problem.deadline
    outcome = replay(table, 1.0, 1.0, "policy")
    assert outcome.error == 0
    assert GOOD in outcome.chosen


def test_nothing_is_suggested_without_stored_suggestions(toy: Toy) -> None:
    plans = {plan.method: plan for plan in make_plans(usual_table(toy))}
    assert plans_of(toy)[GOOD].space
    assert not plans[GOOD].space


def test_only_the_first_division_is_replayed(tmp_path: Path) -> None:
    toy = Toy(tmp_path, num_divisions=3)
    folds = first_division(toy.data).folds
    assert folds is not None
    np.testing.assert_array_equal(folds, toy.folds[:1])
