"""Collects the artefacts of one confirm trial: features around aligning, then pictures of the test evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from orca_ray.alignment.distance import SourceFeatures
from orca_ray.data.prepared import PreparedData
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.results.artefacts import Artefact, within_limits
from orca_ray.tasks.task import Task
from orca_ray.training.artefact import Aligned, Evaluated, Evidence, compute_artefacts, evenly, failure
from orca_ray.training.evaluate import of_samples

NUM_POINTS = 200
"""Largest number of source features, and of target features, in a picture."""
_BATCH_SIZE = 32


class ArtefactCollector:
    """Computes artefacts as soon as a trial has their inputs. A failure adds a note; nothing is raised."""

    def __init__(self, task: Task, data: PreparedData) -> None:
        self._task, self._data = task, data
        self._before: np.ndarray | None = None
        self.found: list[Artefact] = []
        self.notes: list[str] = []
        """One sentence for each kind that failed."""

    def before_aligning(self, model: CrossModalModel, device: torch.device) -> None:
        """Compute the features of some training samples; call it with the embedder's initial weights."""

        def compute() -> None:
            self._before = self._features(model, device)

        self._attempt(compute)

    def after_aligning(self, model: CrossModalModel, device: torch.device, source: SourceFeatures) -> None:
        """Compute the artefacts that show what aligning changed."""
        if self._before is None:
            return
        before, train = self._before, self._data.train

        def compute() -> None:
            chosen = evenly(len(source.x), NUM_POINTS)
            classes = train.y[evenly(len(train), NUM_POINTS)] if self._task.target.kind == "classes" else None
            x, y = (tensor.cpu().numpy()[chosen] for tensor in (source.x, source.y))
            self._add(Aligned(self._task, x, y, before, self._features(model, device), classes))

        self._attempt(compute)

    def after_test(self, predictions: np.ndarray) -> None:
        """Compute the artefacts of the predictions [N, *output_shape] for the test split."""
        test = self._data.test
        self._attempt(lambda: self._add(Evaluated(self._task, *of_samples(predictions, test.y, test.group), test.x)))

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume."""
        return {"found": [asdict(artefact) for artefact in self.found], "notes": list(self.notes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the artefacts and notes of the collector that returned ``state``."""
        self.found = [Artefact(**artefact) for artefact in state["found"]]
        self.notes = list(state["notes"])

    def _add(self, evidence: Evidence) -> None:
        found, notes = compute_artefacts(evidence)
        self.found = within_limits([*self.found, *found])
        self.notes += notes

    def _attempt(self, compute: Callable[[], None]) -> None:
        try:
            compute()
        except Exception as error:  # a picture must not cost a trial that runs well
            self.notes.append(failure("of this trial", error))

    def _features(self, model: CrossModalModel, device: torch.device) -> np.ndarray:
        """Return the features [n, D] of evenly spaced training samples, with the embedder in evaluation mode."""
        x, training = self._data.train.x, model.embedder.training
        chosen = evenly(len(x), NUM_POINTS)
        model.embedder.eval()
        try:
            with torch.no_grad():
                batches = (
                    np.asarray(x[rows], np.float32)
                    for rows in np.split(chosen, range(_BATCH_SIZE, len(chosen), _BATCH_SIZE))
                )
                return (
                    torch.cat([model.features(torch.from_numpy(batch).to(device)) for batch in batches]).cpu().numpy()
                )
        finally:
            model.embedder.train(training)
