"""The expected cost of an improvement, by which a search divides its time.

Source: Wang et al., 2021, "FLAML: A Fast and Lightweight AutoML Library", section 4.2,
"estimated cost for improvement". A sample size of FLAML is a number of epochs here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orca_ray.adaptation.configuration import Configuration
from orca_ray.results.record import Record


@dataclass(frozen=True)
class Improvement:
    """A trial of a method that was better than all its trials before."""

    spent: float
    """Seconds of the method's trials up to the end of this one."""
    score: float


@dataclass(frozen=True)
class Progress:
    """What the trials of one method on one fold cost, and what they gained."""

    spent: float
    """Seconds of all these trials."""
    improvements: Sequence[Improvement]
    """Improvements in the order of time; the first trial is one. Not empty."""

    def expected_cost(self, leader_score: float, seconds_to_lengthen: float) -> float:
        """Return the seconds until the method is expected to lead.

        For the leading method, they are the seconds until its next improvement. These
        are at most ``seconds_to_lengthen``, and as many as its last improvement took or
        as have passed since.

        Another method must also catch up with ``leader_score``, at the speed of its
        last improvement. A single score counts as a gain of ``leader_score``.
        """
        *earlier, last = self.improvements
        spent_before = 0.0
        gain = leader_score
        if earlier:
            before = earlier[-1]
            spent_before = before.spent
            gain = before.score - last.score
        own_cost = max(self.spent - last.spent, last.spent - spent_before)
        own_cost = min(own_cost, seconds_to_lengthen)
        distance = last.score - leader_score
        if distance <= 0:
            return own_cost
        if gain <= 0:
            return math.inf
        return max(own_cost, distance * (self.spent - spent_before) / gain)


def measure_progress(
    configurations: Sequence[Configuration], fold: int
) -> Progress | None:
    """Return the progress of a method on a fold; None without a score there.

    ``configurations`` are all those of the method.
    """
    trials = list[tuple[Record, float]]()
    for configuration in configurations:
        score = configuration.scores.get(fold)
        if score is not None:
            trials.append((configuration.records[fold], score))
    trials.sort(key=lambda trial: trial[0].started_at)
    spent = 0.0
    improvements = list[Improvement]()
    for record, score in trials:
        spent += record.wall_seconds
        if not improvements or score < improvements[-1].score:
            improvements.append(Improvement(spent, score))
    return Progress(spent, improvements) if improvements else None
