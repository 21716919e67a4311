"""The state of a sweep, as read from its store."""

from pathlib import Path

import pytest

from orca_ray.results.lease import Lease
from orca_ray.results.status import sweep_status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.execution import control
from orca_ray.sweep.execution.conductor import Conductor
from orca_ray.sweep.planning.spec import Overrides
from tests.sweep.fakes import fake_searches, fake_spec, play


def test_records_of_an_earlier_command_are_no_progress_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_TICK_SECONDS", 0.0)
    store = ResultsStore(tmp_path / "results", create=True)
    nft, orca = (fake_searches(fake_spec(overrides=Overrides(methods=[name]))) for name in ("nft", "orca"))
    first = Conductor(nft, store, executor="fake")
    play(first)
    first.close()
    with Lease(store, "fake/full") as lease:
        second = Conductor(orca, store, executor="fake", lease=lease)
        play(second, most=2)
        second.tick()
        second.close()
    found = sweep_status(store, "fake/full")
    assert (found.done, found.planned, found.state) == (2, 12, "stopped")
    assert {(row.method, row.done) for row in found.rows if row.task == "pocket/wdbc"} >= {("nft", 6)}
