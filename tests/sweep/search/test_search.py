"""A sweep continues from its journal: no trial that has ended runs again."""

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from orca_ray.errors import UserError
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.messages.causes import Cause, Failure
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.search import Study, Suggestion, TrialAnswer
from tests.sweep.fakes import (
    TEXT,
    end,
    fake_reports,
    fake_score,
    fake_searches,
    fake_spec,
    new_controller,
    play,
    take,
)

ON_ONE_TASK = TEXT.replace("[pocket/digits, pocket/wdbc]", "[pocket/wdbc]")
LONG = ON_ONE_TASK.replace("search_trials: 4", "search_trials: 14")


@pytest.fixture(autouse=True, scope="module")
def rows_are_written_at_once() -> Iterator[None]:
    """Write rows at once; a driver that dies would lose those of two seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orca_ray.sweep.run.recorder.MAX_SECONDS", 0.0)
        yield


def make_controller(
    store: ResultsStore, text: str = LONG, **options: object
) -> SweepController:
    return new_controller(store, text=text, overrides=Overrides(**options))  # type: ignore[arg-type]


def suggest_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Optuna suggest other values, as a new version may."""
    suggest = Study.suggest

    def suggest_with_other_seed(
        study: Study,
        suggestions: Iterable[Suggestion],
        answers: Mapping[int, TrialAnswer],
        seed: int,
    ) -> dict[str, Scalar]:
        return suggest(study, suggestions, answers, ~seed % 2**32)

    monkeypatch.setattr(Study, "suggest", suggest_with_other_seed)


def get_keys(trials: list[TrialSpec]) -> set[str]:
    return {trial.key for trial in trials}


def test_the_journal_has_each_suggestion_before_its_trial_starts(
    store: ResultsStore,
) -> None:
    controller = make_controller(store)
    num_trials = 0
    for trial in iter(controller.next_trial, None):
        num_trials += 1
        entries = ResultsStore(store.uri).journal("fake/full")
        assert trial.key in {entry.trial_key for entry in entries}
    assert num_trials == 28, "nothing waits for an answer"
    entries = store.journal("fake/full")
    for method in ("nft", "orca"):
        numbers = [entry.number for entry in entries if entry.method == method]
        assert numbers == list(range(14))
    assert {entry.known for entry in entries} == {"[]"}


def test_a_preempted_trial_is_the_next_one(store: ResultsStore) -> None:
    controller = make_controller(store)
    *ending, preempted = iter(controller.next_trial, None)
    for trial in ending:
        end(controller, trial)
    preempt(controller, preempted)
    assert controller.next_trial() == preempted


def preempt(controller: SweepController, trial: TrialSpec) -> None:
    """Take a worker from a running trial, which may start again at once."""
    controller.failed(trial.key, Failure(Cause.PREEMPTED, "gone"))
    controller.failures.of(trial.key).not_before = 0.0


def test_a_restart_asks_optuna_for_nothing(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise resuming thousands of trials would take minutes."""
    play(make_controller(store))
    ask = mock.Mock(side_effect=AssertionError("Optuna was asked"))
    monkeypatch.setattr(Study, "suggest", ask)
    monkeypatch.setattr("optuna.create_study", ask)
    assert make_controller(store).done


class DisturbedSweep:
    """A sweep of one method that random actions of workers, user and driver disturb."""

    def __init__(
        self, store: ResultsStore, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._store = store
        self._text = text
        self._monkeypatch = monkeypatch
        self.controller = make_controller(store, text)
        self._running: list[TrialSpec] = []
        self.ended: list[str] = []
        """Keys of the trials that have ended, in order."""

    def run(self, seed: int) -> None:
        """Act at random until the sweep is done."""
        draw = random.Random(seed)
        actions = {
            "end": self.end,
            "fail": self.fail,
            "give back": self.preempt,
        }
        while not self.controller.done:
            name = draw.choice(
                ["start", "start", "end", "end", "give back", "fail", "die"]
            )
            if name == "start":
                self.start()
            elif name == "die":
                self.die()
            elif self._running:
                position = draw.randrange(len(self._running))
                actions[name](self._running.pop(position))

    def start(self) -> None:
        trial = self.controller.next_trial()
        if trial is not None:
            assert trial.key not in self.ended
            self._running.append(trial)

    def end(self, trial: TrialSpec) -> None:
        self.ended.append(trial.key)
        end(self.controller, trial)

    def preempt(self, trial: TrialSpec) -> None:
        preempt(self.controller, trial)

    def fail(self, trial: TrialSpec) -> None:
        """End a search trial by an error; confirm trials complete."""
        if trial.phase == "confirm":
            self.end(trial)
            return
        self.ended.append(trial.key)
        self.controller.finish(trial.key, TrialReport(status=Status.FAILED_USER))

    def die(self) -> None:
        """Start another driver, with a new version of Optuna."""
        suggest_otherwise(self._monkeypatch)
        self.controller = make_controller(self._store, self._text)
        self._running = []


EXTRAS = (
    "",
    "parallel: 1\n",
    "deterministic: true\n",
    "deterministic: true\nparallel: 3\n",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [
        0,
        3,
        *(
            pytest.param(seed, marks=pytest.mark.exhaustive)
            for seed in (1, 2, *range(4, 12))
        ),
    ],
)
def test_any_interruptions_repeat_nothing(
    store: ResultsStore, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers start, end, fail and are lost, and drivers die, in any order."""
    text = LONG.replace("[nft, orca]", "[nft]") + EXTRAS[seed % 4]
    sweep = DisturbedSweep(store, text, monkeypatch)
    sweep.run(seed)
    sweep_id = fake_spec(text).sweep_id
    records = store.load(sweep_id).values()
    assert len(sweep.ended) == len(set(sweep.ended)) == len(records)
    entries = store.journal(sweep_id)
    assert [entry.number for entry in entries] == list(range(14))
    searched = {record.trial_key for record in records if record.phase == "search"}
    assert {entry.trial_key for entry in entries} == searched


class TestReuse:
    """A sweep of more tasks, methods, trials or dimensions reuses what has ended."""

    def test_more_methods_and_tasks_reuse_trials(self, store: ResultsStore) -> None:
        earlier = play(make_controller(store, TEXT, methods=["orca"], tasks=["wdbc"]))
        controller = make_controller(store, TEXT)
        assert controller.searches.finished_before == 6
        sentence = "reuses 6 of 24 planned trials: 4 search + 2 confirm"
        assert controller.searches.reused == sentence
        assert not get_keys(play(controller)) & get_keys(earlier)
        assert controller.done

    def test_more_trials_of_the_command_line_reuse_those_of_another_sweep(
        self, store: ResultsStore
    ) -> None:
        """``--trials`` makes another sweep."""
        earlier = play(make_controller(store, LONG, trials=4, methods=["nft"]))
        assert len(earlier) == 6
        controller = make_controller(store, LONG, trials=12, methods=["nft"])
        sentence = (
            "reuses 4 of 14 planned trials: 4 search + 0 confirm, 4 of them from"
            " fake/full-trials4"
        )
        assert controller.searches.reused == sentence
        records = store.load("fake/full-trials12")
        assert set(records) == get_keys(earlier[:4])
        curves = store.curves("fake/full-trials12").drop(columns="sweep")
        old_curves = store.curves("fake/full-trials4", list(records))
        assert curves.equals(old_curves.drop(columns="sweep"))
        phases = [trial.phase for trial in play(controller)]
        assert phases == ["search"] * 8 + ["confirm"] * 2
        assert len(store.journal("fake/full-trials12")) == 12

    def test_fewer_trials_of_the_command_line_reuse_those_of_another_sweep(
        self, store: ResultsStore
    ) -> None:
        play(make_controller(store, LONG, trials=4, methods=["nft"]))
        assert make_controller(store, LONG, trials=4, methods=["nft"]).done
        fewer = make_controller(store, LONG, trials=3, methods=["nft"])
        assert fewer.searches.finished_before >= 3

    def test_curves_moved_away_as_the_message_says_cost_no_trial(
        self, store: ResultsStore
    ) -> None:
        earlier = play(make_controller(store, methods=["nft"]), most=8)
        for file in (Path(store.uri) / "curves").iterdir():
            file.write_bytes(file.read_bytes()[:-1])
        advice = r"move it out of the directory: the learning curves it held are then"
        with pytest.raises(UserError, match=f"curves/.* damaged .*{advice} missing"):
            make_controller(store, methods=["nft"])
        for file in (Path(store.uri) / "curves").iterdir():
            file.unlink()
        controller = make_controller(store, methods=["nft"])
        assert not get_keys(play(controller)) & get_keys(earlier)
        assert controller.done

    def test_a_further_dimension_keeps_the_trials(self, store: ResultsStore) -> None:
        earlier = play(make_controller(store, methods=["nft"]), most=12)
        space = "space: {refine.weight_decay: {uniform: [0.0, 0.1]}, "
        text = LONG.replace("space: {", space)
        controller = make_controller(store, text, methods=["nft"])
        assert controller.searches.finished_before == 12
        later = play(controller)
        assert not get_keys(later) & get_keys(earlier)
        assert len(later) == 4
        decay = later[0].hyperparameters["refine.weight_decay"]
        assert decay != earlier[0].hyperparameters["refine.weight_decay"]

    def test_another_seed_of_the_sweep_reuses_no_trial(
        self, store: ResultsStore
    ) -> None:
        earlier = play(make_controller(store))
        spec = fake_spec(LONG)
        other = replace(spec, file=spec.file.model_copy(update={"seed": 7}))
        controller = SweepController(fake_searches(other), store, executor="fake")
        assert controller.searches.finished_before == 0
        assert controller.searches.reused == ""
        assert not get_keys(play(controller)) & get_keys(earlier)
        assert make_controller(store).done, "the first sweep stays complete"


def report_two_epochs(controller: SweepController, trial: TrialSpec) -> bool:
    """Report the epochs before the first rung, and return whether the trial stops."""
    points = [point for report in fake_reports(trial) for point in report.progress]
    return controller.report(trial.key, points[:2])


class TestAsynchronousHalving:
    """With eta 2, the best ceil(n / 2) of n trials that have reached a rung go on.

    It does not matter whether the trials run or have ended.
    """

    def test_all_that_have_reached_the_rung_are_compared(
        self, store: ResultsStore
    ) -> None:
        controller = make_controller(store, methods=["nft"])
        trials = [take(controller) for _ in range(8)]
        best_first = sorted(trials, key=lambda trial: fake_score(trial, 2))
        for trial in best_first[7:3:-1]:
            assert not report_two_epochs(controller, trial), "it is the best so far"
        for trial in best_first[:4]:
            assert not report_two_epochs(controller, trial), "it is in the better half"
        best = best_first[0]
        *_, last_report = fake_reports(best)
        controller.finish(best.key, last_report)
        controller.close()
        again = make_controller(store, methods=["nft"])
        others = [trial for trial in trials if trial != best]
        assert [again.next_trial() for _ in others] == others
        stops = report_two_epochs(again, best_first[5])
        assert stops, "the trial that ended in the earlier run is better"

    def test_a_failed_trial_is_no_rival(self, store: ResultsStore) -> None:
        controller = make_controller(store, methods=["nft"])
        trials = [take(controller), take(controller)]
        best, worst = sorted(trials, key=lambda trial: fake_score(trial, 2))
        assert not report_two_epochs(controller, best)
        controller.finish(best.key, TrialReport(status=Status.FAILED_USER))
        assert not report_two_epochs(controller, worst)
