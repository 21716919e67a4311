"""Series in one long CSV file: ``python examples/ecg_csv.py my-data``.

An ECG is often exported like this. A row is one time step of one recording; columns are
record, time, the leads, and the label. In place of an ECG, whose data are not free, the
file holds the sensor recordings that ``make_data.py`` has written to ``my-data``.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import orca_ray

RATE = 10.0  # Hz


def write_long_csv(archive: Path, file: Path) -> None:
    """Write series [records, leads, steps] as a long table.

    A file of your own replaces this.
    """
    with np.load(archive) as arrays:
        x = arrays["x"]
        y = arrays["y"]
    records, leads, steps = x.shape
    table = pd.DataFrame(
        x.swapaxes(1, 2).reshape(-1, leads),
        columns=[f"lead{lead + 1}" for lead in range(leads)],
    )
    table.insert(0, "record", np.repeat(np.arange(records), steps))
    table.insert(1, "time", np.tile(np.arange(steps) / RATE, records))
    table["label"] = np.repeat(y, steps)
    table.to_csv(file, index=False)


def main(folder: Path) -> None:
    file = folder / "recordings.csv"
    write_long_csv(folder / "basic_motions.npz", file)

    recordings = [
        rows for _, rows in pd.read_csv(file).sort_values("time").groupby("record")
    ]
    # arrays [leads, steps], whose steps may differ
    x = [rows.filter(like="lead").to_numpy().T for rows in recordings]
    y = [rows["label"].iloc[0] for rows in recordings]
    new = slice(None, None, 16)  # recordings to predict after training
    training_rows = [row for row in range(len(x)) if row % 16]
    # With several recordings of a patient, groups=[...] with one patient a recording
    # keeps each in one split.
    model = orca_ray.adapt(
        ([x[row] for row in training_rows], [y[row] for row in training_rows]),
        name="recordings",
        axes="NCL",
        methods=["minirocket", "linear_probe"],
        executor="inline",
        minutes=1,
    )
    print(
        f"{model}: {model.task.metric} {model.report()['score']:.3g} expected on new"
        " samples"
    )
    print(pd.DataFrame({"label": y[new], "predicted": model.predict(x[new])}))
    model.save(folder / "recordings-model")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "my-data"))
