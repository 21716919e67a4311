"""Stored outputs of the trials of one task, as predictions.

Every trial on own data stores its model and the model's outputs for its fold and for
the outer test (`worker.models.OUTPUTS`). The outputs of all folds of one configuration
are predictions for samples that the predicting model has not seen.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from safetensors import SafetensorError
from scipy.special import expit, softmax

from orca_ray.adaptation.configuration import Configuration
from orca_ray.adaptation.intervals import Judged
from orca_ray.data.prepared import PreparedData, held_rows
from orca_ray.data.rows import Array, joined_rows
from orca_ray.errors import UserError
from orca_ray.methods.snapshot import averaging
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.sweep.worker.models import OUTPUTS, read_outputs
from orca_ray.tasks.task import Task

Parts = Sequence[tuple[Configuration, float]]
"""Configurations of a model, with their weights."""


class TrialOutputs:
    """The outputs of trials as probabilities or numbers, and the targets."""

    def __init__(self, task: Task, data: PreparedData, models: StoredModels) -> None:
        """Store the arguments; outputs are read when they are asked for.

        ``models`` are those of the results store.
        """
        self.task = task
        self.data = data
        self.average = averaging(task.target, task.loss)
        self._models = models
        self._by_trial: dict[str, Mapping[str, Array]] = {}

    @property
    def num_known(self) -> int:
        """Number of samples of all folds, without the outer test."""
        return len(self.data.train) + len(self.data.validation)

    @property
    def num_test(self) -> int:
        """Number of samples of the outer test."""
        return len(self.data.test)

    @property
    def division_size(self) -> int:
        """Number of folds of one division of the data; 0 without folds."""
        return 0 if self.data.folds is None else int(self.data.folds[0].max())

    @property
    def first_division(self) -> set[int]:
        """Folds of the first division, which cover all samples that judge once.

        {0} without folds.
        """
        if self.data.folds is None:
            return {0}
        return set(range(1, self.division_size + 1))

    @property
    def num_held(self) -> float:
        """Number of validation samples of a fold."""
        if self.data.folds is None:
            return len(self.data.validation)
        return np.count_nonzero(self.data.folds[0]) / self.division_size

    def out_of_fold(self, *configurations: Configuration) -> Judged:
        """Return the out-of-fold predictions of ``configurations``.

        They are for the samples of all folds that the configurations have in common. At
        least one fold must be common. If the data are divided into folds repeatedly,
        the predictions for a sample are averaged.
        """
        folds = sorted(
            set.intersection(*(set(each.records) for each in configurations))
        )
        targets = joined_rows(self.data.train.y, self.data.validation.y)
        rows_of_folds = [self._rows(fold) for fold in folds]
        rows = np.unique(np.concatenate(rows_of_folds))
        # Positions of each fold's rows in ``rows``, which are sorted.
        places = [np.searchsorted(rows, each) for each in rows_of_folds]
        predictions = [
            self._mean_of_folds(configuration, folds, places, len(rows))
            for configuration in configurations
        ]
        return Judged(
            self.task.metric,
            self.average,
            targets[rows],
            predictions,
            len(folds),
            self._units(rows),
        )

    def _rows(self, fold: int) -> Array:
        """Return the rows of a fold; 0: those of the validation split."""
        if fold:
            return held_rows(self.data, fold)
        return np.arange(len(self.data.train), self.num_known)

    def _mean_of_folds(
        self,
        configuration: Configuration,
        folds: Sequence[int],
        places: Sequence[Array],
        num_rows: int,
    ) -> Array:
        """Return the mean predictions [num_rows, ...] of the folds' models.

        ``places`` are the positions of each fold's rows in the result.
        """
        parts = [self.of(configuration.records[fold], "validation") for fold in folds]
        total = np.zeros((num_rows, *parts[0].shape[1:]))
        for place, part in zip(places, parts, strict=True):
            total[place] += part
        counts = np.bincount(np.concatenate(places))
        return np.asarray(total / counts.reshape(-1, *[1] * (total.ndim - 1)))

    def held_out_samples(self, fold: int) -> tuple[Array, Array]:
        """Return inputs and targets [n, ...] of a fold; 0: the validation split."""
        rows = self._rows(fold)
        train = self.data.train
        validation = self.data.validation
        inputs = joined_rows(train.x, validation.x)[rows]
        return inputs, joined_rows(train.y, validation.y)[rows]

    def on_test(self, *predictions: Array) -> Judged:
        """Return ``predictions`` for the outer test, with its targets."""
        test = self.data.test
        units = self._units(slice(-len(test), None))
        return Judged(
            self.task.metric, self.average, np.asarray(test.y), predictions, 0, units
        )

    def mean_for_test(self, parts: Parts) -> Array:
        """Return the mean predictions of the folds of ``parts`` for the outer test."""
        weighted = [
            weight / len(configuration.records) * self.of(record, "test")
            for configuration, weight in parts
            for record in configuration.records.values()
        ]
        return np.asarray(sum(weighted))

    def of(self, record: Record, split: str) -> Array:
        """Return the outputs of a trial's model, as probabilities or numbers.

        ``split`` is ``validation`` or ``test``.

        Raises UserError if the stored outputs are damaged.
        """
        if record.trial_key not in self._by_trial:
            self._by_trial[record.trial_key] = {
                name: self.as_predictions(array.astype(np.float64))
                for name, array in self._read(record).items()
            }
        return self._by_trial[record.trial_key][split]

    def _read(self, record: Record) -> Mapping[str, Array]:
        """Return the stored outputs of a trial's model, by split.

        Raises UserError, which names the file, if they are damaged.
        """
        content = self._models.read(record.trial_key, OUTPUTS)
        path = f"{self._models.place(record.trial_key)}/{OUTPUTS}"
        try:
            return read_outputs(content or b"")
        except SafetensorError as error:
            raise UserError(f"{path} is damaged: {error}") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def as_predictions(self, outputs: Array) -> Array:
        """Return probabilities for logits; outputs that are numbers are unchanged."""
        match self.average:
            case "softmax":
                return np.asarray(softmax(outputs, axis=1))
            case "sigmoid":
                return np.asarray(expit(outputs))
            case _:
                return outputs

    def _units(self, rows: Array | slice) -> Array | None:
        return None if self.data.units is None else self.data.units[rows]
