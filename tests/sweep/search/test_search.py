"""A sweep goes on from its journal: nothing that has ended runs again, whatever Optuna
would suggest now.
"""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.messages.causes import Cause, Failure
from orca_ray.sweep.messages.report import TrialReport
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.plan.trial_spec import TrialSpec
from orca_ray.sweep.run.controller import SweepController
from orca_ray.sweep.search import Study
from tests.sweep.fakes import (
    TEXT,
    end,
    fake_reports,
    fake_score,
    fake_searches,
    fake_spec,
    new_controller,
    play,
)

LONG = TEXT.replace("search_trials: 4", "search_trials: 14").replace(
    "[pocket/digits, pocket/wdbc]", "[pocket/wdbc]"
)


@pytest.fixture(autouse=True, scope="module")
def rows_are_written_at_once() -> Iterator[None]:
    """Suggestions and records of the last two seconds may otherwise be lost with the
    driver.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orca_ray.sweep.run.recorder.MAX_SECONDS", 0.0)
        yield


def controller_of(
    store: ResultsStore, text: str = LONG, **options: object
) -> SweepController:
    return new_controller(store, text=text, overrides=Overrides(**options))  # type: ignore[arg-type]


def suggest_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Optuna suggest other values, as a new version may."""
    suggest = Study.suggest
    monkeypatch.setattr(
        Study,
        "suggest",
        lambda self, suggestions, answers, seed: suggest(
            self, suggestions, answers, ~seed % 2**32
        ),
    )


def keys(trials: list[TrialSpec]) -> list[str]:
    return [trial.key for trial in trials]


def test_the_journal_has_each_suggestion_before_its_trial_starts(
    store: ResultsStore,
) -> None:
    controller = controller_of(store)
    trials: list[TrialSpec] = []
    while (trial := controller.next_trial()) is not None:
        trials.append(trial)
        assert trial.key in {
            entry.trial_key for entry in ResultsStore(store.uri).journal("fake/full")
        }
    assert len(trials) == 28, "nothing waits for an answer"
    entries = store.journal("fake/full")
    assert [(e.method, e.number) for e in entries] == [
        (m, n) for m in ("nft", "orca") for n in range(14)
    ]
    assert {entry.known for entry in entries} == {"[]"}
    for trial in trials[:-1]:
        end(controller, trial)
    controller.failed(trials[-1].key, Failure(Cause.PREEMPTED, "gone"))
    controller.failures.of(trials[-1].key).not_before = 0.0
    assert controller.next_trial() == trials[-1]


def test_a_restart_asks_optuna_for_nothing(
    store: ResultsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else resuming thousands of trials would take minutes."""
    play(controller_of(store))

    def ask(*_: object) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(Study, "suggest", ask)
    monkeypatch.setattr("optuna.create_study", ask)
    assert controller_of(store).done


def disturb(
    store: ResultsStore, text: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Run a sweep by random actions of workers, the user and the driver.

    Return the keys of the trials that ended.

    When the driver dies, Optuna is upgraded.
    """
    choose = random.Random(seed)
    controller = controller_of(store, text)
    running = []
    ended = []
    while not controller.done:
        action = choose.choice(
            ["start", "start", "end", "end", "give back", "fail", "die"]
        )
        if action == "start":
            if trial := controller.next_trial():
                assert trial.key not in ended
                running.append(trial)
        elif action == "die":
            suggest_otherwise(monkeypatch)
            controller = controller_of(store, text)
            running = []
        elif running:
            trial = running.pop(choose.randrange(len(running)))
            if action == "give back":
                controller.failed(trial.key, Failure(Cause.PREEMPTED, "gone"))
                controller.failures.of(trial.key).not_before = 0.0
                continue
            ended.append(trial.key)
            if action == "end" or trial.phase == "confirm":
                end(controller, trial)
            else:
                controller.finish(trial.key, TrialReport(status=Status.FAILED_USER))
    return ended


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed",
    [
        0,
        3,
        *(pytest.param(n, marks=pytest.mark.exhaustive) for n in (1, 2, *range(4, 12))),
    ],
)
def test_any_interruptions_repeat_nothing(
    store: ResultsStore, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers start, end, fail and are lost in any order, and the driver dies in
    between, as often as you like.
    """
    extra = (
        "",
        "parallel: 1\n",
        "deterministic: true\n",
        "deterministic: true\nparallel: 3\n",
    )[seed % 4]
    text = LONG.replace("[nft, orca]", "[nft]") + extra
    sweep = fake_spec(text).sweep_id
    ended = disturb(store, text, seed, monkeypatch)
    assert len(ended) == len(set(ended)) == len(store.load(sweep))
    entries = store.journal(sweep)
    assert [entry.number for entry in entries] == list(range(14))
    assert {entry.trial_key for entry in entries} == {
        k for k, r in store.load(sweep).items() if r.phase == "search"
    }


class TestMore:
    """More trials, tasks, methods and seeds, and wider spaces, go on from what is
    there.
    """

    def test_methods_and_tasks(self, store: ResultsStore) -> None:
        done = play(controller_of(store, TEXT, methods=["orca"], tasks=["wdbc"]))
        controller = controller_of(store, TEXT)
        assert controller.searches.finished_before == 6
        assert (
            controller.searches.reused
            == "reuses 6 of 24 planned trials: 4 search + 2 confirm"
        )
        assert not set(keys(play(controller))) & set(keys(done))
        assert controller.done

    def test_trials_of_the_command_line(self, store: ResultsStore) -> None:
        """They are a sweep of their own, which takes over what the others have."""
        done = play(controller_of(store, LONG, trials=4, methods=["nft"]))
        assert len(done) == 6
        controller = controller_of(store, LONG, trials=12, methods=["nft"])
        said = (
            "reuses 4 of 14 planned trials: 4 search + 0 confirm, 4 of them from"
            " fake/full-trials4"
        )
        assert controller.searches.reused == said
        records = store.load("fake/full-trials12")
        curves = store.curves("fake/full-trials12")
        assert set(records) == set(keys(done)[:4])
        old = store.curves("fake/full-trials4", list(records))
        assert curves.drop(columns="sweep").equals(old.drop(columns="sweep"))
        assert [trial.phase for trial in play(controller)] == ["search"] * 8 + [
            "confirm"
        ] * 2
        assert len(store.journal("fake/full-trials12")) == 12
        assert controller_of(store, LONG, trials=4, methods=["nft"]).done
        assert (
            controller_of(
                store, LONG, trials=3, methods=["nft"]
            ).searches.finished_before
            >= 3
        )

    def test_a_further_dimension(self, store: ResultsStore) -> None:
        done = play(controller_of(store, methods=["nft"]), most=12)
        text = LONG.replace(
            "space: {", "space: {refine.weight_decay: {uniform: [0.0, 0.1]}, "
        )
        controller = controller_of(store, text, methods=["nft"])
        assert controller.searches.finished_before == 12
        rest = play(controller)
        assert not set(keys(rest)) & set(keys(done))
        assert len(rest) == 4
        assert (
            rest[0].hyperparameters["refine.weight_decay"]
            != done[0].hyperparameters["refine.weight_decay"]
        )

    def test_what_changes_every_trial_reuses_none(self, store: ResultsStore) -> None:
        done = play(controller_of(store))
        other = replace(
            fake_spec(LONG), file=fake_spec(LONG).file.model_copy(update={"seed": 7})
        )
        controller = SweepController(fake_searches(other), store, executor="fake")
        assert (controller.searches.finished_before, controller.searches.reused) == (
            0,
            "",
        )
        assert not set(keys(play(controller))) & set(keys(done))
        assert controller_of(store).done, "and the first goes on to be complete"


class TestAsynchronousHalving:
    """With eta 2, the best ceil(n / 2) of n trials that have reached a rung go on,
    whether they run or have ended.
    """

    @staticmethod
    def stopped(
        controller: SweepController, trials: list[TrialSpec]
    ) -> list[TrialSpec]:
        """Let running trials report their first two epochs, and return those that are
        stopped at the rung.
        """
        points = {
            trial.key: [
                point for r in list(fake_reports(trial))[:2] for point in r.progress
            ]
            for trial in trials
        }
        return [
            trial for trial in trials if controller.report(trial.key, points[trial.key])
        ]

    def test_all_that_have_reached_the_rung_are_compared(
        self, store: ResultsStore
    ) -> None:
        controller = controller_of(store, methods=["nft"])
        trials = [trial for _ in range(8) if (trial := controller.next_trial())]
        ordered = sorted(trials, key=lambda each: fake_score(each, 2))
        assert not self.stopped(controller, ordered[7:3:-1]), "each is the best so far"
        assert (
            self.stopped(controller, ordered[:4]) == []
        )  # four better ones: fifth to eighth of at most eight
        controller.finish(ordered[0].key, list(fake_reports(ordered[0]))[-1])
        controller.close()
        again = controller_of(store, methods=["nft"])
        assert [again.next_trial() for _ in range(7)] == [
            trial for trial in trials if trial != ordered[0]
        ]
        assert self.stopped(again, [ordered[5]]) == [ordered[5]], (
            "the one that has ended in the earlier run is better"
        )

    def test_a_failed_trial_is_no_rival(self, store: ResultsStore) -> None:
        controller = controller_of(store, methods=["nft"])
        trials = [trial for _ in range(2) if (trial := controller.next_trial())]
        best, worst = sorted(trials, key=lambda each: fake_score(each, 2))
        assert not self.stopped(controller, [best])
        controller.finish(best.key, TrialReport(status=Status.FAILED_USER))
        assert not self.stopped(controller, [worst])
