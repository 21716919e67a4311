"""The 42 tables of OpenML that the paper takes from TabPFN and LIFT.

Test is a seeded, stratified tenth, validation a tenth of the rest. Numbers are standardised with the training rows;
under the protocol ``paper`` with all rows, as in the reference. Classes with fewer than three rows are left out, with a
warning, because every split needs every class.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import numpy.typing as npt

from orca_ray.data import prepared
from orca_ray.data.protocol import PAPER
from orca_ray.data.splits import Indices
from orca_ray.errors import UserError
from orca_ray.tasks.openml import _client
from orca_ray.tasks.openml._encoding import classes, encode, standardise_again
from orca_ray.tasks.openml._splits import frequent, split
from orca_ray.tasks.openml._table import read_table
from orca_ray.tasks.task import SPLIT_SEED, Arrays, Target, Task, Workspace

NAMES: Mapping[int, str] = {
    11: "balance-scale", 12: "mfeat-factors", 14: "mfeat-fourier", 15: "breast-w", 16: "mfeat-karhunen",
    18: "mfeat-morphological", 22: "mfeat-zernike", 23: "cmc", 28: "optdigits", 29: "credit-approval", 31: "credit-g",
    37: "diabetes", 44: "spambase", 48: "tae", 50: "tic-tac-toe", 54: "vehicle", 61: "iris", 187: "wine",
    188: "eucalyptus", 458: "analcatdata_authorship", 469: "analcatdata_dmft", 882: "pollution", 1049: "pc4",
    1050: "pc3", 1063: "kc2", 1068: "pc1", 1462: "banknote-authentication", 1464: "blood-transfusion-service-center",
    1479: "hill-valley", 1480: "ilpd", 1491: "one-hundred-plants-margin", 1493: "one-hundred-plants-texture",
    1494: "qsar-biodeg", 1510: "wdbc", 1511: "wholesale-customers", 6332: "cylinder-bands", 23381: "dresses-sales",
    40496: "LED-display-domain-7digit", 40966: "MiceProtein", 40975: "car", 40982: "steel-plates-fault",
    40994: "climate-model-simulation-crashes",
}  # fmt: skip
"""Names of the data sets on OpenML by id."""

STANDARDISED_AGAIN = frozenset({12, 54, 1068, 1494})
"""Tables of numbers that the reference standardises again, with its training rows."""
KEPT_COLUMNS: Mapping[int, tuple[int, ...]] = {1464: (0, 1, 3)}
"""Columns that the reference keeps of tables of numbers: the third of 1464 is a multiple of the second."""
NOMINAL_ONLY = frozenset({50, 469, 40975})
"""Tables without numbers: nothing is standardised, so both protocols have the same arrays."""


def build(dataset_id: int, workspace: Workspace) -> Arrays:
    """Return the arrays of one table; raises UserError as `read_table`, `frequent`, `classes` and `encode` do."""
    name = workspace.task
    table = read_table(workspace, dataset_id)
    labels, names = classes(name, table.target)
    kept = frequent(name, labels, names)
    columns, labels = [column.rows(kept) for column in table.columns], np.unique(labels[kept], return_inverse=True)[1]
    train, validation, test = split(labels, SPLIT_SEED)
    paper = workspace.protocol == PAPER
    x_NLW = encode(name, columns, np.arange(len(labels)) if paper else train)
    x = _as_sequences(dataset_id, x_NLW, np.concatenate([train, validation]) if paper else train)
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for part, rows in zip(prepared.SPLITS, (train, validation, test), strict=True):
        arrays |= {f"{part}_x": x[rows], f"{part}_y": labels[rows].astype(np.int64)}
    return arrays


def _as_sequences(dataset_id: int, x_NLW: npt.NDArray[np.float32], trained_on: Indices) -> npt.NDArray[np.float32]:
    """Return rows [N, channels, length]: one token for each column, or one for all columns of a table of numbers."""
    if x_NLW.shape[2] > 1:
        return x_NLW.transpose(0, 2, 1)
    if dataset_id in STANDARDISED_AGAIN:
        x_NLW = standardise_again(x_NLW, trained_on)
    kept = KEPT_COLUMNS.get(dataset_id, range(x_NLW.shape[1]))
    if max(kept) >= x_NLW.shape[1]:
        raise UserError(f"openml/{dataset_id}: expected at least {max(kept) + 1} columns, found {x_NLW.shape[1]}")
    return x_NLW[:, list(kept)]


def _task(dataset_id: int, title: str) -> Task:
    return Task(
        name=f"openml/{dataset_id}",
        title=f"{title} (OpenML {dataset_id})",
        modality="tabular",
        input_shape=None,
        input_kind="sequence",
        target=Target("classes", size=0),
        loss="weighted_cross_entropy",
        metric="one_minus_auroc",
        input_scale="measured",
        num_samples=None,
        licence="the table's own, named in its description on OpenML",
        terms="OpenML asks to cite the source that a table's description names.",
        citation="Vanschoren, van Rijn, Bischl and Torgo, OpenML: networked science in machine learning, 2013",
        reference=f"https://www.openml.org/d/{dataset_id}",
        files=_client.raw_files(dataset_id),
        fetcher=partial(_client.fetch, dataset_id),
        paper_splits=dataset_id not in NOMINAL_ONLY,
        build=partial(build, dataset_id),
    )


TASKS = tuple(_task(dataset_id, title) for dataset_id, title in NAMES.items())
