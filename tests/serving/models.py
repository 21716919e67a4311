"""Small trained models to serve."""

from orca_ray.data.rows import Target
from orca_ray.own_data import Options
from orca_ray.own_data.infer_task import Encoder, Preprocessing
from orca_ray.own_data.tables import Column, TableInputs
from orca_ray.own_data.targets import TargetCoding
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import QUICK, make_data, make_task, run, start

MIXED = TableInputs(
    columns=(
        Column(name="age of cask", kind="number", mean=3, std=2),
        Column(name="1", kind="category", categories=("oak", "steel", "7")),
        Column(name="bottled", kind="date", part="day", mean=19000, std=500),
        Column(name="bottled", kind="date", part="month", mean=6, std=3),
    )
)


def model(
    body: str, target: Target, encoder: Encoder | None, shape: tuple[int, ...] = (2, 16)
) -> Predictor:
    """Train a model of arrays of ``shape``, or of the data that ``encoder`` takes."""
    task = make_task(target, shape if encoder is None else encoder.shape)
    hyperparameters = {**QUICK, "align.epochs": 1, "refine.epochs": 1}
    adaptation = start(
        body, "nft", task=task, data=make_data(task), hyperparameters=hyperparameters
    )
    run(adaptation)
    if encoder is None:
        return Predictor(adaptation.snapshot(), device="cpu")
    names = ("a", "b", "c") if target.kind in ("classes", "labels") else ()
    coding = TargetCoding(kind=target.kind, label_names=names, shape=target.shape)
    preprocessing = Preprocessing(reading=Options(), encoder=encoder, target=coding)
    return Predictor(adaptation.snapshot(), preprocessing.to_json(), device="cpu")


def table_model(bert: str) -> Predictor:
    return model(bert, Target("labels", size=3), MIXED)
