"""Decisions about failed trials: which run again and when, and which nodes are bad."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from orca_ray.sweep.messages.causes import RULES, Cause, Failure

MAX_PAUSE_SECONDS = 8.0
"""Longest pause before a trial whose worker disappeared starts again.

Ray needs a moment to notice a dead node.
"""
SUSPICIOUS_TRIALS = 3
"""Number of different trials that must fail in a row for a node to be quarantined.

Only failures that may be the node's fault are counted.
"""


@dataclass
class FailuresOfTrial:
    """The failures of one trial so far, and what they change for its next attempt."""

    counts: Counter[Cause] = field(default_factory=Counter)
    excused: int = 0
    """Number of failures that are not in ``counts``, because the node is in quarantine.
    """
    not_before: float = 0.0
    """Time of the monotonic clock before which the trial must not start."""
    halvings: int = 0
    """How often the micro-batch is halved before the trial starts."""
    avoid: frozenset[str] = frozenset()
    """Ids of nodes on which the trial should not run again."""


class FailureLedger:
    """Ledger of the failures of trials.

    By `RULES`, it decides which trials run again, and which nodes get no more trials.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        """Returns the time that `FailuresOfTrial.not_before` refers to, in seconds."""
        self._failures: dict[str, FailuresOfTrial] = {}
        """Failures of each trial, by trial key."""
        self._suspicions: dict[str, dict[str, str]] = {}
        """Failures that may be the fault of a node: reason by node id and trial key."""
        self._working_nodes: set[str] = set()
        """Ids of nodes on which a trial has reported an epoch."""
        self.quarantined: dict[str, str] = {}
        """Reason for the quarantine by node id."""

    def of(self, key: str) -> FailuresOfTrial:
        """Return the failures of the trial ``key`` so far.

        If there is none, this is an empty `FailuresOfTrial`.
        """
        return self._failures.get(key) or FailuresOfTrial()

    def add_failure(self, key: str, failure: Failure) -> bool:
        """Add a failure of the trial ``key``, and return whether the trial runs again.

        The trial's first `SUSPICIOUS_TRIALS` failures that a node in quarantine may
        have caused are not counted.
        """
        rule = RULES[failure.cause]
        failures = self._failures.setdefault(key, FailuresOfTrial())
        is_excused = (
            failure.node in self.quarantined
            and rule.blames_node
            and failures.excused < SUSPICIOUS_TRIALS
        )
        # The cause of an excused failure is stored, too, with a count of 0: a trial is
        # new for the controller only if `FailuresOfTrial.counts` is empty.
        failures.counts[failure.cause] += 0 if is_excused else 1
        if is_excused:
            failures.excused += 1
        count = failures.counts[failure.cause]
        if rule.pauses:
            pause = 2.0 ** (max(count, 1) - 1)
            failures.not_before = self.now() + min(pause, MAX_PAUSE_SECONDS)
        if rule.shrinks:
            failures.halvings += 1
        if rule.elsewhere and failure.node:
            failures.avoid |= {failure.node}
        if rule.blames_node and failure.node:
            self._suspect(failure.node, key, failure.reason)
        return count <= rule.retries

    def add_success(self, node: str, *, ended: bool) -> None:
        """Store that a trial on ``node`` has reported an epoch.

        ``ended``: the trial has ended without a failure. Earlier failures on the node
        are then forgotten.
        """
        if node:
            self._working_nodes.add(node)
            if ended:
                self._suspicions.pop(node, None)

    def _suspect(self, node: str, key: str, reason: str) -> None:
        """Count a failure of a trial against ``node``.

        If the trial has failed on another node, too, it is counted against no node.
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
        """Add nodes on which many trials failed in a row to `quarantined`.

        At least `SUSPICIOUS_TRIALS` trials that failed on no other node must have
        failed on such a node, and another node outside quarantine must have reported an
        epoch of a trial. Returns the ids of the added nodes.
        """
        added = []
        for node, trials in self._suspicions.items():
            others_work = any(
                other != node and other not in self.quarantined
                for other in self._working_nodes
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
