"""The state of a sweep, as read from its store."""

from pathlib import Path

import pytest

from orca_ray.errors import UserError
from orca_ray.results.lease import Lease
from orca_ray.results.status import only_trial, sweep_status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.spec import Overrides
from orca_ray.sweep.run import control
from orca_ray.sweep.run.controller import SweepController
from tests.sweep.fakes import fake_searches, fake_spec, play


def test_records_of_an_earlier_command_are_no_progress_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_TICK_SECONDS", 0.0)
    store = ResultsStore(tmp_path / "results", create=True)
    nft, orca = (fake_searches(fake_spec(overrides=Overrides(methods=[name]))) for name in ("nft", "orca"))
    first = SweepController(nft, store, executor="fake")
    play(first)
    first.close()
    with Lease(store, "fake/full") as lease:
        second = SweepController(orca, store, executor="fake", lease=lease)
        play(second, most=2)
        second.tick()
        second.close()
    found = sweep_status(store, "fake/full")
    assert (found.done, found.planned, found.state) == (2, 12, "stopped")
    assert {(row.method, row.done) for row in found.rows if row.task == "pocket/wdbc"} >= {("nft", 6)}


def test_a_trial_of_two_sweeps_counts_once_among_those_with_the_same_beginning() -> None:
    trials = {("a/full", "k1"), ("b/full", "k1"), ("a/full", "k2")}
    with pytest.raises(UserError, match="2 trials in this store have a key that starts with 'k': k1, k2;"):
        only_trial(trials, "k", None)
    with pytest.raises(UserError, match="k1 belongs to 2 sweeps: give --sweep, one of a/full, b/full"):
        only_trial(trials, "k1", None)
    assert only_trial(trials, "k1", "b/full") == ("b/full", "k1")
