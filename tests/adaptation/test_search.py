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
from orca_ray.adaptation.policy import MOST_VARIANTS
from orca_ray.adaptation.search import AdaptationSearch
from orca_ray.adaptation.standings import is_behind, rank_configurations
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
ALL_BUT_TEST = -2


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
    """Whether the best epoch of a trial is the last one."""
    best: int = 1
    """Best epoch of a trial, unless it improves up to the last."""
    history: History = field(default_factory=History)
    division: int = 0
    """Number of folds of one division; 0: all."""
    num_held: float = math.inf
    outer: bool = False
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
            division_size=self.division if self.division else len(self.folds),
            num_held=self.num_held,
            has_outer_test=self.outer,
            num_classes=2,
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
        """Return the level of the method plus the difficulty of the fold plus noise."""
        if self.is_without_error:
            return 0.0
        fold = fold_of(trial)
        noise = random.Random(f"{trial.method} {fold}").gauss(0, 0.005)
        return self.levels[trial.method] + 0.05 * fold + noise

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
            best_epoch=trial.epochs if self.improving else self.best,
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


def test_every_method_starts_on_the_first_fold_and_the_leaders_get_all_folds() -> None:
    started = Track(500.0).run(12).started()
    assert sorted(started[:3]) == [("linear_probe", 1), ("nft", 1), ("scratch", 1)]
    later = started[3:]
    assert later[:4] == [("nft", fold) for fold in (2, 3, 4, 5)]
    assert ("linear_probe", 2) not in later, "it is far behind"
    assert ("scratch", 2) in later, "a fifth more error on one fold is not far"


def test_further_configurations_are_suggested_when_the_leaders_have_their_folds() -> (
    None
):
    track = Track(200.0).run()
    suggested_methods = {
        trial.method
        for trial in track.ran
        if trial.hyperparameters["refine.learning_rate"] != 1e-3
    }
    assert suggested_methods == {"nft"}, "scratch is measurably behind on five folds"
    keys = [trial.key for trial in track.ran]
    assert len(set(keys)) == len(keys)
    assert 200 - 6 * 1.25 - 6 < track.now <= 200, "the time is used to the end"


def test_a_search_with_time_to_spare_ends_after_the_most_variants() -> None:
    track = Track(100_000.0, folds=[1]).run()
    assert track.search.done
    assert track.now < 100_000 / 100
    num_suggested = Counter(
        configuration.method
        for configuration in track.search.configurations
        if configuration.is_suggested
    )
    assert num_suggested == {"nft": MOST_VARIANTS, "scratch": MOST_VARIANTS}


def test_a_configuration_that_still_improves_gets_a_longer_schedule_if_it_fits() -> (
    None
):
    long_track = Track(1000.0, improving=True).run(9)
    epochs = [trial.epochs for trial in long_track.ran]
    assert epochs[:5] == [6, 6, 6, 36, 216], "six times as many, twice"
    short_track = Track(60.0, improving=True).run()
    two_thirds_of_the_time = int(0.65 * (60 - 6) / 1.25)
    assert short_track.epochs_of("nft")[1] == two_thirds_of_the_time
    assert Track(24.0, improving=True).run().now <= 24


def test_without_an_error_no_schedule_gets_longer() -> None:
    track = Track(1000.0, improving=True, is_without_error=True).run(9)
    assert {trial.epochs for trial in track.ran} == {6}


def test_first_trials_are_short_where_they_would_take_much_of_the_time() -> None:
    text = with_methods("cnn", "scratch", "linear_probe")
    levels = {**LEVELS, "cnn": 0.2}

    def make_track(
        folds: Sequence[int] = (1, 2, 3, 4, 5), *, outer: bool = False
    ) -> Track:
        return Track(
            60.0, text=text, levels=levels, estimate=18.0, folds=folds, outer=outer
        )

    [short] = make_track().run(1).ran
    assert short.method == "cnn"
    assert short.epochs == 2, "0.08 of the time are 4.8 of 18 s: 1.6 epochs"
    warmup = short.hyperparameters["refine.warmup_epochs"]
    assert warmup == pytest.approx(2 / 6), "the warm-up is as short"
    [judged_by_test] = make_track(outer=True).run(1).ran
    assert judged_by_test.epochs == 3, "it may get all the time afterwards"
    on_one_fold = make_track(folds=[1]).run()
    first_of_probe = on_one_fold.epochs_of("linear_probe")[0]
    assert first_of_probe == 6, "its features are computed once"


def test_long_first_trials_wait_for_the_leader() -> None:
    track = Track(20.0, improving=True).run()
    assert [trial.method for trial in track.ran[:2]] == ["nft", "nft"], (
        "the first trial took more than a fifth of the time"
    )


def test_first_trials_of_few_epochs_wait_for_the_leader() -> None:
    text = TEXT.replace("epochs: 6", "epochs: 24")
    track = Track(150.0, text=text, estimate=72.0).run(6)
    methods = [trial.method for trial in track.ran]
    assert methods == ["linear_probe"] * 5 + ["nft"], "it would have four epochs of 24"


@pytest.mark.parametrize(
    ("epochs", "best", "improves"),
    [(2, 1, False), (4, 2, False), (4, 3, True), (12, 9, False), (12, 10, True)],
)
def test_a_best_epoch_among_the_last_says_that_more_would_help(
    epochs: int, best: int, improves: bool
) -> None:
    record = make_record(best_epoch=best, validation_score=0.5, status=Status.COMPLETED)
    first = Track(1.0).plans[0].first

    def make_configuration(keep: str) -> Configuration:
        return Configuration(
            "nft",
            {"refine.epochs": epochs},
            {**first, "refine.keep": keep},
            records={1: record},
        )

    assert make_configuration("best").still_improves is improves
    assert make_configuration("last").still_improves is (2 * best > epochs)


def test_a_first_trial_that_was_short_may_be_further_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orca_ray.adaptation.first_trials.LEAST_SHARE_OF_EPOCHS", 0.25)

    def run_three(track: Track) -> list[str]:
        """Run three trials, of which the later ones improve; return their methods."""
        track.run(1)
        track.improving = True
        return [trial.method for trial in track.run(3).ran]

    levels = {**LEVELS, "nft": 0.1, "scratch": 0.35}
    track = Track(50.0, folds=[1], estimate=10.0, levels=levels)
    assert run_three(track) == ["nft", "scratch", "scratch"]
    assert track.ran[2].epochs > track.ran[1].epochs
    levels = {**LEVELS, "nft": 0.1, "scratch": 0.65}
    track = Track(14.0, folds=[1], estimate=3.0, levels=levels)
    methods = run_three(track)
    assert methods == ["nft", "scratch", "linear_probe"], "no time to catch up"


def test_cheap_folds_of_fitted_methods_precede_longer_schedules() -> None:
    track = Track(
        1000.0,
        improving=True,
        text=with_methods("nft", "scratch", "linear"),
        levels={**LEVELS, "linear": 0.22},
    )
    assert track.run(7).started()[3:] == [("linear", fold) for fold in (2, 3, 4, 5)]


def test_fitted_methods_are_searched_before_trials_that_take_longer() -> None:
    space = "space: {forest.splits: {choice: [best, random]}, "
    text = with_methods("nft", "scratch", "forest").replace("space: {", space)
    levels = {**LEVELS, "forest": 0.2}
    track = Track(1000.0, improving=True, text=text, levels=levels).run(14)
    folds_of_both = (2, 3, 4, 5, 1, 2, 3, 4, 5)
    assert track.started()[3:12] == [("forest", fold) for fold in folds_of_both]
    assert track.ran[7].hyperparameters["forest.splits"] == "random"


def test_a_copy_of_a_network_by_another_method_gets_no_further_folds() -> None:
    track = Track(90.0, loss=0.5).run(2)
    nft, scratch = track.search.configurations[-2:]
    scratch.records[1] = replace(
        nft.records[1], trial_key=scratch.records[1].trial_key, align_seconds=1.0
    )

    def list_best_first() -> list[Configuration]:
        standings = rank_configurations(track.search.configurations)
        return [standing.configuration for standing in standings]

    assert list_best_first() == [nft]
    nft.records[2] = replace(nft.records[1], status=Status.FAILED_OOM)
    assert list_best_first() == [scratch], "the other method has failed"
    del nft.records[2]
    last_folds = dict(track.run().started())
    assert last_folds["scratch"] == 1, "one trial: equal losses are no coincidence"


def test_a_probe_that_is_behind_after_a_longer_schedule_gets_no_other() -> None:
    levels = {**LEVELS, "linear_probe": 0.6}
    track = Track(4000.0, improving=True, levels=levels).run(12)
    assert set(track.epochs_of("linear_probe")) == {6, 36}


def test_one_error_on_a_few_samples_is_not_far_behind_none() -> None:
    def make_configuration(score: float) -> Configuration:
        record = make_record(validation_score=score, status=Status.COMPLETED)
        return Configuration("nft", {}, records={1: record})

    leader = make_configuration(0.0)
    one_error = make_configuration(1 / 40)
    three_errors = make_configuration(3 / 40)
    five_errors = make_configuration(5 / 40)
    assert not is_behind(three_errors, leader, num_held=40)
    assert is_behind(five_errors, leader, num_held=40)
    doubted = is_behind(five_errors, leader, num_held=40, slack=2.0)
    assert not doubted, "none of 40 may be one"
    has_exact_scores = is_behind(one_error, leader, num_held=math.inf)
    assert has_exact_scores, "scores are no shares of samples"


def test_the_leader_of_few_folds_trains_on_with_all_samples() -> None:
    track = Track(60.0, improving=True).run()
    last = next(trial for trial in track.ran if fold_of(trial) == ALL)
    trials = {trial.key: trial for trial in track.ran}
    start = trials[str(last.hyperparameters["refine.start"])]
    assert start.method == last.method == "nft"
    rate = last.hyperparameters["refine.learning_rate"]
    assert rate == 5e-4, "half of the rate before"
    assert 60 - 1.25 * 3 - 3 < track.now <= 60, "the time is used to the end"
    assert not any(row.num_remaining for row in track.search.progress())


def test_a_continued_search_trains_on_from_each_model_once() -> None:
    track = Track(60.0, improving=True).run()
    again = Track(120.0, improving=True, history=History(records=track.records)).run()
    keys = {trial.key for trial in track.ran}
    keys_again = {trial.key for trial in again.ran}
    assert not keys & keys_again, "nothing runs again"
    starts = [
        trial.hyperparameters["refine.start"]
        for trial in (*track.ran, *again.ran)
        if fold_of(trial) == ALL
    ]
    assert starts
    assert len(starts) == len(set(starts))


def test_without_time_for_an_epoch_nothing_trains_on() -> None:
    assert Track(6.0, improving=True).run().now <= 6


def test_other_methods_wait_for_a_training_on() -> None:
    started = Track(27.0, folds=[1], improving=True).run().started()
    before = started[: started.index(("nft", ALL))]
    assert {method for method, _ in before} == {"nft"}


def test_with_an_outer_test_the_leader_trains_on_at_once_on_all_other_samples() -> None:
    track = Track(20.0, improving=True, outer=True).run()
    folds = [fold_of(trial) for trial in track.ran]
    assert folds == [1, ALL_BUT_TEST, ALL], "no time for three folds"
    assert {trial.method for trial in track.ran} == {"nft"}
    first, longer, final = track.ran
    assert longer.hyperparameters["refine.start"] == first.key
    rate = longer.hyperparameters["refine.learning_rate"]
    assert rate == 1e-3, "as before: most of the training comes now"
    seconds_left = 20 - 6 - 4
    assert longer.epochs == int(2 / 3 * seconds_left)
    assert final.hyperparameters["refine.start"] == longer.key
    again = Track(
        400.0, improving=True, outer=True, history=History(records=track.records)
    ).run()
    assert ("nft", 2) not in again.started(), (
        "folds of the short schedule say nothing about the network that trained on"
    )


@pytest.mark.parametrize(
    ("loss", "most", "trains_on"), [(0.009, 10, False), (0.011, 12, True)]
)
def test_a_converged_leader_gets_three_folds_before_it_trains_on(
    loss: float, most: int, trains_on: bool
) -> None:
    track = Track(1000.0, improving=True, outer=True, loss=loss).run(most)
    folds = [fold for _, fold in track.started()]
    assert (ALL_BUT_TEST in folds) is trains_on


def test_one_split_gets_longer_schedules_as_usual() -> None:
    track = Track(60.0, folds=[0], improving=True, outer=True).run()
    epochs = [trial.epochs for trial in track.ran if fold_of(trial) == 0]
    assert epochs[1] > 2 * 6
    assert "data.fold" not in track.ran[0].hyperparameters


@pytest.mark.parametrize(
    ("leader", "level", "best_epoch", "trains_on"),
    [
        ("linear_probe", 0.35, 6, True),
        ("linear_probe", 0.25, 3, False),
        ("linear_probe", 0.6, 6, False),
        ("nft", 0.25, 6, False),
        ("linear", 0.25, 6, False),
    ],
)
def test_if_a_probe_leads_a_network_without_a_body_trains_on(
    leader: str, level: float, best_epoch: int, trains_on: bool
) -> None:
    track = Track(
        24.0,
        outer=True,
        text=with_methods(leader, "cnn"),
        levels={leader: 0.2, "cnn": level},
    )
    assert {track.next(), track.next(), track.next()} >= {(leader, 1), ("cnn", 1)}
    for trial in list(track.ran):
        track.best = best_epoch if trial.method == "cnn" else 1
        track.end(trial)
    expected = ("cnn", ALL_BUT_TEST) if trains_on else (leader, 2)
    assert track.next(seconds_left=12) == expected


def test_a_leader_waits_for_first_trials_and_a_failure_is_not_the_last_try() -> None:
    track = Track(25.0, improving=True, outer=True)
    track.take()
    track.take()
    track.end(track.ran[0])
    assert track.next() == ("nft", 2), "the first trial that runs may lead"
    track.end(track.ran[1])
    track.end(track.ran[2])
    assert track.next() == ("nft", ALL_BUT_TEST)
    track.end(track.ran[3], Status.FAILED_OOM)
    again = Track(
        7.0, improving=True, outer=True, history=History(records=track.records)
    ).run()
    folds = [fold for _, fold in again.started()]
    assert ALL_BUT_TEST not in folds, "not from the same model"


@pytest.mark.parametrize(
    ("seconds_left", "best", "fold"),
    [(7, 4, ALL), (7, 3, None), (9, 4, ALL), (16, 4, 2)],
)
def test_a_leader_that_no_longer_improves_trains_on_if_few_folds_fit(
    seconds_left: float, best: int, fold: int | None
) -> None:
    track = Track(200.0, best=best).run(3)
    track.now = track.seconds - seconds_left
    trial = track.take()
    if fold is None:
        assert trial is None
    else:
        assert trial is not None
        assert fold_of(trial) == fold


@pytest.mark.parametrize(("seconds_left", "fold"), [(7, ALL_BUT_TEST), (9, 3), (16, 3)])
def test_with_an_outer_test_a_leader_trains_on_if_three_folds_do_not_fit(
    seconds_left: float, fold: int
) -> None:
    track = Track(60.0, best=4, outer=True, loss=0.0).run(2)
    assert track.started() == [("nft", 1), ("nft", 2)]
    assert track.next(seconds_left) == ("nft", fold)


def test_a_search_with_nothing_else_to_do_trains_on() -> None:
    text = with_methods("nft").replace("\nspace:", " #")
    track = Track(100.0, folds=[0], best=4, outer=True, text=text).run()
    assert track.started() == [("nft", 0), ("nft", ALL_BUT_TEST), ("nft", ALL)]


@pytest.mark.parametrize(
    ("seconds_left", "expected"), [(60, ("scratch", 1)), (26, ("nft", 2))]
)
def test_a_longer_schedule_of_another_leaves_time_for_the_folds_of_the_leader(
    seconds_left: float, expected: tuple[str, int]
) -> None:
    track = Track(200.0).run(3)
    for configuration in track.search.configurations:
        if configuration.method == "scratch":
            record = configuration.records[1]
            configuration.records[1] = replace(record, best_epoch=6)
    assert track.next(seconds_left) == expected


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


def test_second_divisions_follow_some_suggestions() -> None:
    track = Track(1000.0, folds=[1, 2, 3, 4], division=2).run(30)
    order = track.started()
    assert order.index(("nft", 3)) > order.index(("nft", 2))
    before = track.ran[: order.index(("nft", 3))]
    rates = [trial.hyperparameters["refine.learning_rate"] for trial in before]
    assert sum(rate != 1e-3 for rate in rates) >= 2


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
    levels = [standing.level for standing in rank_configurations(configurations)]
    assert min(levels) > 0.1


@pytest.mark.parametrize(
    ("leader", "trains_on"), [("nft", True), ("linear_probe", False)]
)
def test_with_two_folds_a_network_trains_on_and_a_probe_does_not(
    leader: str, trains_on: bool
) -> None:
    levels = {**dict.fromkeys(LEVELS, 0.9), leader: 0.2}
    track = Track(60.0, folds=[1, 2], outer=True, levels=levels).run()
    assert ((leader, ALL_BUT_TEST) in track.started()) is trains_on


def test_a_search_of_few_choices_tries_each_once() -> None:
    text = TEXT.replace("{log_uniform: [1e-5, 1e-1]}", "{choice: [1e-3, 0.1]}")
    keys = [trial.key for trial in Track(400.0, folds=[1], text=text).run().ran]
    assert len(keys) == len(set(keys)) == 5, "the probe is behind"
