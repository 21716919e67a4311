"""Small trained models to serve: the wine table, a table of mixed columns, series, fields and recordings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_wine

from orca_ray.data.rows import Target
from orca_ray.own_data import Options, UserData
from orca_ray.own_data.array_inputs import ArrayInputs, AudioInputs
from orca_ray.own_data.preprocessing import Encoder, Preprocessing
from orca_ray.own_data.table_inputs import Column, TableInputs
from orca_ray.own_data.targets import TargetCoding
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import CLASSES, QUICK, make_data, make_task, run, start

SHORT = {**QUICK, "align.epochs": 1, "refine.epochs": 3}
CULTIVARS = ("Barolo", "Grignolino", "Barbera")


def wine() -> pd.DataFrame:
    """Return the 178 rows of the wine table without the cultivar."""
    frame: pd.DataFrame = load_wine(as_frame=True).data
    return frame


def wine_model(body: str) -> Predictor:
    frame = wine()
    columns = tuple(
        Column(name=name, kind="number", mean=float(frame[name].mean()), std=float(frame[name].std()))
        for name in map(str, frame.columns)
    )
    encoder = TableInputs(columns=columns)
    x = encoder.encode(UserData(x=frame), print)
    y = load_wine().target.astype(np.int64)
    task = replace(make_task(CLASSES, encoder.shape), name="own/wine-000000")
    data = make_data(task)
    for number, split in enumerate(("train", "validation", "test")):
        part = np.arange(len(x)) % 3 == number
        data.splits[split] = replace(data.splits[split], x=x[part], y=y[part])  # type: ignore[index]
    adaptation = start(body, "nft", task=task, data=data, hyperparameters=SHORT)
    run(adaptation)
    coding = TargetCoding(kind="classes", label_names=CULTIVARS)
    made = Preprocessing(reading=Options(), encoder=encoder, target=coding)
    return Predictor(adaptation.snapshot(), made.to_json(), device="cpu")


def model(body: str, target: Target, encoder: Encoder | None, shape: tuple[int, ...] = (2, 16)) -> Predictor:
    """Train a model on made-up data; ``encoder`` is how it is told to make inputs of what is sent."""
    task = make_task(target, shape if encoder is None else encoder.shape)
    adaptation = start(body, "nft", task=task, data=make_data(task), hyperparameters={**SHORT, "refine.epochs": 1})
    run(adaptation)
    made = None
    if encoder is not None:
        names = ("a", "b", "c") if target.kind in ("classes", "labels") else ()
        coding = TargetCoding(kind=target.kind, label_names=names, shape=target.shape)
        made = Preprocessing(reading=Options(), encoder=encoder, target=coding).to_json()
    return Predictor(adaptation.snapshot(), made, device="cpu")


MIXED = TableInputs(
    columns=(
        Column(name="age of cask", kind="number", mean=3, std=2),
        Column(name="1", kind="category", categories=("oak", "steel", "7")),
        Column(name="bottled", kind="date", part="day", mean=19000, std=500),
        Column(name="bottled", kind="date", part="month", mean=6, std=3),
    )
)
SERIES = ArrayInputs(axes="LC", given=None, shape=(3, 16), mask=True, mean=(0, 0), std=(1, 1), largest=3)
RECORDINGS = AudioInputs(rate=8000, num_samples=1600, num_mels=16)


def every_model(bert: str, vit: str) -> dict[str, Predictor]:
    """Return a model of each form of requests and of each kind of target."""
    return {
        "mixed": model(bert, Target("labels", size=3), MIXED),
        "unequal": model(bert, CLASSES, SERIES),
        "recordings": model(vit, CLASSES, RECORDINGS),
        "arrays": model(bert, Target("scalar"), None),
        "fields": model(vit, Target("dense", shape=(8, 8)), None, (2, 8, 8)),
    }


def save_wine(directory: Path, body: str) -> Predictor:
    """Write the model of the wine table to ``directory``, and return it."""
    made = wine_model(body)
    made.save(directory)
    return made
