"""What breaks when a private interface of Ray changes that `orca_ray.sweep.executors.ray_private` uses."""

import inspect

import pytest

ray = pytest.importorskip("ray")

from ray.tune.experiment import Trial  # noqa: E402

from orca_ray.sweep.executors import liveness, ray_private  # noqa: E402
from tests import session  # noqa: E402


def test_submit_refuses_a_package_that_ray_would_refuse_after_the_upload() -> None:
    assert ray_private.max_package_bytes() == 512 * 2**20


def test_trials_in_a_container_reserve_no_more_memory_than_it_has() -> None:
    (name,) = ray_private.memory_option(2**30)
    assert f'kwargs.pop("{name}", None)' in inspect.getsource(ray.init)  # which raises for any other argument


def test_a_worker_that_hangs_is_killed_by_its_actor_of_tune() -> None:
    trial = Trial("any", stub=True)
    assert ray_private.actor_of(trial) is None
    trial.temporary_state.ray_actor = actor = object()
    assert ray_private.actor_of(trial) is actor


def test_ended_trials_keep_no_results_in_the_driver() -> None:
    trial = Trial("any", stub=True, config={"trial": "{}"}, evaluated_params={"trial": "{}"})
    trial.run_metadata.update_metric("report", 1.0, step=1)
    trial.run_metadata.last_result = {"report": "{}", "training_iteration": 1}
    ray_private.forget_results(trial)
    assert trial.last_result["done"]
    assert "report" not in trial.last_result
    kept = (trial.config, trial.evaluated_params, trial.metric_analysis, trial.run_metadata.metric_n_steps)
    assert kept == ({}, {}, {}, {})


@pytest.mark.ray
@pytest.mark.slow
def test_the_driver_reads_heartbeats_of_workers_that_have_ended(ray_cluster: session.RayCluster) -> None:
    ray.init(address=ray_cluster.address, log_to_driver=False)

    @ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]  # ray is untyped
    def beat(count: int) -> None:
        ray_private.key_value_store("put", "trial", f"node {count}".encode())

    assert liveness.read_heartbeat("trial") == ("", -1)
    for count in (1, 2):
        ray.get(beat.remote(count))
        assert liveness.read_heartbeat("trial") == ("node", count)
    ray_private.key_value_store("del", "trial")
    assert liveness.read_heartbeat("trial") == ("", -1)
