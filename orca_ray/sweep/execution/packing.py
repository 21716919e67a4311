"""Packing trials on GPUs: the share of a card that a trial gets follows the peak memory of trials like it."""

from collections.abc import Mapping
from typing import NamedTuple

from orca_ray.sweep.planning.schema import Scalar
from orca_ray.sweep.planning.searches import TrialSpec
from orca_ray.training.memory_limits import CONTEXT_MIB

SHARES = (0.125, 0.25, 0.5, 1.0)
"""Shares of a card; each divides the next, so that trials pack without gaps."""
MARGIN = 1.2
"""Memory that a trial gets, relative to the measured peak: torch reserves more than it allocates."""


class Workload(NamedTuple):
    """Properties of a trial that determine its peak memory."""

    task: str
    method: str
    body: str
    batch_size: Scalar | None
    precision: Scalar | None


def workload(task: str, method: str, body: str, hyperparameters: Mapping[str, Scalar]) -> Workload:
    """Return the workload of a trial or of a record."""
    values = hyperparameters.get
    return Workload(task, method, body, values("refine.batch_size"), values("refine.precision"))


class Packing:
    """Learns the peak memory of workloads and the memory of the cards, and returns the share that fits a trial."""

    def __init__(self) -> None:
        self._peaks: dict[Workload, float] = {}
        self._least: dict[Workload, float] = {}
        self._card_mib = 0.0

    def learn_card(self, memory_mib: float) -> None:
        """Note the total memory of a card, in MiB. If cards differ, the smallest counts."""
        self._card_mib = min(self._card_mib or memory_mib, memory_mib)

    def learn_peak(self, kind: Workload, peak_mib: float) -> None:
        """Note the peak memory allocated by a trial on a GPU, in MiB; the largest counts."""
        self._peaks[kind] = max(peak_mib, self._peaks.get(kind, 0.0))

    def learn_too_small(self, kind: Workload, share: float) -> None:
        """Note that memory ran out with ``share`` of a card: trials like this one get the next larger share."""
        larger = next((each for each in SHARES if each > share), 1.0)
        self._least[kind] = max(larger, self._least.get(kind, 0.0))

    def share(self, trial: TrialSpec, requested: float, *, measured: bool) -> float:
        """Return the share of a card for a trial.

        It is ``requested``; or, if ``measured`` and the peak memory of such trials and the size of the cards are known,
        the smallest of `SHARES` that holds the peak. It is never less than what had proved too small.
        """
        kind = workload(trial.task, trial.method, trial.body, trial.hyperparameters)
        share, peak = requested, self._peaks.get(kind)
        if measured and peak is not None and self._card_mib:
            needed = (MARGIN * peak + CONTEXT_MIB) / self._card_mib
            share = next((each for each in SHARES if each >= needed), 1.0)
        return max(share, self._least.get(kind, 0.0))
