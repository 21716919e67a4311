"""Faults of an object store: a real S3 server behind a proxy that misbehaves."""

import random
from abc import abstractmethod
from collections.abc import Collection

from tests.cluster.faults.fault import Fault
from tests.cluster.faults.proxy import Proxy
from tests.cluster.faults.run import Run

SHORT_SECONDS = (3.0, 15.0)
"""A fault that passes lasts a random time in this range."""


class _StoreFault(Fault):
    """A fault of the object store: half of them pass after some seconds, the others last until the command ends."""

    codes: Collection[int] = (0, 2)
    messages = ("s3://",)

    def __init__(self, run: Run, chance: random.Random) -> None:
        super().__init__(run, chance)
        self._lasts = chance.uniform(*SHORT_SECONDS) if chance.random() < 0.5 else float("inf")

    @property
    def lasts(self) -> float:
        return self._lasts

    def prepare(self) -> str:
        self.proxy = Proxy(self.run.site.s3_port())
        self.run.use_s3(self.proxy.port)
        return ""

    def inject(self) -> bool:
        self.disturb()
        return True

    @abstractmethod
    def disturb(self) -> None:
        """Make the fault."""

    def relieve(self) -> None:
        self.proxy.frozen, self.proxy.broken, self.proxy.delay = False, False, 0.0

    def clean(self) -> None:
        self.proxy.close()


class FrozenStore(_StoreFault):
    """The server accepts connections and requests, and answers nothing."""

    def disturb(self) -> None:
        self.proxy.frozen = True


class BrokenStore(_StoreFault):
    """The server resets every connection."""

    def disturb(self) -> None:
        self.proxy.broken = True


class SlowStore(_StoreFault):
    """Each part of a request or an answer takes up to half a second; the sweep goes on."""

    codes = (0,)

    def disturb(self) -> None:
        self.proxy.delay = self.chance.uniform(0.1, 0.5)
