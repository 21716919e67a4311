"""Small trained models to serve: a table of mixed columns, series, arrays, fields and recordings."""

from orca_ray.data.rows import Target
from orca_ray.own_data import Options
from orca_ray.own_data.array_inputs import ArrayInputs, AudioInputs
from orca_ray.own_data.infer_task import Encoder, Preprocessing
from orca_ray.own_data.tables import Column, TableInputs
from orca_ray.own_data.targets import TargetCoding
from orca_ray.predictor import Predictor
from orca_ray.testing.trials import CLASSES, QUICK, make_data, make_task, run, start

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


def model(body: str, target: Target, encoder: Encoder | None, shape: tuple[int, ...] = (2, 16)) -> Predictor:
    task = make_task(target, shape if encoder is None else encoder.shape)
    hyperparameters = {**QUICK, "align.epochs": 1, "refine.epochs": 1}
    adaptation = start(body, "nft", task=task, data=make_data(task), hyperparameters=hyperparameters)
    run(adaptation)
    made = None
    if encoder is not None:
        names = ("a", "b", "c") if target.kind in ("classes", "labels") else ()
        coding = TargetCoding(kind=target.kind, label_names=names, shape=target.shape)
        made = Preprocessing(reading=Options(), encoder=encoder, target=coding).to_json()
    return Predictor(adaptation.snapshot(), made, device="cpu")


def table_model(bert: str) -> Predictor:
    return model(bert, Target("labels", size=3), MIXED)


def every_model(bert: str, vit: str) -> dict[str, Predictor]:
    """Return a model of each form of requests and of each kind of target."""
    return {
        "mixed": table_model(bert),
        "unequal": model(bert, CLASSES, SERIES),
        "recordings": model(vit, CLASSES, RECORDINGS),
        "arrays": model(bert, Target("scalar"), None),
        "fields": model(vit, Target("dense", shape=(8, 8)), None, (2, 8, 8)),
    }
