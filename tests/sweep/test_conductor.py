from pathlib import Path

import pytest

from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.conductor import Conductor, checkpoint_directory
from orca_ray.sweep.events import Event, TrialFinished
from orca_ray.sweep.spec import Overrides
from orca_ray.sweep.study_plan import NodeResources, placement_problem
from orca_ray.sweep.trial import Resources, TrialSpec
from tests.sweep.fakes import TEXT, fake_end, fake_reports, fake_spec, fake_studies, play


@pytest.fixture
def store(tmp_path: Path) -> ResultsStore:
    return ResultsStore(tmp_path / "results", create=True)


def conduct(store: ResultsStore, **options: object) -> Conductor:
    return Conductor(fake_studies(), store, executor="fake", **options)  # type: ignore[arg-type]


def test_a_whole_sweep(store: ResultsStore) -> None:
    events: list[Event] = []
    conductor = conduct(store, listener=events.append)
    ran = play(conductor)
    assert conductor.done
    summary = conductor.summary()
    assert summary.planned == summary.ran == len(ran) == 4 * (4 + 2)
    assert not summary.failed
    records = store.load("fake/full")
    assert set(records) == {trial.key for trial in ran}
    confirm = [record for record in records.values() if record.phase == "confirm"]
    assert len(confirm) == 8
    assert all(record.test_score is not None for record in confirm)
    assert all(record.test_score is None for record in records.values() if record.phase == "search")
    assert summary.statuses[Status.STOPPED_EARLY] > 0
    assert sum(isinstance(event, TrialFinished) for event in events) == 24


def test_confirm_trials_take_the_winner_and_never_a_stopped_trial(store: ResultsStore) -> None:
    play(conduct(store))
    records = list(store.load("fake/full").values())
    for task, method in {(record.task, record.method) for record in records}:
        mine = [record for record in records if (record.task, record.method) == (task, method)]
        completed = [r for r in mine if r.phase == "search" and r.status is Status.COMPLETED]
        best = min(completed, key=lambda record: record.validation_score or 0.0)
        assert {r.hyperparameters for r in mine if r.phase == "confirm"} == {best.hyperparameters}


@pytest.mark.parametrize("most", [0, 1, 3, 7, 16, 23])
def test_a_killed_sweep_goes_on_without_running_a_trial_twice(store: ResultsStore, tmp_path: Path, most: int) -> None:
    whole = ResultsStore(tmp_path / "whole", create=True)
    expected = {trial.key for trial in play(conduct(whole))}
    first = play(conduct(store), most=most)
    abandoned = conduct(store)
    if (trial := abandoned.next_trial()) is not None:  # a trial that was out when the driver died
        abandoned.started(trial.key)
        abandoned.report(trial.key, next(fake_reports(trial))["progress"])
    second = conduct(store)
    assert second.finished_before == most
    rest = play(second)
    assert not {t.key for t in first} & {t.key for t in rest}
    assert {t.key for t in first} | {t.key for t in rest} == expected
    assert len(store.records(sweep="fake/full")) == len(expected)
    again = conduct(store)
    assert again.next_trial() is None
    assert again.done
    assert again.summary().up_to_date


def test_parallel_workers_give_the_same_records(tmp_path: Path) -> None:
    one = ResultsStore(tmp_path / "one", create=True)
    play(conduct(one))
    many = ResultsStore(tmp_path / "many", create=True)
    conductor = conduct(many)
    out: list[tuple[TrialSpec, list[dict[str, object]]]] = []
    while not conductor.done:
        while (trial := conductor.next_trial()) is not None:
            conductor.started(trial.key)
            out.append((trial, list(fake_reports(trial))))
        trial, reports = out.pop()  # the youngest first: an order that no single worker would give
        for report in reports:
            if conductor.report(trial.key, report["progress"]) and not report["done"]:  # type: ignore[arg-type]
                report = {**fake_end(trial, "stopped_early"), "done": True}
            if report["done"]:
                conductor.finish(trial.key, report)
                break
    facts = [{key: record.deterministic() for key, record in store.load("fake/full").items()} for store in (one, many)]
    assert facts[0] == facts[1]


def test_failures_are_told_and_rerun_only_on_request(store: ResultsStore) -> None:
    conductor = conduct(store)
    play(conductor, fail=frozenset({"pocket/wdbc"}))
    summary = conductor.summary()
    assert summary.statuses[Status.FAILED_USER] == len(summary.failed) == 8
    assert summary.unfinished == (
        "pocket/wdbc nft: every search trial failed",
        "pocket/wdbc orca: every search trial failed",
    )
    assert conduct(store).done
    retry = conduct(store, retry_failed=True)
    assert len(play(retry)) == 12
    assert not retry.summary().failed


def test_lost_trials_run_again_by_themselves(store: ResultsStore) -> None:
    conductor = conduct(store)
    trial = conductor.next_trial()
    assert trial is not None
    conductor.finish(trial.key, {"status": "lost", "error": "node gone"})
    again = play(conduct(store))
    assert trial.key in {t.key for t in again}
    assert store.load("fake/full")[trial.key].status is Status.COMPLETED


def test_a_resumed_trial_reports_its_first_epochs_again_without_doubling(store: ResultsStore) -> None:
    conductor = conduct(store)
    trial = conductor.next_trial()
    assert trial is not None
    reports = list(fake_reports(trial))
    points = [report["progress"][0] for report in reports]
    conductor.report(trial.key, points[:2])
    conductor.give_back(trial.key)
    assert conductor.next_trial() == trial
    assert conductor.attempt(trial.key) == 2
    conductor.report(trial.key, points[:3])
    conductor.report(trial.key, points[3:])
    record = conductor.finish(trial.key, reports[-1])
    assert record.attempts == 2
    assert len(store.curves(trial_key=trial.key)) == trial.epochs


def test_the_longest_chain_starts_first(store: ResultsStore) -> None:
    conductor = Conductor(fake_studies(), store, executor="fake", costs={"pocket/digits": 1.0, "pocket/wdbc": 9.0})
    first = conductor.next_trial()
    assert first is not None
    assert first.task == "pocket/wdbc"


def test_without_a_search_the_first_configuration_is_confirmed(store: ResultsStore) -> None:
    studies = fake_studies(fake_spec(overrides=Overrides(trials=1, methods=["nft"])))
    ran = play(Conductor(studies, store, executor="fake"))
    assert [(trial.phase, trial.seed) for trial in ran] == [("confirm", 1), ("confirm", 1)]
    assert all(trial.hyperparameters["refine.learning_rate"] == 1e-3 for trial in ran)


def test_a_method_that_does_not_align_has_no_align_parameters() -> None:
    by_method = {plan.method: plan.first for plan in fake_studies()}
    assert "align.epochs" in by_method["orca"]
    assert not any(name.startswith("align.") for name in by_method["nft"])


def test_keys_are_stable_and_tell_trials_apart() -> None:
    plan = fake_studies()[0]
    trial = plan.trial({}, 1, "search")
    assert trial.key == plan.trial({}, 1, "confirm").key
    assert trial.key != plan.trial({}, 2, "search").key
    assert trial.key != plan.trial({"refine.learning_rate": 0.02}, 1, "search").key
    assert TrialSpec.from_config(trial.to_config()) == trial


def test_repeated_suggestions_run_once(store: ResultsStore) -> None:
    text = TEXT.replace("{log_uniform: [1e-5, 1e-1]}", "{choice: [1e-3, 1e-2]}").replace("[nft, orca]", "[nft]")
    conductor = Conductor(fake_studies(fake_spec(text)), store, executor="fake")
    ran = play(conductor)
    assert len({trial.key for trial in ran}) == len(ran) < 12
    assert conductor.done


def test_placement() -> None:
    nodes = [NodeResources("small", 2, 0, 4.0), NodeResources("large", 16, 1, 64.0)]
    assert placement_problem(Resources(4, 0.5, 8.0), nodes) is None
    problem = placement_problem(Resources(4, 2, 8.0), nodes)
    assert problem is not None
    assert "2 GPUs" in problem
    assert "large: 16 CPUs, 1 GPUs" in problem


def test_several_epochs_in_one_report_are_judged_one_by_one(store: ResultsStore, tmp_path: Path) -> None:
    """A trial saves an epoch before it is judged; killed in between, it resumes past its rung."""
    expected = ResultsStore(tmp_path / "expected", create=True)
    play(conduct(expected))
    conductor = conduct(store)
    while (trial := conductor.next_trial()) is not None:
        reports = list(fake_reports(trial))
        stop = conductor.report(trial.key, [point for report in reports for point in report["progress"]])
        end = {**fake_end(trial, "stopped_early"), "outcome": None} if stop else reports[-1]
        conductor.finish(trial.key, end)
    facts = [{key: r.deterministic() for key, r in s.load("fake/full").items()} for s in (expected, store)]
    assert facts[0] == facts[1]
    assert any(record["status"] == Status.STOPPED_EARLY for record in facts[0].values())


def test_a_long_task_stays_ahead_of_short_ones_once_its_seconds_are_known(store: ResultsStore) -> None:
    costs = {"pocket/digits": 1e4, "pocket/wdbc": 1e5}
    conductor = Conductor(fake_studies(), store, executor="fake", costs=costs)
    play(conductor, most=2)
    following = conductor.next_trial()
    assert following is not None
    assert following.task == "pocket/wdbc"


def test_what_a_kill_leaves_of_a_checkpoint_is_deleted(store: ResultsStore) -> None:
    conductor = conduct(store)
    trial = conductor.next_trial()
    assert trial is not None
    folder = checkpoint_directory(store)
    folder.mkdir()
    for name in (f"{trial.key}.pt", f".{trial.key}.pt.1.tmp"):
        (folder / name).touch()
    conductor.finish(trial.key, fake_end(trial))
    conductor.tidy()
    assert not folder.exists()
