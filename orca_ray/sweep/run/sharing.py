"""How several sweeps share one cluster.

Each driver on a cluster publishes a claim: which trials it could run now. Every driver
divides the cluster among all claims by the same rule, and starts no trial beyond its
own part. Nothing that runs is interrupted, so a part is reached as trials end.
docs/decisions/0034-sharing.md says why, and what it costs.
"""

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, Protocol

from pydantic import TypeAdapter

from orca_ray.sweep.plan.trial_spec import Resources

logger = logging.getLogger(__name__)

EXCHANGE_SECONDS = 2.0
"""Seconds between two times at which a driver publishes its claim and reads others."""
EXPIRY_SECONDS = 20.0
"""Seconds after which a claim that does not change is that of a dead driver."""
_ROUNDING = 1e-9


class Amounts(NamedTuple):
    """Amounts of the resources that are divided."""

    cpus: float = 0.0
    gpus: float = 0.0

    def plus(self, wanted: "Resources | TrialsWanted", count: int = 1) -> "Amounts":
        """Return the amounts with those of some more trials."""
        return Amounts(self.cpus + count * wanted.cpus, self.gpus + count * wanted.gpus)

    def fit(self, totals: "Amounts") -> bool:
        """Return whether none of the amounts is larger than that in ``totals``."""
        return (
            self.cpus <= totals.cpus + _ROUNDING
            and self.gpus <= totals.gpus + _ROUNDING
        )

    def share_of(self, totals: "Amounts") -> float:
        """Return the largest of the shares that the amounts are of ``totals``."""
        shares = [
            amount / total for amount, total in zip(self, totals, strict=True) if total
        ]
        return max(shares, default=0.0)


@dataclass(frozen=True)
class TrialsWanted:
    """Number of trials with equal resources that a driver could run at once."""

    cpus: float
    gpus: float
    count: int


@dataclass(frozen=True)
class Claim:
    """The trials that a driver could run on the cluster now.

    Trials that run already are among them.
    """

    driver: str
    """Random identifier of the driver."""
    priority: int
    wanted: tuple[TrialsWanted, ...]
    sequence: int
    """Grows with each publication, by which readers see that the driver lives."""

    def encode(self) -> bytes:
        """Return the claim as JSON text."""
        return json.dumps(asdict(self)).encode()


_ADAPTER = TypeAdapter(Claim)


def divide(claims: Sequence[Claim], totals: Amounts) -> dict[str, Amounts]:
    """Return each driver's part of a cluster that has ``totals``, by driver.

    Trials are given one at a time: first one to each driver, so that none starves, then
    to the drivers of the highest priority that want more. Among these, trials with GPUs
    come first, because trials without would take the CPUs that GPUs need. Then it is
    the turn of the driver with the smallest part. The size of a part is that of its
    largest share of one resource (dominant resource fairness, Ghodsi et al., NSDI
    2011).
    """
    parts = {claim.driver: Amounts() for claim in claims}
    left = totals
    wanted = {claim.driver: _bounded(claim, totals) for claim in claims}
    priorities = {claim.driver: claim.priority for claim in claims}

    def turn(driver: str) -> tuple[bool, int, bool, float, str]:
        part = parts[driver]
        has_some = part != Amounts()
        without_gpu = not fitting[driver].gpus
        share = part.share_of(totals)
        return has_some, -priorities[driver], without_gpu, share, driver

    while True:
        fitting = {}
        for driver, numbers in wanted.items():
            trials = _next_fitting(numbers, left)
            if trials is not None:
                fitting[driver] = trials
        if not fitting:
            return parts
        driver = min(fitting, key=turn)
        trials = fitting[driver]
        wanted[driver][trials] -= 1
        parts[driver] = parts[driver].plus(trials)
        left = left.plus(trials, -1)


def _bounded(claim: Claim, totals: Amounts) -> dict[TrialsWanted, int]:
    """Return the number of trials of each kind that may be given to a claim.

    It is at most what the whole cluster holds, and 0 for trials that take nothing.
    Trials with the most GPUs come first.
    """
    numbers = {}
    for trials in sorted(claim.wanted, key=lambda trials: -trials.gpus):
        share = Amounts().plus(trials).share_of(totals)
        numbers[trials] = min(trials.count, int(1 / share + 1e-6)) if share else 0
    return numbers


def _next_fitting(
    wanted: Mapping[TrialsWanted, int], left: Amounts
) -> TrialsWanted | None:
    """Return the first kind of trials of which one more fits, or None."""
    for trials, count in wanted.items():
        if count > 0 and Amounts().plus(trials).fit(left):
            return trials
    return None


class ClaimBoard(Protocol):
    """Place where the drivers of a cluster publish their claims."""

    def publish(self, driver: str, claim: bytes) -> None:
        """Store the claim of a driver in the place of its earlier one."""

    def read(self) -> Mapping[str, bytes]:
        """Return all claims by driver."""

    def remove(self, driver: str) -> None:
        """Delete the claim of a driver."""


class Share:
    """The part of a cluster that one driver may use beside others."""

    def __init__(
        self,
        board: ClaimBoard,
        totals: Callable[[], Amounts],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Store the arguments.

        Args:
            board: where drivers publish their claims.
            totals: returns what the cluster has.
            clock: returns the time in seconds.
        """
        self._board = board
        self._totals = totals
        self._clock = clock
        self._driver = uuid.uuid4().hex
        self._sequence = 0
        self._next_exchange = 0.0
        self._seen: dict[str, tuple[int, float]] = {}
        """Last sequence number of each other driver, and when it was first seen."""
        self._part: Amounts | None = None
        """What this driver may use; None if no other driver is on the cluster."""

    @property
    def fraction(self) -> float | None:
        """Share of the cluster that this driver may use; None if it is alone there."""
        return None if self._part is None else self._part.share_of(self._totals())

    def exchange(
        self, wanted: Callable[[], Mapping[Resources, int]], priority: int
    ) -> None:
        """Publish how many trials could run, and read the claims of other drivers.

        This is done every `EXCHANGE_SECONDS`; calls before that return at once.
        ``wanted`` returns the number of trials by resources, running ones included.
        """
        now = self._clock()
        if now < self._next_exchange:
            return
        self._next_exchange = now + EXCHANGE_SECONDS
        self._sequence += 1
        trials = tuple(
            TrialsWanted(resources.cpus, resources.gpus, count)
            for resources, count in wanted().items()
            if count > 0
        )
        claim = Claim(self._driver, priority, trials, self._sequence)
        self._board.publish(self._driver, claim.encode())
        others = [other for other in self._others(now) if other.wanted]
        if others:
            self._part = divide([claim, *others], self._totals())[self._driver]
        else:
            self._part = None

    def _others(self, now: float) -> list[Claim]:
        """Return the claims of other living drivers; delete those of dead ones."""
        claims = []
        for driver, content in self._board.read().items():
            if driver == self._driver:
                continue
            try:
                claim = _ADAPTER.validate_json(content)
            except ValueError:
                logger.debug("the claim of driver %s cannot be read", driver)
                continue
            sequence, since = self._seen.get(driver, (None, now))
            if claim.sequence != sequence:
                since = now
            self._seen[driver] = (claim.sequence, since)
            if now - since < EXPIRY_SECONDS:
                claims.append(claim)
            else:
                self._board.remove(driver)
        return claims

    def admits(self, wanted: Resources, in_flight: Mapping[Resources, int]) -> bool:
        """Return whether one more trial stays within the part of this driver.

        It does while the trials that executors have use less than the part of each
        resource that the trial wants. The first trial is always admitted.
        """
        if self._part is None:
            return True
        used = Amounts()
        for resources, count in in_flight.items():
            used = used.plus(resources, count)
        if used == Amounts():
            return True
        if wanted.gpus and used.gpus >= self._part.gpus - _ROUNDING:
            return False
        return not wanted.cpus or used.cpus < self._part.cpus - _ROUNDING

    def close(self) -> None:
        """Withdraw the claim; where the cluster is lost, it has gone with it."""
        with contextlib.suppress(Exception):
            self._board.remove(self._driver)
