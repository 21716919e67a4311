"""Private interfaces of Ray 2.60, each with the reason why no public one serves.

`tests/sweep/executors/test_tune_adapter.py` says what breaks when one of them changes.
"""

from typing import Any, Literal


def max_package_bytes() -> int:
    """Return the size in bytes from which Ray refuses the files of a job.

    Ray itself refuses them only after it has packed them.
    """
    from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE

    return int(GCS_STORAGE_MAX_SIZE)


def memory_option(num_bytes: int) -> dict[str, Any]:
    """Return the argument of `ray.init` that sets the memory of the node it starts.

    The memory is in bytes.
    """
    return {"_memory": num_bytes}


def key_value_store(
    operation: Literal["get", "put", "del"], key: str, *value: bytes
) -> Any:
    """Get, put or delete a value in the cluster's key-value store.

    ``get`` returns the bytes under ``key``, None if there are none. ``put`` stores
    ``value`` under ``key``, and ``del`` deletes it. Values stay when workers end.
    """
    from ray.experimental import internal_kv

    return getattr(internal_kv, f"_internal_kv_{operation}")(
        key.encode(), *value, namespace=b"orca-ray-heartbeats"
    )


_CLAIMS = b"orca-ray-claims"
"""Namespace of the claims of drivers in the key-value store."""


class ClaimStore:
    """Claims of the drivers of a cluster, in the cluster's key-value store.

    Ray has no other place that all drivers of a cluster read and that ends with it,
    except a detached actor, whose process would take memory and a worker.
    """

    def publish(self, driver: str, claim: bytes) -> None:
        """Store the claim of a driver in the place of its earlier one."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_put(driver.encode(), claim, namespace=_CLAIMS)

    def read(self) -> dict[str, bytes]:
        """Return all claims by driver."""
        from ray.experimental import internal_kv

        claims = {}
        for key in internal_kv._internal_kv_list(b"", namespace=_CLAIMS):
            claim = internal_kv._internal_kv_get(key, namespace=_CLAIMS)
            if claim is not None:  # it may have been deleted meanwhile
                claims[key.decode()] = claim
        return claims

    def remove(self, driver: str) -> None:
        """Delete the claim of a driver."""
        from ray.experimental import internal_kv

        internal_kv._internal_kv_del(driver.encode(), namespace=_CLAIMS)


def actor_of(trial: Any) -> Any:
    """Return the actor that runs a trial of Tune; None if the trial has no actor."""
    return trial.temporary_state.ray_actor


def forget_results(trial: Any) -> None:
    """Free the results of an ended trial.

    Tune would keep them until the end of the run, and nothing reads them.
    """
    metadata = trial.run_metadata
    metadata.last_result = {"done": True}
    for results in (
        metadata.metric_analysis,
        metadata.metric_n_steps,
        trial.config,
        trial.evaluated_params,
    ):
        results.clear()
