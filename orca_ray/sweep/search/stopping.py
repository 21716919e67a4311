"""Early stopping by successive halving that depends on finished trials only.

ASHA (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning") compares a trial at each rung with all
trials that have reached this rung so far, so its decisions depend on timing. Here a trial is compared with the trials
of earlier generations of its own search, which have all ended. The rule is the same, and equal seeds give equal
decisions with any number of workers (docs/decisions/0003-replay.md).
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SuccessiveHalving(BaseModel):
    """Continue the best ``1 / eta`` of the trials at each rung."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    eta: Annotated[float, Field(ge=1.01)] = 2.0
    """Reduction factor; at a rung with n trials the best ceil(n / eta) continue."""
    min_epochs: Annotated[int, Field(ge=1)] = 2
    """Epochs before the first rung."""

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs at which a trial of ``epochs`` epochs is compared, ascending, without the last epoch."""
        rungs, epoch = [], float(self.min_epochs)
        while math.ceil(epoch) < epochs:
            rungs.append(math.ceil(epoch))
            epoch *= self.eta
        return sorted(set(rungs))

    def stops(self, scores: Sequence[float], epochs: int, earlier: Sequence[Sequence[float]]) -> bool:
        """Return whether a trial stops after its last epoch so far.

        Args:
            scores: validation scores of the trial's epochs so far; lower is better.
            epochs: number of epochs of the whole trial.
            earlier: validation scores of the trials to compare with.
        """
        reached = len(scores)
        if reached not in self.rungs(epochs):
            return False
        rivals = [min(other[:reached]) for other in earlier if len(other) >= reached]
        better = sum(rival < min(scores) for rival in rivals)
        return better + 1 > math.ceil((len(rivals) + 1) / self.eta)
