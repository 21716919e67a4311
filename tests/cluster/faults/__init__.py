"""Faults that `tests.cluster.fault_harness` makes while a sweep runs, by name."""

from tests.cluster.faults.disk import FullDisk
from tests.cluster.faults.fault import Fault
from tests.cluster.faults.hang import Hang
from tests.cluster.faults.kills import KillDriver, KillGcs, KillRaylet, KillWorker
from tests.cluster.faults.node import KillNode
from tests.cluster.faults.object_store import BrokenStore, FrozenStore, SlowStore
from tests.cluster.faults.signals import Interrupt, Terminate

KINDS: dict[str, type[Fault]] = {
    "driver": KillDriver,
    "worker": KillWorker,
    "raylet": KillRaylet,
    "gcs": KillGcs,
    "node": KillNode,
    "sigterm": Terminate,
    "sigint": Interrupt,
    "hang": Hang,
    "disk": FullDisk,
    "store-freeze": FrozenStore,
    "store-slow": SlowStore,
    "store-break": BrokenStore,
}
