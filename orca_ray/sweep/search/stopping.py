"""Early stopping by successive halving, with decisions that do not depend on timing.

ASHA (Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning") compares a trial at certain epochs
(rungs) with all trials that have reached this rung so far, so its decisions depend on timing. Here a trial is compared
with the trials of earlier generations (see `sampler`) of its own search, which have all ended. Equal seeds therefore
give equal decisions with any number of workers (docs/decisions/0003-replay.md).
"""

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SuccessiveHalving(BaseModel):
    """Stopping rule: at each rung, only the best ``1 / eta`` of the trials continue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    eta: Annotated[float, Field(ge=1.01)] = 2.0
    """Reduction factor: a trial continues if it is among the best ceil(n / eta) of n trials at a rung."""
    min_epochs: Annotated[int, Field(ge=1)] = 2
    """Epoch of the first rung; each further rung is at ``eta`` times the epoch of the one before it."""

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs of the rungs below ``epochs``, ascending."""
        rungs, epoch = [], float(self.min_epochs)
        while math.ceil(epoch) < epochs:
            rungs.append(math.ceil(epoch))
            epoch *= self.eta
        return sorted(set(rungs))

    def stops(self, scores: Sequence[float], epochs: int, earlier: Sequence[Sequence[float]]) -> bool:
        """Return whether a trial must stop now; False if the current epoch is not a rung.

        Args:
            scores: validation scores of the trial, one per epoch so far; lower is better. The best one counts.
            epochs: number of epochs of the whole trial.
            earlier: validation scores of each trial to compare with; those that ended before this rung are ignored.
        """
        reached = len(scores)
        if reached not in self.rungs(epochs):
            return False
        rivals = [min(other[:reached]) for other in earlier if len(other) >= reached]
        better = sum(rival < min(scores) for rival in rivals)
        return better + 1 > math.ceil((len(rivals) + 1) / self.eta)
