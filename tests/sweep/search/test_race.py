"""A race of configurations over folds, in virtual time: what starts next, what is
dropped, what fits into the time.
"""

import json
import random
from dataclasses import dataclass, field, replace

import pytest

from orca_ray.results.record import Record, Status
from orca_ray.sweep.plan.trial_spec import TrialSpec, canonical_json
from orca_ray.sweep.search import FoldSearch, History, Race
from orca_ray.sweep.search.contender import Contender
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
BEST = {"nft": 0.2, "scratch": 0.25, "linear_probe": 0.9}


def fold_of(trial: TrialSpec) -> int:
    return int(trial.hyperparameters.get("data.fold", 0))


def score_of(trial: TrialSpec) -> float:
    """A level of the method, plus the difficulty of the fold, plus noise that depends
    on both.
    """
    fold = fold_of(trial)
    noise = random.Random(f"{trial.method} {fold}").gauss(0, 0.005)
    return BEST[trial.method] + 0.05 * fold + noise


@dataclass
class Track:
    """A race with a clock of its own; a trial takes one second an epoch."""

    seconds: float
    folds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    improving: bool = False
    best: int = 1
    """Best epoch of a trial, unless it improves up to the last."""
    history: History = field(default_factory=History)
    division: int = 0
    num_held: float = float("inf")
    outer: bool = False
    loss: float | None = None
    estimate: float = 1.0
    now: float = 0.0
    ran: list[TrialSpec] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.race = Race(
            self.folds,
            deadline=self.seconds,
            division=self.division,
            num_held=self.num_held,
            outer=self.outer,
            clock=lambda: self.now,
            classes=2,
        )
        self.race.estimates = {
            ("pocket/wdbc", method): self.estimate for method in BEST
        }
        self.searches = [
            FoldSearch(plan, self.history, self.race)
            for plan in fake_searches(fake_spec(TEXT))
        ]

    def run(self, most: int | None = None) -> "Track":
        while (most is None or len(self.ran) < most) and (
            trial := self.take()
        ) is not None:
            self.end(trial)
        return self

    def take(self) -> TrialSpec | None:
        for search in self.searches:
            if (trial := search.take()) is not None:
                self.ran.append(trial)
                return trial
        return None

    def end(self, trial: TrialSpec, status: Status = Status.COMPLETED) -> None:
        self.now += trial.epochs
        failed = status.failed
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
            validation_score=None if failed else score_of(trial),
            best_epoch=trial.epochs if self.improving else self.best,
            training_loss=self.loss,
        )
        self.records[trial.key] = record
        next(each for each in self.searches if trial.key in each.unended).finish(
            record, []
        )

    def next(self, left: float | None = None) -> tuple[str, int] | None:
        self.now = self.now if left is None else self.seconds - left
        return (
            None if (trial := self.take()) is None else (trial.method, fold_of(trial))
        )

    def started(self) -> list[tuple[str, int]]:
        return [(trial.method, fold_of(trial)) for trial in self.ran]


def test_every_method_starts_on_the_first_fold_and_the_leaders_get_all_folds() -> None:
    track = Track(500.0).run(12)
    assert sorted(track.started()[:3]) == [
        ("linear_probe", 1),
        ("nft", 1),
        ("scratch", 1),
    ]
    rest = track.started()[3:]
    assert rest[:4] == [("nft", fold) for fold in (2, 3, 4, 5)]
    assert ("linear_probe", 2) not in rest, "it is far behind"
    assert ("scratch", 2) in rest, "a fifth more error on one fold is not far"


def test_further_configurations_are_suggested_when_the_leaders_have_their_folds() -> (
    None
):
    track = Track(200.0).run()
    suggested = [
        trial
        for trial in track.ran
        if trial.hyperparameters["refine.learning_rate"] != 1e-3
    ]
    assert suggested, "time is left"
    assert {trial.method for trial in suggested} == {"nft"}, (
        "scratch is measurably behind on five folds"
    )
    assert len({trial.key for trial in track.ran}) == len(track.ran)
    assert 200 - 6 * 1.25 - 6 < track.now <= 200, "the time is used to the end"


def test_what_still_improves_gets_a_longer_schedule_if_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epochs = [trial.epochs for trial in Track(1000.0, improving=True).run(9).ran]
    assert epochs[:5] == [6, 6, 6, 36, 216], "six times as many, twice"
    epochs = [
        trial.epochs
        for trial in Track(60.0, improving=True).run().ran
        if trial.method == "nft"
    ]
    assert epochs[1] == int(0.65 * (60 - 6) / 1.25), (
        "two thirds of the time that is left"
    )
    assert Track(24.0, improving=True).run().now <= 24
    monkeypatch.setitem(globals(), "score_of", lambda trial: 0.0)
    assert {trial.epochs for trial in Track(1000.0, improving=True).run(9).ran} == {
        6
    }, "there is no error"


def test_first_trials_are_short_where_they_would_take_much_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{__name__}.BEST", {**BEST, "cnn": 0.2})
    monkeypatch.setattr(f"{__name__}.TEXT", TEXT.replace("nft", "cnn"))
    short = Track(60.0, estimate=18.0).run(1).ran[0]
    assert (short.method, short.epochs) == (
        "cnn",
        2,
    ), "0.08 of the time are 4.8 of 18 s: 1.6 epochs"
    assert short.hyperparameters["refine.warmup_epochs"] == pytest.approx(2 / 6), (
        "the warm-up is as short"
    )
    assert Track(60.0, estimate=18.0, outer=True).run(1).ran[0].epochs == 3, (
        "it may get all the time afterwards"
    )
    probes = [
        trial
        for trial in Track(60.0, folds=[1], estimate=18.0).run().ran
        if trial.method == "linear_probe"
    ]
    assert probes[0].epochs == 6, "its features are computed once"


def test_long_first_trials_and_those_of_few_epochs_wait_for_the_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods = [trial.method for trial in Track(20.0, improving=True).run().ran]
    assert methods[:2] == [
        "nft",
        "nft",
    ], "the first trial took more than a fifth of the time"
    monkeypatch.setattr(f"{__name__}.TEXT", TEXT.replace("epochs: 6", "epochs: 24"))
    methods = [trial.method for trial in Track(150.0, estimate=72.0).run(6).ran]
    assert methods == ["linear_probe"] * 5 + ["nft"], "it would have four epochs of 24"


@pytest.mark.parametrize(
    ("epochs", "best", "improves"),
    [(2, 1, False), (4, 2, False), (4, 3, True), (12, 9, False), (12, 10, True)],
)
def test_a_best_epoch_among_the_last_says_that_more_would_help(
    epochs: int, best: int, improves: bool
) -> None:
    record = make_record(best_epoch=best, validation_score=0.5, status=Status.COMPLETED)
    plan = Track(1.0).searches[0].plan
    assert (
        Contender(plan, {"refine.epochs": epochs}, records={1: record}).improves
        is improves
    )
    last = replace(plan, first={**plan.first, "refine.keep": "last"})
    assert Contender(last, {"refine.epochs": epochs}, records={1: record}).improves is (
        2 * best > epochs
    )


def test_a_first_trial_that_was_short_may_be_further_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orca_ray.sweep.search.race.LEAST_FIRST", 0.25)
    monkeypatch.setattr(f"{__name__}.BEST", {**BEST, "nft": 0.1, "scratch": 0.35})
    track = Track(50.0, folds=[1], estimate=10.0).run(1)
    track.improving = True
    assert [trial.method for trial in track.run(3).ran] == ["nft", "scratch", "scratch"]
    assert track.ran[2].epochs > track.ran[1].epochs
    monkeypatch.setitem(BEST, "scratch", 0.65)
    track = Track(14.0, folds=[1], estimate=3.0).run(1)
    track.improving = True
    assert [trial.method for trial in track.run(3).ran] == [
        "nft",
        "scratch",
        "linear_probe",
    ], "no time to catch up"


def test_cheap_folds_of_fitted_methods_precede_longer_schedules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{__name__}.BEST", {**BEST, "linear": 0.22})
    monkeypatch.setattr(f"{__name__}.TEXT", TEXT.replace("linear_probe", "linear"))
    assert Track(1000.0, improving=True).run(7).started()[3:] == [
        ("linear", fold) for fold in (2, 3, 4, 5)
    ]


def test_fitted_methods_are_searched_before_trials_that_take_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{__name__}.BEST", {**BEST, "forest": 0.2})
    text = TEXT.replace("linear_probe", "forest").replace(
        "space: {", "space: {forest.splits: {choice: [best, random]}, "
    )
    monkeypatch.setattr(f"{__name__}.TEXT", text)
    track = Track(1000.0, improving=True).run(14)
    assert track.started()[3:12] == [
        ("forest", fold) for fold in (2, 3, 4, 5, 1, 2, 3, 4, 5)
    ]
    assert track.ran[7].hyperparameters["forest.splits"] == "random"


def test_networks_that_another_method_has_made_get_no_further_folds() -> None:
    track = Track(90.0, loss=0.5).run(2)
    nft, scratch = track.race.contenders[-2:]
    scratch.records[1] = replace(
        nft.records[1], trial_key=scratch.records[1].trial_key, align_seconds=1.0
    )
    assert [each for _, each in track.race.standings()] == [nft]
    nft.records[2] = replace(nft.records[1], status=Status.FAILED_OOM)
    assert [each for _, each in track.race.standings()] == [scratch], (
        "the other method has failed"
    )
    del nft.records[2]
    assert dict(track.run().started())["scratch"] == 1, (
        "one trial: equal losses are no coincidence"
    )


def test_a_probe_that_is_behind_after_a_longer_schedule_gets_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{__name__}.BEST", {**BEST, "linear_probe": 0.6})
    track = Track(4000.0, improving=True).run(12)
    assert {trial.epochs for trial in track.ran if trial.method == "linear_probe"} == {
        6,
        36,
    }


def test_one_error_on_a_few_samples_is_not_far_behind_none() -> None:
    track = Track(100.0, num_held=40)

    def contender(score: float) -> Contender:
        record = make_record(validation_score=score, status=Status.COMPLETED)
        return Contender(track.searches[0].plan, {}, records={1: record})

    leader = contender(0.0)
    assert not track.race.behind(contender(3 / 40), leader)
    assert track.race.behind(contender(5 / 40), leader)
    assert not track.race.behind(contender(5 / 40), leader, slack=2.0), (
        "none of 40 may be one"
    )
    track.race = Race([1], deadline=100.0)
    assert track.race.behind(contender(1 / 40), leader), (
        "scores are no shares of samples"
    )


def test_the_leader_of_few_folds_trains_on_with_all_samples() -> None:
    track = Track(60.0, improving=True).run()
    last = next(trial for trial in track.ran if fold_of(trial) == -1)
    start = next(
        trial
        for trial in track.ran
        if trial.key == last.hyperparameters["refine.start"]
    )
    assert start.method == last.method == "nft"
    assert last.hyperparameters["refine.learning_rate"] == 5e-4, (
        "half of the rate before"
    )
    assert 60 - 1.25 * 3 - 3 < track.now <= 60, "the time is used to the end"
    assert not any(search.num_remaining for search in track.searches)
    again = Track(120.0, improving=True, history=History(records=track.records)).run()
    assert not {trial.key for trial in track.ran} & {
        trial.key for trial in again.ran
    }, "nothing runs again"
    starts = [
        trial.hyperparameters["refine.start"]
        for trial in (*track.ran, *again.ran)
        if fold_of(trial) == -1
    ]
    assert len(starts) == len(set(starts)), "once from each model"
    assert Track(6.0, improving=True).run().now <= 6, "not a whole epoch is left"
    started = Track(27.0, folds=[1], improving=True).run().started()
    assert {method for method, _ in started[: started.index(("nft", -1))]} == {"nft"}, (
        "other methods wait"
    )


def test_with_an_outer_test_the_leader_trains_on_at_once_on_all_other_samples() -> None:
    track = Track(20.0, improving=True, outer=True).run()
    assert track.started()[:2] == [("nft", 1), ("nft", -2)], "no time for three folds"
    assert [fold for _, fold in track.started()].count(-2) == 1
    last = track.ran[1]
    assert last.hyperparameters["refine.start"] == track.ran[0].key
    assert last.hyperparameters["refine.learning_rate"] == 1e-3, (
        "as before: most of the training comes now"
    )
    assert last.epochs == int(2 / 3 * (20 - 6 - 4)), (
        "two thirds of the time that is left"
    )
    final = track.ran[2]
    assert (fold_of(final), final.hyperparameters["refine.start"]) == (
        -1,
        last.key,
    ), "the rest is for all samples"
    for loss, few in ((0.009, True), (0.011, False)):
        rich = Track(1000.0, improving=True, outer=True, loss=loss).run(
            10 if few else 12
        )
        assert (-2 not in [fold for _, fold in rich.started()]) is few, (
            "three folds of what has converged fit"
        )
    again = Track(
        400.0, improving=True, outer=True, history=History(records=track.records)
    ).run()
    assert (
        "nft",
        2,
    ) not in again.started(), (
        "folds of the short schedule tell nothing of what trained on"
    )
    one = Track(60.0, folds=[0], improving=True, outer=True).run()
    assert [trial.epochs for trial in one.ran if fold_of(trial) == 0][1] > 2 * 6, (
        "one split: longer schedules as usual"
    )
    assert "data.fold" not in one.ran[0].hyperparameters


def test_if_a_probe_leads_a_network_of_its_own_trains_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = TEXT
    probe = "linear_probe"
    cases = (
        (probe, 0.35, 6),
        (probe, 0.25, 3),
        (probe, 0.6, 6),
        ("nft", 0.25, 6),
        ("linear", 0.25, 6),
    )
    for leader, cnn, best in cases:
        monkeypatch.setattr(
            f"{__name__}.TEXT",
            text.replace("nft, scratch, linear_probe", f"{leader}, cnn"),
        )
        monkeypatch.setattr(f"{__name__}.BEST", {leader: 0.2, "cnn": cnn})
        track = Track(24.0, outer=True)
        assert {track.next(), track.next(), track.next()} >= {(leader, 1), ("cnn", 1)}
        for trial in list(track.ran):
            track.best = best if trial.method == "cnn" else 1
            track.end(trial)
        trained = (leader, cnn, best) == (probe, 0.35, 6)
        assert track.next(left=12) == (("cnn", -2) if trained else (leader, 2))


def test_a_leader_waits_for_first_trials_and_a_failure_is_not_the_last_try() -> None:
    track = Track(25.0, improving=True, outer=True)
    track.take(), track.take()
    track.end(track.ran[0])
    assert track.next() == ("nft", 2), "the first trial that runs may lead"
    track.end(track.ran[1])
    track.end(track.ran[2])
    assert track.next() == ("nft", -2)
    track.end(track.ran[3], Status.FAILED_OOM)
    again = Track(
        7.0, improving=True, outer=True, history=History(records=track.records)
    ).run()
    assert -2 not in [fold for _, fold in again.started()], "not from the same model"


@pytest.mark.parametrize(
    ("left", "best", "fold"), [(7, 4, -1), (7, 3, None), (9, 4, -1), (16, 4, 2)]
)
def test_a_leader_that_no_longer_improves_trains_on_if_few_folds_fit(
    left: float, best: int, fold: int | None
) -> None:
    found = Track(200.0, best=best).run(3).next(left)
    assert (found and found[1]) == fold
    two = Track(60.0, best=4, outer=True, loss=0.0).run(2)
    assert two.started() == [("nft", 1), ("nft", 2)]
    assert two.next(left) == ("nft", -2 if left < 7.5 else 3)


def test_a_race_with_nothing_else_to_do_trains_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = TEXT.replace("nft, scratch, linear_probe", "nft").replace("\nspace:", " #")
    monkeypatch.setattr(f"{__name__}.TEXT", text)
    assert Track(100.0, folds=[0], best=4, outer=True).run().started() == [
        ("nft", 0),
        ("nft", -2),
        ("nft", -1),
    ]


def test_a_longer_schedule_of_another_leaves_time_for_the_folds_of_the_leader() -> None:
    for left, expected in ((60, ("scratch", 1)), (26, ("nft", 2))):
        track = Track(200.0).run(3)
        for records in [
            each.records
            for each in track.race.contenders
            if each.plan.method == "scratch"
        ]:
            records[1] = replace(records[1], best_epoch=6)
        assert track.next(left) == expected


def test_a_configuration_that_fails_is_not_tried_on_other_folds() -> None:
    track = Track(200.0)
    track.take()
    track.end(trial := track.ran[0], Status.FAILED_OOM)
    track.run()
    assert not [each for each in track.ran[1:] if each.method == trial.method]
    assert {search.plan.method: search.failure for search in track.searches}[
        trial.method
    ] == "every trial failed"


def test_several_workers_get_different_trials() -> None:
    track = Track(1000.0)
    assert {track.next() for _ in range(3)} == {
        ("nft", 1),
        ("scratch", 1),
        ("linear_probe", 1),
    }
    assert track.take() is None, (
        "nothing is known of the folds before one trial has ended"
    )
    track.end(track.ran[0])
    chosen = track.race.choose()
    track.now = track.now + 0.5
    assert track.race.choose() is chosen, "each method is told the same"
    assert not track.race.done


def test_second_divisions_follow_some_suggestions() -> None:
    track = Track(1000.0, folds=[1, 2, 3, 4], division=2).run(30)
    order = track.started()
    assert order.index(("nft", 3)) > order.index(("nft", 2))
    before = track.ran[: order.index(("nft", 3))]
    assert (
        sum(trial.hyperparameters["refine.learning_rate"] != 1e-3 for trial in before)
        >= 2
    )


def test_the_chosen_configuration_is_fitted_to_all_samples() -> None:
    first = Track(60.0).run()
    given = {
        name: value
        for name, value in first.ran[0].hyperparameters.items()
        if name != "data.fold"
    }
    race = Race([-1], deadline=float("inf"), final={("nft", canonical_json(given))})
    search = FoldSearch(
        fake_searches(fake_spec(TEXT))[0], History(records=first.records), race
    )
    trial = search.take()
    assert trial is not None
    assert (trial.method, fold_of(trial)) == ("nft", -1)
    assert search.take() is None
    values = json.dumps(dict(trial.hyperparameters))
    record = make_record(
        trial.key,
        task=trial.task,
        method="nft",
        phase="confirm",
        hyperparameters=values,
    )
    record = replace(record, validation_score=0.0)
    again = Track(200.0, history=History(records={**first.records, trial.key: record}))
    assert min(level for level, _ in again.race.standings()) > 0.1, (
        "the score on its own samples does not count"
    )


def test_with_two_folds_a_network_trains_on_and_a_probe_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for leader in ("nft", "linear_probe"):
        monkeypatch.setattr(
            f"{__name__}.BEST", {**dict.fromkeys(BEST, 0.9), leader: 0.2}
        )
        assert (
            (leader, -2) in Track(60.0, folds=[1, 2], outer=True).run().started()
        ) is (leader == "nft")


def test_a_search_of_few_choices_tries_each_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        f"{__name__}.TEXT",
        TEXT.replace("{log_uniform: [1e-5, 1e-1]}", "{choice: [1e-3, 0.1]}"),
    )
    keys = [trial.key for trial in Track(400.0, folds=[1]).run().ran]
    assert len(keys) == len(set(keys)) == 5, "the probe is behind"
