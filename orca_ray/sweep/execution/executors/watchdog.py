"""Notices that the driver's own part of a Ray cluster, the head's GCS or the local raylet, is gone; Ray would wait."""

import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from orca_ray.errors import ClusterLostError

CHECK_SECONDS = 2.0
MISSES = 3
"""Number of failed checks in a row after which a service counts as lost, so that a short pause of it is survived."""


class Watchdog:
    """Thread that connects to GCS and local raylet every few seconds."""

    def __init__(
        self, services: Mapping[str, tuple[str, int]], on_lost: Callable[[ClusterLostError], None], *,
        seconds: float = CHECK_SECONDS,
    ) -> None:  # fmt: skip
        """Store host and port of each service, by its name for users; ``on_lost`` is called once, in the thread."""
        self._services, self._on_lost, self._seconds = dict(services), on_lost, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        misses = dict.fromkeys(self._services, 0)
        while not self._ended.wait(self._seconds):
            for name, address in self._services.items():
                misses[name] = 0 if _answers(address, self._seconds) else misses[name] + 1
                if misses[name] >= MISSES:
                    self._on_lost(ClusterLostError(f"the {name} at {address[0]}:{address[1]} does not answer any more"))
                    return


def _answers(address: tuple[str, int], seconds: float) -> bool:
    try:
        socket.create_connection(address, timeout=max(seconds, 1.0)).close()
    except OSError:
        return False
    return True


def lost_service(services: Mapping[str, tuple[str, int]], error: Exception) -> Exception:
    """Return ClusterLostError if ``error`` has come from a service that does not answer any more, else ``error``."""
    if isinstance(error, ClusterLostError):
        return error
    gone = [f"{name} at {host}:{port}" for name, (host, port) in services.items() if not _answers((host, port), 1.0)]
    return ClusterLostError(f"the {gone[0]} does not answer any more") if gone else error


def services() -> dict[str, tuple[str, int]]:
    """Return host and port of the services that this process, which is connected to a cluster, depends on."""
    import ray

    context: Any = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    here = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return {
        "head of the Ray cluster (GCS)": (host.strip("[]"), int(port)),
        "local Ray node (raylet)": (here["NodeManagerAddress"], int(here["NodeManagerPort"])),
    }
