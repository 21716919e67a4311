"""Early stopping by successive halving, whose decisions depend on finished trials only.

ASHA (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning") compares a trial at each rung with
whatever other trials have reached that rung so far, so its decisions depend on timing. Here a trial is compared with
the trials of earlier generations of its own search, which have all ended: the rule is the same, and the same seeds
give the same decisions on one core or a hundred (docs/decisions/0003-replay.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class SuccessiveHalving:
    """Keep the best ``1 / eta`` at each rung."""

    eta: float = 2.0
    """Reduction factor; at a rung with n trials the best ceil(n / eta) go on."""
    min_epochs: int = 2
    """Epochs before the first rung."""

    def __post_init__(self) -> None:
        if not self.eta > 1:
            raise ValueError(f"eta must be greater than 1, got {self.eta}")
        if self.min_epochs < 1:
            raise ValueError(f"min_epochs must be at least 1, got {self.min_epochs}")

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs at which a trial of ``epochs`` epochs is judged, ascending, the last epoch left out."""
        rungs, epoch = [], float(self.min_epochs)
        while math.ceil(epoch) < epochs:
            rungs.append(math.ceil(epoch))
            epoch *= self.eta
        return sorted(set(rungs))

    def stops(self, scores: Sequence[float], epochs: int, earlier: Sequence[Sequence[float]]) -> bool:
        """Tell whether a trial ends here.

        Args:
            scores: validation scores of the trial's epochs so far, lower is better.
            epochs: how many epochs the trial would run.
            earlier: validation scores of the ended trials it is compared with.
        """
        reached = len(scores)
        if reached not in self.rungs(epochs):
            return False
        rivals = [min(other[:reached]) for other in earlier if len(other) >= reached]
        better = sum(rival < min(scores) for rival in rivals)
        return better + 1 > math.ceil((len(rivals) + 1) / self.eta)
