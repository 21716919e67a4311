"""Causes of failures of trials, and the rule for each cause."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from orca_ray.errors import UserError
from orca_ray.results.record import Status
from orca_ray.training.numerics import NotFiniteError, is_out_of_memory
from orca_ray.training.ranks import RankLostError

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
    """Whether the next attempt starts after a pause.

    Pauses take 1, 2, 4, ... seconds, at most `MAX_PAUSE_SECONDS`.
    """
    counts: bool = True
    """Whether the failed attempt is included in the trial's number of attempts."""
    shrinks: bool = False
    """Whether the next attempt gets half the micro-batch.

    Without a GPU, it also gets more memory after the second failure.
    """
    blames_node: bool = False
    """Whether the failure may be the fault of the node.

    Such failures may lead to a quarantine of the node.
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


class StagingError(RuntimeError):
    """Error: a node cannot get the data, the body or a source of a trial.

    It is also raised if the node gets another version than the sweep was planned with.
    The node failed, not the trial: another node, or the same node later, may run the
    trial. The error is therefore handled like a lost worker, and never ends a trial as
    ``failed_user``.
    """


def bounded(text: str) -> str:
    """Return ``text`` cut to at most `MAX_ERROR_BYTES`.

    The middle is left out, because both ends may name the error.
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
