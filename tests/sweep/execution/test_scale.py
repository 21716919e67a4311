"""The measurements of scale run, on few trials; their checks hold, whatever the time is."""

import pytest

from benchmarks import bench_scale


def test_the_driver_runs_many_trials_in_virtual_time() -> None:
    figures = bench_scale.driver(158, 8)
    assert figures["trials"] == 157, "two suggestions of a search are the same trial"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.exhaustive
def test_simulated_trials_run_once_through_tune() -> None:
    figures = bench_scale.on_ray(20, 2)
    assert figures["trials"] in (19, 20), "two suggestions may be the same trial"
