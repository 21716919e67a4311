"""Faults of the object store in which a sweep keeps its results: a real server behind a
proxy.
"""

import random
from collections.abc import Collection

from benchmarks.faults.fault import Fault
from benchmarks.faults.proxy import Proxy
from benchmarks.faults.requests import RequestProxy
from benchmarks.faults.run import Run


class FrozenStore(Fault):
    """A real S3 server, behind a proxy, accepts connections and requests, and answers
    nothing.

    Half of the faults of a store pass after 3 to 15 seconds, the others last until the
    command ends.
    """

    codes: Collection[int] = (0, 75)
    messages = ("s3://",)

    def __init__(self, run: Run, chance: random.Random) -> None:
        super().__init__(run, chance)
        self._lasts = (
            chance.uniform(3.0, 15.0) if chance.random() < 0.5 else float("inf")
        )

    @property
    def lasts(self) -> float:
        return self._lasts

    def prepare(self) -> str:
        self.proxy = Proxy(self.run.site.s3_port())
        self.run.use_s3(self.proxy.port)
        return ""

    def inject(self) -> bool:
        self.proxy.frozen = True
        return True

    def relieve(self) -> None:
        self.proxy.frozen = False
        self.proxy.broken = False
        self.proxy.delay = 0.0

    def clean(self) -> None:
        self.proxy.close()


class BrokenStore(FrozenStore):
    """The server resets every connection."""

    def inject(self) -> bool:
        self.proxy.broken = True
        return True


class SlowStore(FrozenStore):
    """Each part of a request or answer takes up to half a second; the sweep goes on."""

    codes = (0,)

    def inject(self) -> bool:
        self.proxy.delay = self.chance.uniform(0.1, 0.5)
        return True


class DisturbedRequests(FrozenStore):
    """For 5 to 15 seconds, a share of the requests to the store meets a fault of
    `RequestProxy`.
    """

    kind: str

    def __init__(self, run: Run, chance: random.Random) -> None:
        super().__init__(run, chance)
        self._lasts = chance.uniform(5.0, 15.0)

    def prepare(self) -> str:
        self.requests = RequestProxy(self.run.site.s3_port(), self.chance)
        self.run.use_s3(self.requests.port)
        return ""

    def inject(self) -> bool:
        self.requests.kind = self.kind
        return True

    def relieve(self) -> None:
        self.requests.kind = ""

    def clean(self) -> None:
        self.requests.close()


def disturbed_requests(kind: str) -> type[Fault]:
    """Return the fault of one kind of `RequestProxy`."""
    return type(kind, (DisturbedRequests,), {"kind": kind})
