"""Rules for failed trials by cause: number of retries, pauses between them, smaller
batches, quarantine of nodes.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orca_ray.errors import UserError
from orca_ray.results.record import Status
from orca_ray.sweep.worker.staging import StagingError
from orca_ray.training.numerics import NotFiniteError, is_out_of_memory
from orca_ray.training.ranks import RankLostError

MAX_PAUSE_SECONDS = 8.0
"""Longest pause before a trial whose worker disappeared starts again: Ray needs a
moment to notice a dead node.
"""
SUSPICIOUS_TRIALS = 3
"""A node is quarantined after failures of this many different trials in a row that may
be its fault.
"""
MAX_ERROR_BYTES = 8 * 2**10
"""Largest size of the error text in a record, in UTF-8."""


class Cause(StrEnum):
    """Cause of the failure of a trial."""

    USER = "user"
    MEMORY = "memory"
    NOT_FINITE = "not finite"
    CODE = "code"
    LOST = "lost"
    PREEMPTED = "preempted"
    TIME = "time"


@dataclass(frozen=True)
class Rule:
    """Rule for the failures with one cause."""

    status: Status
    """Status of the trial when it does not run again."""
    retries: int = 0
    """How often a trial runs again after failures with this cause."""
    pauses: bool = False
    """Whether the next attempt starts after a pause of 1, 2, 4, ... seconds, at most
    `MAX_PAUSE_SECONDS`.
    """
    counts: bool = True
    """Whether the failed attempt counts in the number of attempts of the trial."""
    shrinks: bool = False
    """Whether the next attempt gets half the micro-batch and, without a GPU, more
    memory after the second failure.
    """
    blames_node: bool = False
    """Whether the node may be the reason, so that the failure counts towards its
    quarantine.
    """
    elsewhere: bool = False
    """Whether another node is preferred for the next attempt."""


RULES: Mapping[Cause, Rule] = {
    Cause.USER: Rule(Status.FAILED_USER),
    Cause.MEMORY: Rule(Status.FAILED_OOM, retries=3, shrinks=True),
    Cause.NOT_FINITE: Rule(Status.FAILED_NAN),
    Cause.CODE: Rule(Status.FAILED_CODE, retries=1, blames_node=True, elsewhere=True),
    Cause.LOST: Rule(
        Status.LOST, retries=5, pauses=True, blames_node=True, elsewhere=True
    ),
    Cause.PREEMPTED: Rule(Status.LOST, retries=1000, pauses=True, counts=False),
    Cause.TIME: Rule(Status.TIMED_OUT, retries=1, elsewhere=True),
}
CAUSES: Mapping[Status, Cause] = {
    rule.status: cause for cause, rule in RULES.items() if cause is not Cause.PREEMPTED
}
"""Cause of a failure, by the status that a worker reports."""


@dataclass(frozen=True)
class Failure:
    """A failure of one attempt at a trial."""

    cause: Cause
    reason: str
    """What happened, for the user and the record."""
    node: str = ""
    """Id of the node; "" if it is unknown."""


@dataclass
class FailuresOfTrial:
    """The failures of one trial so far, and what they change for its next attempt."""

    counts: Counter[Cause] = field(default_factory=Counter)
    excused: int = 0
    """Number of failures that were not counted, because the node is in quarantine."""
    not_before: float = 0.0
    """Time of the monotonic clock before which the trial must not start."""
    halvings: int = 0
    """How often the micro-batch is halved before the trial starts."""
    avoid: frozenset[str] = frozenset()
    """Ids of nodes on which the trial should not run again."""


class FailureLedger:
    """Ledger of failed trials: decides by `RULES` which trials run again, and which
    nodes get no more trials.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        """Returns the time that `FailuresOfTrial.not_before` refers to, in seconds."""
        self._histories: dict[str, FailuresOfTrial] = {}
        self._suspicions: dict[str, dict[str, str]] = {}
        self._works: set[str] = set()
        self.quarantined: dict[str, str] = {}
        """Reason for the quarantine by node id."""

    def of(self, key: str) -> FailuresOfTrial:
        """Return the failures of the trial ``key`` so far; an empty `FailuresOfTrial`
        if there is none.
        """
        return self._histories.get(key) or FailuresOfTrial()

    def retries(self, key: str, failure: Failure) -> bool:
        """Add a failure of the trial ``key``, and return whether the trial runs again.

        The trial's first `SUSPICIOUS_TRIALS` failures that a node in quarantine may
        have caused are not counted.
        """
        rule = RULES[failure.cause]
        history = self._histories.setdefault(key, FailuresOfTrial())
        known_bad = (
            failure.node in self.quarantined
            and rule.blames_node
            and history.excused < SUSPICIOUS_TRIALS
        )
        history.excused += known_bad
        history.counts[failure.cause] += not known_bad
        count = history.counts[failure.cause]
        if rule.pauses:
            history.not_before = self.now() + min(
                2.0 ** (max(count, 1) - 1), MAX_PAUSE_SECONDS
            )
        if rule.shrinks:
            history.halvings += 1
        if rule.elsewhere and failure.node:
            history.avoid |= {failure.node}
        if rule.blames_node and failure.node:
            self._suspect(failure.node, key, failure.reason)
        return count <= rule.retries

    def works(self, node: str, *, ended: bool) -> None:
        """Note that a trial on ``node`` has reported an epoch or, if ``ended``, has
        ended without a failure.
        """
        if node:
            self._works.add(node)
            if ended:
                self._suspicions.pop(node, None)

    def _suspect(self, node: str, key: str, reason: str) -> None:
        """Count a failure of a trial against ``node``; if the trial failed elsewhere
        too, count it against no node.
        """
        elsewhere = [
            other
            for other, trials in self._suspicions.items()
            if other != node and key in trials
        ]
        for other in elsewhere:
            del self._suspicions[other][key]
            if len(self._suspicions[other]) < SUSPICIOUS_TRIALS:
                self.quarantined.pop(other, None)
        if not elsewhere:
            self._suspicions.setdefault(node, {})[key] = reason

    def new_quarantines(self) -> list[str]:
        """Add to `quarantined` each node on which `SUSPICIOUS_TRIALS` trials in a row
        failed that failed on no other.

        Another node outside quarantine must have reported an epoch of a trial. Returns
        the ids of the added nodes.
        """
        added = []
        for node, trials in self._suspicions.items():
            others_work = any(
                other != node and other not in self.quarantined for other in self._works
            )
            if (
                node not in self.quarantined
                and len(trials) >= SUSPICIOUS_TRIALS
                and others_work
            ):
                last = list(trials.values())[-1].strip().splitlines() or [""]
                self.quarantined[node] = (
                    f"{len(trials)} trials in a row failed there, the last:"
                    f" {last[-1][:300]}"
                )
                added.append(node)
        return added


def bounded(text: str) -> str:
    """Return ``text`` in at most `MAX_ERROR_BYTES`; the middle is left out, since both
    ends name the error.
    """
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= MAX_ERROR_BYTES:
        return text
    gap = b"\n...\n"
    half = (MAX_ERROR_BYTES - len(gap)) // 2
    return (encoded[:half] + gap + encoded[-half:]).decode("utf-8", "ignore")


class RankFailedError(Exception):
    """Error: a rank other than the first failed.

    ``status`` is that of the trial; the message has rank and reason.
    """

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


def classify(error: Exception) -> Status:
    """Return the failure status of a trial that ended with the exception ``error``."""
    if isinstance(error, RankFailedError):
        return error.status
    if isinstance(error, StagingError | RankLostError):
        return Status.LOST
    if isinstance(error, NotFiniteError):
        return Status.FAILED_NAN
    if is_out_of_memory(error):
        return Status.FAILED_OOM
    return Status.FAILED_USER if isinstance(error, UserError) else Status.FAILED_CODE
