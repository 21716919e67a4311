"""A search on own data in virtual time: what starts next, and what is dropped."""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.folds import Folds
from orca_ray.adaptation.ranking import rank_configurations
from orca_ray.adaptation.search import AdaptationSearch
from orca_ray.adaptation.variants import MOST_VARIANTS
from orca_ray.methods.options import Scalar
from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.trial_spec import TrialSpec, canonical_json
from orca_ray.sweep.search import History
from tests.results.factories import make_record
from tests.sweep.fakes import fake_searches, fake_spec

TEXT = """
name: adapt
benchmark: pocket
methods: [nft, scratch, linear_probe]
tasks: [pocket/wdbc]
settings: {refine.learning_rate: 1e-3, refine.epochs: 6}
space: {refine.learning_rate: {log_uniform: [1e-5, 1e-1]}}
budgets:
  full: {search_trials: 0, confirm_seeds: [1]}
"""
LEVELS = {"nft": 0.2, "scratch": 0.25, "linear_probe": 0.9}
"""Score of each method, without the difficulty of the fold."""
ALL = -1


def fold_of(trial: TrialSpec) -> int:
    return int(trial.hyperparameters.get("data.fold", 0))


@dataclass
class Track:
    """A search with a clock of its own; a trial takes one second an epoch."""

    seconds: float
    """Seconds until the deadline."""
    folds: Sequence[int] = (1, 2, 3, 4, 5)
    text: str = TEXT
    """Sweep file."""
    levels: Mapping[str, float] = field(default_factory=lambda: LEVELS)
    is_without_error: bool = False
    """Whether all scores are 0."""
    improving: bool = False
    """Whether the best epoch of a trial is the last one, and not the first."""
    history: History = field(default_factory=History)
    loss: float | None = None
    """Training loss of all trials."""
    estimate: float = 1.0
    """Estimated seconds of a trial."""
    now: float = 0.0
    ran: list[TrialSpec] = field(default_factory=list)
    """Trials in the order of their start."""
    records: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plans = fake_searches(fake_spec(self.text))
        folds = Folds(
            numbers=self.folds,
            division_size=len(self.folds),
            growth=1.5,
        )
        self.search = AdaptationSearch(
            self.plans,
            self.history,
            folds,
            deadline=self.seconds,
            estimates=dict.fromkeys(self.levels, self.estimate),
            clock=lambda: self.now,
        )

    def run(self, most: int | None = None) -> "Track":
        """Run trials one after another, until ``most`` have run, or to the end."""
        while most is None or len(self.ran) < most:
            trial = self.take()
            if trial is None:
                break
            self.end(trial)
        return self

    def take(self) -> TrialSpec | None:
        trial = self.search.take()
        if trial is not None:
            self.ran.append(trial)
        return trial

    def score_of(self, trial: TrialSpec) -> float:
        """Return the level of the method plus the difficulty of the fold plus noise.

        A level that improves falls with the number of epochs.
        """
        if self.is_without_error:
            return 0.0
        fold = fold_of(trial)
        level = self.levels[trial.method]
        if self.improving:
            level *= math.sqrt(6 / trial.epochs)
        noise = random.Random(f"{trial.method} {fold}").gauss(0, 0.005)
        return level + 0.05 * fold + noise

    def end(self, trial: TrialSpec, status: Status = Status.COMPLETED) -> None:
        """End a trial that has started, one second an epoch later."""
        self.now += trial.epochs
        record = make_record(
            trial_key=trial.key,
            task=trial.task,
            method=trial.method,
            phase="confirm",
            seed=trial.seed,
            status=status,
            hyperparameters=json.dumps(dict(trial.hyperparameters)),
            wall_seconds=float(trial.epochs),
            align_seconds=0.0,
            refine_seconds=float(trial.epochs),
            evaluate_seconds=0.0,
            validation_score=None if status.failed else self.score_of(trial),
            best_epoch=trial.epochs if self.improving else 1,
            training_loss=self.loss,
        )
        self.records[trial.key] = record
        self.search.finish(record, [])

    def next(self, seconds_left: float | None = None) -> tuple[str, int] | None:
        """Start the next trial, and return its method and fold.

        ``seconds_left``: seconds until the deadline at its start.
        """
        if seconds_left is not None:
            self.now = self.seconds - seconds_left
        trial = self.take()
        return None if trial is None else (trial.method, fold_of(trial))

    def started(self) -> list[tuple[str, int]]:
        """Return method and fold of all trials, in the order of their start."""
        return [(trial.method, fold_of(trial)) for trial in self.ran]

    def epochs_of(self, method: str) -> list[int]:
        """Return the numbers of epochs of a method's trials."""
        return [trial.epochs for trial in self.ran if trial.method == method]

    def reasons(self) -> dict[str, str]:
        """Return why methods have no score."""
        return {plan.method: reason for plan, reason in self.search.failures()}


def with_methods(*methods: str) -> str:
    """Return the sweep file with other methods."""
    return TEXT.replace("nft, scratch, linear_probe", ", ".join(methods))


def test_every_method_starts_on_the_first_fold_and_the_leader_gets_all_folds() -> None:
    started = Track(500.0).run(12).started()
    assert started[:3] == [("nft", 1), ("scratch", 1), ("linear_probe", 1)]
    later = started[3:]
    assert later[:4] == [("nft", fold) for fold in (2, 3, 4, 5)]
    assert ("linear_probe", 2) not in later, "it is worse than the leader's worst fold"
    assert ("scratch", 2) in later


def test_further_configurations_are_suggested_when_the_leader_has_its_folds() -> None:
    track = Track(400.0).run()
    variants = [
        trial
        for trial in track.ran
        if trial.hyperparameters["refine.learning_rate"] != 1e-3
    ]
    assert {trial.method for trial in variants} >= {"nft"}
    assert track.ran.index(variants[0]) >= 7, "three first trials and four folds"
    keys = [trial.key for trial in track.ran]
    assert len(set(keys)) == len(keys)
    assert 400 - 6 * 1.25 < track.now <= 400, "the time is used to the end"


def test_a_search_with_time_to_spare_ends_after_the_most_variants() -> None:
    track = Track(100_000.0, folds=[1]).run()
    assert track.search.done
    assert track.now < 100_000 / 100
    num_variants = Counter(
        configuration.method
        for configuration in track.search.configurations
        if configuration.is_variant and ALL not in configuration.records
    )
    assert num_variants == dict.fromkeys(LEVELS, MOST_VARIANTS)


def test_a_leader_that_still_improves_gets_twice_the_epochs_before_its_folds() -> None:
    track = Track(2000.0, improving=True).run(6)
    assert track.epochs_of("nft")[:3] == [6, 12, 24]
    assert {fold_of(trial) for trial in track.ran} == {1}
    assert Track(24.0, improving=True).run().now <= 24


def test_without_an_error_no_schedule_gets_longer() -> None:
    track = Track(1000.0, improving=True, is_without_error=True).run(9)
    assert {trial.epochs for trial in track.ran} == {6}


def test_first_trials_have_half_of_the_time_together() -> None:
    text = TEXT.replace("epochs: 6", "epochs: 24")
    track = Track(60.0, text=text, estimate=24.0).run(3)
    assert [trial.epochs for trial in track.ran] == [6, 6, 6], (
        "24 and 12 epochs take more than a sixth of half of the time"
    )
    warmup = track.ran[0].hyperparameters["refine.warmup_epochs"]
    assert warmup == pytest.approx(6 / 24), "the warm-up is as short"


def test_a_method_that_exceeds_its_share_starts_at_the_end() -> None:
    text = with_methods("linear_values", "nft", "scratch")
    levels = {**LEVELS, "linear_values": 0.3}
    track = Track(100.0, text=text, levels=levels, estimate=55.0)
    assert track.next() == ("nft", 1), "half of the time is left for a fitted method"


def test_the_first_trial_starts_however_little_time_there_is() -> None:
    track = Track(1.0, estimate=100.0).run()
    assert [trial.epochs for trial in track.ran] == [1]


@pytest.mark.parametrize(
    ("epochs", "best", "is_late"), [(2, 1, False), (4, 2, False), (4, 3, True)]
)
def test_more_epochs_may_help_if_the_best_is_in_the_second_half(
    epochs: int, best: int, is_late: bool
) -> None:
    record = make_record(best_epoch=best, validation_score=0.5, status=Status.COMPLETED)
    first = Track(1.0).plans[0].first
    configuration = Configuration(
        "nft", {"refine.epochs": epochs}, first, records={1: record}
    )
    assert configuration.has_late_best_epoch is is_late


def test_competitive_methods_without_a_body_come_before_those_with_one() -> None:
    track = Track(
        1000.0,
        text=with_methods("nft", "scratch", "linear"),
        levels={**LEVELS, "linear": 0.26},
    )
    later = track.run(12).started()[7:]
    assert later[:4] == [("linear", fold) for fold in (2, 3, 4, 5)]


def test_ranks_compare_configurations_on_common_folds() -> None:
    def make(method: str, *scores: float) -> Configuration:
        records = {
            fold: make_record(f"{method}{fold}", validation_score=score)
            for fold, score in enumerate(scores, start=1)
        }
        return Configuration(method, {}, records=records)

    lucky = make("cnn", 0.25)
    reference = make("nft", 0.2, 0.3, 0.4)
    better = make("scratch", 0.15, 0.3)
    ranked = rank_configurations([lucky, reference, better])
    assert [each.method for each in ranked] == ["scratch", "nft", "cnn"], (
        "the only fold of cnn is an easy one"
    )


def test_a_copy_of_a_network_by_another_method_gets_no_further_folds() -> None:
    track = Track(90.0, loss=0.5).run(2)
    nft, scratch = track.search.configurations[-2:]
    scratch.records[1] = replace(
        nft.records[1], trial_key=scratch.records[1].trial_key, align_seconds=1.0
    )

    def list_best_first() -> list[Configuration]:
        return rank_configurations(track.search.configurations)

    assert list_best_first() == [nft]
    nft.records[2] = replace(nft.records[1], status=Status.FAILED_OOM)
    assert list_best_first() == [scratch], "the other method has failed"
    del nft.records[2]
    last_folds = dict(track.run().started())
    assert last_folds["scratch"] == 1, "one trial: equal losses are no coincidence"


def test_a_leader_of_few_folds_trains_on_with_all_samples_at_the_end() -> None:
    track = Track(36.0).run()
    [last] = [trial for trial in track.ran if fold_of(trial) == ALL]
    assert last.method == "nft"
    origin = next(trial for trial in track.ran if trial.method == "nft")
    assert last.hyperparameters["refine.start"] == origin.key
    assert last.hyperparameters["refine.learning_rate"] == 0.5e-3
    assert track.now <= 36


def test_a_leader_of_three_folds_does_not_train_on() -> None:
    track = Track(100.0).run()
    folds = [fold for method, fold in track.started() if method == "nft"]
    assert 3 in folds
    assert ALL not in folds


def test_without_time_for_an_epoch_nothing_trains_on() -> None:
    track = Track(2.0).run()
    assert ALL not in [fold_of(trial) for trial in track.ran]


def test_a_continued_search_trains_on_from_each_model_once() -> None:
    track = Track(36.0).run()
    again = Track(60.0, history=History(records=track.records)).run()
    starts = [
        trial.hyperparameters["refine.start"]
        for trial in (*track.ran, *again.ran)
        if fold_of(trial) == ALL
    ]
    assert starts
    assert len(set(starts)) == len(starts)


def test_a_configuration_that_fails_is_not_tried_on_other_folds() -> None:
    track = Track(200.0)
    track.take()
    failed = track.ran[0]
    track.end(failed, Status.FAILED_OOM)
    track.run()
    later_methods = {trial.method for trial in track.ran[1:]}
    assert failed.method not in later_methods
    assert track.reasons() == {failed.method: "every trial failed"}


def test_several_workers_get_different_trials() -> None:
    track = Track(1000.0)
    assert {track.next() for _ in range(3)} == {
        ("nft", 1),
        ("scratch", 1),
        ("linear_probe", 1),
    }
    assert track.take() is None, "no trial has ended: the folds are unknown"
    assert track.search.next_plan() is None
    track.end(track.ran[0])
    plan = track.search.next_plan()
    assert plan is not None
    assert not track.search.done
    assert track.next() == (plan.method, 2), "the plan whose trial starts next"


def test_the_time_alone_changes_what_starts_next() -> None:
    track = Track(200.0).run(3)
    assert track.search.next_plan() is not None
    track.now = 199.0
    assert track.search.next_plan() is None, "no trial ends in a second"
    assert track.search.done


def take_final(track: Track, chosen: Sequence[Mapping[str, Scalar]]) -> list[TrialSpec]:
    """Return the trials in which ``chosen`` hyper-parameters of nft are final."""
    search = AdaptationSearch(
        track.plans[:1],
        History(records=track.records),
        Folds(numbers=[ALL], division_size=1),
        deadline=math.inf,
        estimates={},
        final=[("nft", canonical_json(dict(values))) for values in chosen],
    )
    return list(iter(search.take, None))


def test_the_chosen_configuration_is_fitted_to_all_samples() -> None:
    track = Track(60.0).run()
    values = dict(track.ran[0].hyperparameters)
    values.pop("data.fold")
    [trial] = take_final(track, [values])
    assert trial.method == "nft"
    assert fold_of(trial) == ALL


def test_several_chosen_configurations_start_in_the_order_given() -> None:
    track = Track(60.0).run(1)
    values = dict(track.ran[0].hyperparameters)
    values.pop("data.fold")
    rates = [0.02, 0.07, 0.01, 0.05, 0.03, 0.06, 0.04]
    chosen = [{**values, "refine.learning_rate": rate} for rate in rates]
    trials = take_final(track, chosen)
    assert [trial.hyperparameters["refine.learning_rate"] for trial in trials] == rates


def test_the_score_of_a_training_on_all_samples_does_not_count() -> None:
    track = Track(60.0).run()
    configurations = track.search.configurations
    nft = next(candidate for candidate in configurations if candidate.method == "nft")
    nft.records[ALL] = make_record("all", method="nft", validation_score=0.0)
    assert rank_configurations(configurations)[0] is nft
    assert ALL not in nft.scores


def test_a_search_of_few_choices_tries_each_once() -> None:
    text = TEXT.replace("{log_uniform: [1e-5, 1e-1]}", "{choice: [1e-3, 0.1]}")
    track = Track(400.0, folds=[1], text=text).run()
    keys = [trial.key for trial in track.ran if fold_of(trial) == 1]
    assert len(keys) == len(set(keys)) == 6
