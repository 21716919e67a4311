"""Which failed trials run again and when, and which nodes are in quarantine."""

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
"""Number of failed trials in a row after which a node is quarantined.

Different trials whose failure may be the node's fault count.
"""


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
    """Ledger of failed trials.

    It decides by `RULES` which trials run again, and which nodes get no more trials.
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
        """Return the failures of the trial ``key`` so far.

        An empty `FailuresOfTrial` if there is none.
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
        """Note that a trial on ``node`` has reported an epoch.

        If ``ended``, it has ended without a failure.
        """
        if node:
            self._works.add(node)
            if ended:
                self._suspicions.pop(node, None)

    def _suspect(self, node: str, key: str, reason: str) -> None:
        """Count a failure of a trial against ``node``.

        If the trial failed elsewhere too, count it against no node.
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
        """Add to `quarantined` each node on which many trials failed in a row.

        They are `SUSPICIOUS_TRIALS` trials that failed on no other node.

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
