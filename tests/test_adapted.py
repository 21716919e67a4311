"""Trained models: what they predict, and that a folder predicts the same.

The folder is read in another process, place and cache.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import orca_ray
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.export import column_names, write_predictions
from orca_ray.methods.registry import all_methods, get_method
from orca_ray.own_data import Options, UserData, read
from orca_ray.own_data.infer_task import infer
from orca_ray.own_data.registration import register
from orca_ray.predictor import Predictor, load
from orca_ray.tasks.task import Task
from orca_ray.testing.suite import save_bert, save_vit
from orca_ray.testing.trials import CLASSES, QUICK, make_data, make_task, run, start
from tests.methods.forged_folders import check_forgeries

SHORT = {**QUICK, "align.epochs": 1, "refine.epochs": 1}
FIELD = make_task(Target("dense", shape=(8, 8)), (2, 8, 8))
SERIES = make_task(CLASSES)
LORA = ("lora", "orca_lora")
KINDS = {"sequence": SERIES, "image": FIELD}
EVERY = [
    (kind, name)
    for kind, task in KINDS.items()
    for name in all_methods()
    if not get_method(name).problem(task)
]

pytestmark = pytest.mark.usefixtures("module_home")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "sequence": save_bert(tmp_path_factory.mktemp("bert")),
        "image": save_vit(tmp_path_factory.mktemp("vit")),
    }


def trained(body: str, method: str, task: Task) -> tuple[Predictor, float]:
    """Return a model and the test score of its trial."""
    adaptation = start(
        body, method, task=task, data=make_data(task), hyperparameters=SHORT
    )
    run(adaptation)
    score = adaptation.result().test_score
    assert score is not None
    return Predictor(adaptation.snapshot(), device="cpu"), score


@pytest.fixture(scope="module")
def series(bodies: dict[str, str]) -> Predictor:
    return trained(bodies["sequence"], "nft", SERIES)[0]


LOADING = """
import json, sys
from pathlib import Path

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "optuna"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import torch
import orca_ray

torch.set_num_threads(1)
for folder in sorted(Path.cwd().iterdir()):
    model = orca_ray.load(folder, device="cpu")
    x = np.load(folder / "x.npy")
    np.save(folder / "found.npy", model.outputs(x))
    np.save(folder / "embedded.npy", model.embed(x))
assert not [name for name in sys.modules if name.startswith(("ray.", "optuna."))]
"""


Bodies = dict[str, str]


def check_loaded(
    bodies: Bodies, folder: Path, pairs: Iterable[tuple[str, str]]
) -> None:
    """Train models, move their folders, and predict in a new process.

    The bodies that the folders hold are removed before. ``pairs`` are kinds of data and
    methods.
    """
    moved = folder / "moved"
    moved.mkdir()
    models = {}
    for kind, method in pairs:
        place = moved / f"{kind}-{method}"
        models[place] = train_and_move(bodies, kind, method, place)
    environment = {
        "PATH": "",
        "HOME": str(moved),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(orca_ray.__file__).parents[1]),
        "ORCA_RAY_HOME": str(folder / "empty"),
    }
    subprocess.run(
        [sys.executable, "-c", LOADING],
        cwd=moved,
        env=environment,
        check=True,
        timeout=280,
    )
    assert not (folder / "empty").exists(), "loading a model used the cache"
    for place, (model, score) in models.items():
        data = make_data(KINDS[place.name.partition("-")[0]]).test
        outputs = np.load(place / "found.npy")
        features = np.load(place / "embedded.npy")
        assert np.array_equal(outputs, model.outputs(data.x)), place.name
        assert np.array_equal(features, model.embed(data.x)), place.name
        assert model.evaluate(data.x, data.y) == pytest.approx(
            {model.task.metric: score}, rel=1e-6
        )
        arrays = {"x.npy", "found.npy", "embedded.npy"}
        names = {file.name for file in place.iterdir()} - arrays
        assert names == {"model.safetensors", "config.json", "README.md"}
        body = json.loads((place / "config.json").read_text())["body"]
        assert (body["weights_sha256"] is not None) == (model.config.method in LORA)


def train_and_move(
    bodies: Bodies, kind: str, method: str, place: Path
) -> tuple[Predictor, float]:
    """Train a model, save it with inputs, and move it to ``place``.

    Return the model and the test score of its trial. The body is removed, unless the
    folder does not hold it, as with LoRA.
    """
    task = KINDS[kind]
    body = bodies[kind]
    if method not in LORA:
        save_body = {"sequence": save_bert, "image": save_vit}[kind]
        body = save_body(place.parent.parent / f"body-{place.name}")
    model, score = trained(body, method, task)
    model.save(place.with_name(f"{place.name}-unmoved")).rename(place)
    np.save(place / "x.npy", np.asarray(make_data(task).test.x))
    if method not in LORA:
        shutil.rmtree(body)
    return model, score


@pytest.mark.slow
def test_a_loaded_model_predicts_the_same_bits(bodies: Bodies, tmp_path: Path) -> None:
    check_loaded(
        bodies, tmp_path, [("sequence", "orca"), ("sequence", "lora"), ("image", "nft")]
    )


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_loaded_models_of_every_method_predict_the_same_bits(
    bodies: Bodies, tmp_path: Path
) -> None:
    check_loaded(bodies, tmp_path, EVERY)


def test_classes(series: Predictor) -> None:
    x = make_data(SERIES).test.x
    predictions = series.predict(x)
    probabilities = series.predict_proba(x)
    assert predictions.shape == (45,)
    assert probabilities.shape == (45, 3)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert np.array_equal(probabilities.argmax(axis=1), predictions)
    assert series.embed(x).shape == (45, 16)
    assert np.array_equal(series.predict(torch.from_numpy(np.asarray(x))), predictions)
    assert np.array_equal(series.predict(list(np.asarray(x))), predictions)


def test_batches_do_not_depend_on_how_samples_are_read(
    series: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.tile(np.asarray(make_data(SERIES).test.x), (200, 1, 1))
    np.save(tmp_path / "x.npy", x)
    expected = series.outputs(x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    parts = list(series.stream(series.inputs(mapped)))
    sizes = [len(part) for part in parts]
    assert sizes == [*[1024] * 8, 768, 40], "a part of the samples is in memory"
    assert np.array_equal(np.concatenate(parts), expected)
    for size in (1, 64, 100):
        monkeypatch.setattr(UserData, "batch_size", lambda data, size=size: size)
        *chunks, _ = series.inputs(x[:225]).chunks()
        assert all(len(chunk) % 64 == 0 for chunk in chunks)
        assert np.array_equal(series.outputs(x[:225]), expected[:225])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x[0],
            (
                r"shape \(2, 16\); .* of shape \(N, 2, 16\): for one sample, give"
                r" x\[None\]"
            ),
        ),
        (lambda x: x.transpose(0, 2, 1), r"try np.transpose\(x, \(0, 2, 1\)\)"),
        (lambda x: x.reshape(45, *[1] * 60, 32), "the model takes numbers of shape"),
        (lambda x: x[:, :, :5], r"has shape \(45, 2, 5\); the model takes"),
        (lambda x: x.astype(str), "values of type <U"),
        (
            lambda x: np.where(np.arange(45)[:, None, None] == 7, np.nan, x),
            "row 8 has values that are not finite",
        ),
        (lambda x: x[:0], "has no samples"),
        (lambda x: [x[0], x[0, :, :3]], "samples have unequal shapes"),
        (lambda x: 3, "cannot predict from a int"),
        (lambda x: pd.DataFrame({"a": [1.0]}), r"has shape \(1, 1\)"),
    ],
)
def test_wrong_inputs_are_named(
    series: Predictor, change: Callable[[Any], Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        series.predict(change(np.asarray(make_data(SERIES).test.x)))


def test_wrong_targets_are_named(series: Predictor) -> None:
    data = make_data(SERIES).test
    unknown = np.where(np.arange(45) < 40, -1, data.y)
    assert series.evaluate(data.x, unknown) == series.evaluate(
        np.asarray(data.x)[40:], np.asarray(data.y)[40:]
    )
    for targets, message in (
        (np.full(45, -1), "every target is missing"),
        (None, "needs targets"),
        (data.y[1:], "45 inputs, but 44 targets"),
        (np.array(["a"] * 45), "expected numbers of shape"),
    ):
        with pytest.raises(UserError, match=message):
            series.evaluate(data.x, targets)


def test_the_package_loads_a_folder_and_saves_the_same_files(
    series: Predictor, tmp_path: Path
) -> None:
    folder = series.save(tmp_path / "model")
    loaded = orca_ray.load(folder, device="cpu")
    assert isinstance(loaded, orca_ray.Predictor)
    assert orca_ray.Predictor is Predictor
    x = make_data(SERIES).test.x
    assert np.array_equal(loaded.outputs(x), series.outputs(x))
    second = loaded.save(tmp_path / "again")
    for file in folder.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name
    assert "load" in dir(orca_ray)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        orca_ray.lode  # noqa: B018
    with pytest.raises(UserError, match="cannot use the device 'quantum'"):
        load(folder, device="quantum")


def test_a_model_in_the_cache_of_the_hub(
    series: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--ann--wines"
    series.save(repository / "snapshots" / "0123abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    x = make_data(SERIES).test.x
    assert np.array_equal(load("hub:ann/wines").outputs(x), series.outputs(x))
    with pytest.raises(
        UserError, match="cannot get the model 'ann/beers' from the hub"
    ):
        load("hub:ann/beers")


@dataclass(frozen=True)
class OwnModel:
    """A CSV file of a user, and a model of it."""

    file: Path
    folder: Path
    """Folder of the saved model."""
    model: Predictor
    """The model before it was saved."""


@pytest.fixture(scope="module")
def own(bodies: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> OwnModel:
    directory = tmp_path_factory.mktemp("own")
    random = np.random.default_rng(0)
    kind = random.choice(["red", "white"], 120)
    acid = random.normal(size=120) + np.where(kind == "red", 2, 0)
    cask = random.choice(["oak", "steel"], 120)
    file = directory / "wine.csv"
    pd.DataFrame({"acid": acid, "cask": cask, "kind": kind}).to_csv(file, index=False)
    model = trained_on_own(file, "kind", bodies["sequence"])
    return OwnModel(file, model.save(directory / "model"), model)


def trained_on_own(file: Path, target: str, body: str) -> Predictor:
    options = Options(target=(target,), name=file.stem)
    data = read(file, options)
    inferred = infer(data, options)
    task = register(inferred, data)
    prepared = task.prepare()
    adaptation = start(
        body,
        "nft",
        task=task.resolved(prepared),
        data=prepared,
        hyperparameters=SHORT,
        standardise=True,
    )
    run(adaptation)
    return Predictor(
        adaptation.snapshot(), inferred.preprocessing.to_json(), device="cpu"
    )


def test_fields_come_back_with_their_axes_as_they_were_given(
    bodies: dict[str, str], tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(60, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "fields.npz", x=x, y=np.stack([x, 2 * x, 1 - x], axis=-1))
    model = trained_on_own(tmp_path / "fields.npz", "y", bodies["image"])
    predictions = model.predict(tmp_path / "fields.npz")
    assert predictions.shape == (60, 8, 8, 3)
    assert np.array_equal(
        predictions, np.moveaxis(model.outputs(tmp_path / "fields.npz"), 1, -1)
    )
    with pytest.raises(
        UserError, match="predicts numbers, which have no probabilities"
    ):
        model.predict_proba(tmp_path / "fields.npz")


def test_a_model_of_own_data_takes_what_it_was_made_of(own: OwnModel) -> None:
    file = own.file
    loaded = load(own.folder, device="cpu")
    predictions = loaded.predict(file)
    assert set(predictions) <= {"red", "white"}
    assert loaded.label_names == ("red", "white")
    assert np.array_equal(predictions, own.model.predict(str(file)))
    table = pd.read_csv(file)
    assert np.array_equal(loaded.predict(table), predictions)
    assert np.array_equal(loaded.predict(table.drop(columns="kind")), predictions)
    assert loaded.evaluate(file) == loaded.evaluate(table, table["kind"])
    for part in ("nft on", "on validation"):
        assert part in loaded._repr_html_()
    assert "red, white" in (own.folder / "README.md").read_text()
    files = {"model.safetensors", "config.json", "preprocessing.json", "README.md"}
    assert {path.name for path in own.folder.iterdir()} == files
    assert column_names(own.model) == ["p_red", "p_white"]


def test_predictions_of_own_data_carry_the_columns_that_tell_rows_apart(
    own: OwnModel, tmp_path: Path
) -> None:
    table = pd.read_csv(own.file).drop(columns="kind")
    numbered = table.assign(acid=range(120), bottle=range(5, 125), vat=7)
    numbered.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "out.parquet"
    write_predictions(own.model, own.model.inputs(tmp_path / "new.csv"), out)
    written = pd.read_parquet(out)
    assert list(written.columns) == ["id", "bottle", "prediction", "p_red", "p_white"]
    assert written["bottle"].tolist() == list(range(5, 125))


@pytest.mark.slow
def test_a_forged_folder_of_own_data_is_refused_or_predicts(own: OwnModel) -> None:
    check_forgeries(own.folder, own.file, 60)


def test_own_data_that_do_not_fit_are_named(own: OwnModel) -> None:
    table = pd.read_csv(own.file)
    with pytest.raises(UserError, match="acid"):
        own.model.predict(table.drop(columns="acid"))
    with pytest.raises(UserError, match="blue"):
        own.model.evaluate(table, table["kind"].replace("red", "blue"))
