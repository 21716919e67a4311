"""The stored trials of ``replay_trials`` as compact tables, which ``replay`` reads.

``python -m benchmarks.replay_table --work DIR [--out benchmarks/replay]
[--sets tuning]``

Each data set has two files. ``SET.parquet`` has a row for each trial: the fields of its
`Record`, and its outputs as float16. ``SET.npz`` has the targets, the folds and the
declaration of the task. Inputs are not stored.

To be small, outputs and targets of fields keep `VALUES_OF_AXIS` evenly spaced values of
each axis, and numbers are stored as standardised values.
"""

# ruff: noqa: T201 - a benchmark prints what it wrote

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orca_ray.adaptation.configuration import FOLD
from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Array
from orca_ray.methods.snapshot import averaging
from orca_ray.results.models import StoredModels
from orca_ray.results.record import Record
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.cost import seconds_here
from orca_ray.sweep.plan.requirements import resolve, with_fingerprints
from orca_ray.sweep.plan.schema import Scalar
from orca_ray.sweep.plan.searches import num_epochs, plan_searches
from orca_ray.sweep.worker.models import OUTPUTS, read_outputs
from orca_ray.tasks.registry import task_from_json, task_to_json
from orca_ray.tasks.task import Task

FOLDER = Path(__file__).with_name("replay")
"""Folder of the tables that belong to the repository."""
VALUES_OF_AXIS = 8
"""Number of values of each axis of a field that are kept."""
LARGEST = 60_000.0
"""Largest output that is stored; float16 ends at 65,504."""
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
VALIDATION = "validation"
TEST = "test"
PEERS = "peers"
"""Name of the outputs for the outer test of ``adapt_peers``."""
COLUMNS = (VALIDATION, TEST, PEERS)
"""Columns of outputs: for a trial's fold, and for the two outer tests."""


@dataclass(frozen=True)
class StoredTrial:
    """A trial that has run, with the outputs of its model."""

    record: Record
    outputs: Mapping[str, Array]
    """Outputs [N, ...] by name, of `COLUMNS`; {} of a trial that failed."""

    @cached_property
    def values(self) -> dict[str, Scalar]:
        """Hyper-parameters without the fold."""
        values = dict(json.loads(self.record.hyperparameters))
        values.pop(FOLD, None)
        return values

    @cached_property
    def fold(self) -> int:
        """Number of the fold, or `ALL`."""
        return int(json.loads(self.record.hyperparameters).get(FOLD, 0))

    @cached_property
    def epochs(self) -> int:
        """Number of epochs of the schedule."""
        return num_epochs(self.values)


@dataclass(frozen=True)
class TrialTable:
    """The stored trials of one data set."""

    name: str
    kind: str
    """Kind of data, of ``benchmarks.peers.parts.KINDS``."""
    task: Task
    data: PreparedData
    """Targets and folds; the inputs are empty."""
    answers: Array
    """Targets of the outer test of ``adapt_peers``; −1 for unknown classes."""
    estimates: Mapping[str, float]
    """Estimated seconds of a trial of each method on the machine that ran them."""
    sources: Mapping[str, str]
    """Alignment source of each method; "" of methods that do not align."""
    trials: Sequence[StoredTrial]


def without_inputs(data: PreparedData, targets: Mapping[SplitName, Array]) -> Any:
    """Return prepared data with other targets and with empty inputs."""
    splits = {
        name: Split(np.empty((len(y), 0), dtype=np.float32), y)
        for name, y in targets.items()
    }
    return replace(data, splits=splits, y_mean=None, y_std=None, directory=Path())


def thin(values: Array) -> Array:
    """Return fields [N, ...] with `VALUES_OF_AXIS` values of each long axis."""
    steps = [slice(None, None, max(1, n // VALUES_OF_AXIS)) for n in values.shape[1:]]
    return values[(slice(None), *steps)]


def write_table(table: TrialTable, folder: Path) -> int:
    """Write the two files of a table; return their size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    coding = _Coding.of(table)
    rows = []
    for trial in table.trials:
        row = trial.record.to_row()
        row |= dict.fromkeys(COLUMNS)
        row |= {name: coding.to_bytes(array) for name, array in trial.outputs.items()}
        rows.append(row)
    fields = [*Record.SCHEMA, *(pa.field(name, pa.binary()) for name in COLUMNS)]
    trials_path = folder / f"{table.name}.parquet"
    columns = pa.Table.from_pylist(rows, schema=pa.schema(fields))
    pq.write_table(columns, trials_path, compression="zstd", compression_level=19)
    about = {
        "kind": table.kind,
        "task": task_to_json(table.task),
        "body": table.task.body,
        "fingerprint": table.data.fingerprint,
        "estimates": dict(table.estimates),
        "sources": dict(table.sources),
    }
    arrays: dict[str, Any] = {f"{name}_y": table.data.splits[name].y for name in SPLITS}
    arrays["answers"] = table.answers
    if table.data.folds is not None:
        arrays["folds"] = table.data.folds
    if table.data.units is not None:
        arrays["units"] = table.data.units
    arrays_path = folder / f"{table.name}.npz"
    np.savez_compressed(arrays_path, about=np.array(json.dumps(about)), **arrays)
    return trials_path.stat().st_size + arrays_path.stat().st_size


def read_table(name: str, folder: Path = FOLDER) -> TrialTable:
    """Return the table of the data set ``name``."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}
    about = json.loads(str(arrays.pop("about")))
    task = replace(task_from_json(about["task"]), body=about["body"])
    empty = PreparedData(
        name=task.name,
        fingerprint=about["fingerprint"],
        splits={},
        y_mean=None,
        y_std=None,
        directory=Path(),
        folds=arrays.get("folds"),
        units=arrays.get("units"),
    )
    data = without_inputs(empty, {split: arrays[f"{split}_y"] for split in SPLITS})
    table = TrialTable(
        name,
        about["kind"],
        task,
        data,
        arrays["answers"],
        about["estimates"],
        about["sources"],
        (),
    )
    coding = _Coding.of(table)
    trials = []
    for row in pq.read_table(folder / f"{name}.parquet").to_pylist():
        outputs = {
            column: coding.from_bytes(content)
            for column in COLUMNS
            if (content := row.pop(column)) is not None
        }
        trials.append(StoredTrial(Record.from_row(row), outputs))
    return replace(table, trials=trials)


def table_names(folder: Path = FOLDER) -> list[str]:
    """Return the names of the data sets that have a table."""
    return sorted(path.stem for path in folder.glob("*.npz"))


@dataclass(frozen=True)
class _Coding:
    """How the outputs of one data set are stored."""

    mean: float
    std: float

    @classmethod
    def of(cls, table: TrialTable) -> "_Coding":
        """Return the coding: numbers are standardised by the training targets."""
        if averaging(table.task.target, table.task.loss) != "values":
            return cls(0.0, 1.0)
        y = table.data.train.y
        return cls(float(y.mean()), float(y.std()) or 1.0)

    def to_bytes(self, outputs: Array) -> bytes:
        """Return outputs as a ``.npy`` file of float16."""
        scaled = (outputs.astype(np.float64) - self.mean) / self.std
        stream = io.BytesIO()
        np.save(stream, np.clip(scaled, -LARGEST, LARGEST).astype(np.float16))
        return stream.getvalue()

    def from_bytes(self, content: bytes) -> Array:
        """Return the outputs in a file, float32."""
        scaled = np.load(io.BytesIO(content), allow_pickle=False)
        return np.asarray(scaled.astype(np.float32) * self.std + self.mean)


def build_table(name: str, work: Path) -> TrialTable:
    """Return the table of the trials that ``replay_trials`` stored below ``work``."""
    from benchmarks.peers.sets import SETS
    from benchmarks.replay_trials import ReplaySet
    from orca_ray.adaptation.sweep import AdaptationSweep
    from orca_ray.methods.model_config import PREPROCESSING
    from orca_ray.own_data.infer_task import Preprocessing

    prepared = ReplaySet.prepare(SETS[name], work)
    task = prepared.task
    data = task.prepared()
    assert data is not None
    spec = AdaptationSweep(task=task).spec()
    plans = resolve(with_fingerprints(plan_searches(spec, gpus=False)), print)
    store = ResultsStore(str(prepared.results), create=True)
    models = StoredModels(str(prepared.results))
    trials = [
        StoredTrial(record, _stored_outputs(record.trial_key, models))
        for record in store.load(spec.sweep_id).values()
    ]
    trials.sort(key=lambda trial: trial.record.started_at)
    document = json.loads((data.directory / PREPROCESSING).read_text())
    coding = Preprocessing.from_json(document).target
    answers = prepared.written.answers
    if coding.kind == "classes":
        numbers = {label: number for number, label in enumerate(coding.label_names)}
        answers = np.array([numbers.get(label, -1) for label in answers.tolist()])
    else:
        answers = coding.encode(answers)
    targets = {split: np.asarray(data.splits[split].y) for split in SPLITS}
    if coding.kind == "dense":
        targets = {split: thin(y) for split, y in targets.items()}
        answers = thin(answers)
        trials = [
            StoredTrial(each.record, {key: thin(y) for key, y in each.outputs.items()})
            for each in trials
        ]
    return TrialTable(
        name,
        SETS[name].kind,
        task,
        without_inputs(data, targets),
        answers,
        {method: seconds for (_, method), seconds in seconds_here(plans).items()},
        {plan.method: plan.source for plan in plans},
        trials,
    )


def _stored_outputs(key: str, models: StoredModels) -> dict[str, Array]:
    """Return the outputs of a trial; {} if they are not complete."""
    from benchmarks.replay_trials import PEER_OUTPUTS

    content = models.read(key, OUTPUTS)
    of_peers = models.read(key, PEER_OUTPUTS)
    if content is None or of_peers is None:
        return {}
    peers = np.load(io.BytesIO(of_peers), allow_pickle=False)
    return {**read_outputs(content), PEERS: peers}


def main() -> None:
    """Write the tables of all sets that have stored trials."""
    from benchmarks.adapt_peers import chosen_sets

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="of replay_trials")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the tables")
    parser.add_argument("--sets", default="tuning", help="as of adapt_peers")
    options = parser.parse_args()
    for data in chosen_sets(options.sets.split(",")):
        if not (options.work / "results" / data.name).is_dir():
            continue
        table = build_table(data.name, options.work.resolve())
        size = write_table(table, options.out)
        print(f"{data.name}: {len(table.trials)} trials, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
