"""Private interfaces of Ray 2.60 that the executors use, each with the reason why no public one serves.

`tests/sweep/executors/test_ray_private.py` says what breaks when one of them changes.
"""

from collections.abc import Callable
from typing import Any

_NAMESPACE = b"orca-ray-heartbeats"


def max_package_bytes() -> int:
    """Return the largest size of a job's working directory, which Ray states only after an upload has failed."""
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(GCS_STORAGE_MAX_SIZE)


def memory_option(num_bytes: int) -> dict[str, Any]:
    """Return the argument of `ray.init` that sets a node's memory; ``ray start --memory`` is for other processes."""
    return {"_memory": num_bytes}


def store_value(key: str, value: bytes) -> None:
    """Store a value in the cluster's key-value store, which outlives workers; Ray has no public one."""
    _internal_kv("put")(key.encode(), value, overwrite=True, namespace=_NAMESPACE)


def stored_value(key: str) -> bytes | None:
    """Return a value that `store_value` has stored; None if there is none."""
    value: bytes | None = _internal_kv("get")(key.encode(), namespace=_NAMESPACE)
    return value


def delete_value(key: str) -> None:
    """Delete a value that `store_value` has stored, if there is one."""
    _internal_kv("del")(key.encode(), namespace=_NAMESPACE)


def actor_of(trial: Any) -> Any:
    """Return the actor of a trial of Tune, None if it has none; a callback cannot learn it in a public way."""
    return trial.temporary_state.ray_actor


def forget_results(trial: Any) -> None:
    """Free the results of an ended trial, which Tune keeps until the end of the run although nothing reads them."""
    metadata = trial.run_metadata
    metadata.last_result = {"done": True}
    for kept in (metadata.metric_analysis, metadata.metric_n_steps, trial.config, trial.evaluated_params):
        kept.clear()


def _internal_kv(operation: str) -> Callable[..., Any]:
    from ray.experimental import internal_kv

    function: Callable[..., Any] = getattr(internal_kv, f"_internal_kv_{operation}")
    return function
