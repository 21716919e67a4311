"""Ensembles: models of several methods and bodies predict, load, export and serve as
one; forged ones are refused.
"""

import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import orca_ray
from orca_ray.data.prepared import PreparedData, Split
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.export import Written, export_model
from orca_ray.methods import model_config
from orca_ray.methods.snapshot import Snapshot
from orca_ray.models.mixture import Mixture
from orca_ray.predictor import Predictor, load
from orca_ray.serving.formats import Formats
from orca_ray.serving.reading import JSON
from orca_ray.tasks.task import Task
from orca_ray.testing.suite import save_bert, save_vit
from orca_ray.testing.trials import CLASSES, QUICK, make_data, make_task, run, start
from tests.methods.forged_folders import check_forgeries, write
from tests.test_adapted import LOADING

SHORT = {**QUICK, "align.epochs": 1, "refine.epochs": 1}
WEIGHTS = (0.5, 0.3, 0.2)
BODILESS = ("linear_probe", "gradient_boosting", "nft")
FIELD = make_task(Target("dense", shape=(8, 8)), (2, 8, 8))
KINDS: dict[str, tuple[Task, tuple[str, ...]]] = {
    "classes": (make_task(CLASSES), BODILESS),
    "labels": (make_task(Target("labels", size=3)), BODILESS),
    "number": (make_task(Target("scalar")), BODILESS),
    "field": (FIELD, ("nft", "fno", "cnn")),
    "mask": (
        replace(FIELD, loss="masked_bce", metric="cosmic_one_minus_auroc"),
        ("nft", "cnn", "fno"),
    ),
}


def data_of(kind: str) -> PreparedData:
    data = make_data(KINDS[kind][0])
    if kind != "mask":
        return data
    splits = {
        name: Split(each.x, (each.y > 3).astype(np.float32))
        for name, each in data.splits.items()
    }
    return replace(data, splits=splits, y_mean=None, y_std=None)


def ensemble(
    models: list[Predictor], weights: tuple[float, ...] = WEIGHTS, **fields: Any
) -> Predictor:
    """Return the weighted average of models as one model."""
    tensors = {
        f"{number}.{name}": value
        for number, each in enumerate(models)
        for name, value in each.snapshot().weights.items()
    }
    members = tuple(each.config for each in models)
    config = replace(
        models[0].config, members=members, member_weights=weights, **fields
    )
    return Predictor(Snapshot(config, tensors), device="cpu")


Made = Callable[[str], list[Predictor]]


@pytest.fixture(scope="module")
def made(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return a function that trains the members of an ensemble of a kind of target,
    once.
    """
    kept: dict[str, list[Predictor]] = {}

    def trained(kind: str) -> list[Predictor]:
        task, methods = KINDS[kind]
        for number, method in enumerate(methods if kind not in kept else ()):
            save = save_vit if len(task.input_shape or ()) == 3 else save_bert
            body = save(tmp_path_factory.mktemp("body"))
            adaptation = start(
                body,
                method,
                task=task,
                data=data_of(kind),
                hyperparameters=SHORT,
                seed=number,
            )
            run(adaptation)
            kept.setdefault(kind, []).append(
                Predictor(adaptation.snapshot(), device="cpu")
            )
        return kept[kind]

    return trained


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_or_numbers_are_averaged(
    made: Made, kind: str, tmp_path: Path
) -> None:
    data = data_of(kind).test
    models = made(kind)
    model = ensemble(models)
    x = np.asarray(data.x)
    if model.decides:
        parts = [each.predict_proba(x) for each in models]
        expected = sum(
            weight * part for weight, part in zip(WEIGHTS, parts, strict=True)
        )
        np.testing.assert_allclose(
            model.predict_proba(x), expected, rtol=1e-4, atol=1e-6
        )
        calibrated = ensemble(models, temperature=2.5)
        np.testing.assert_allclose(
            2.5 * calibrated.outputs(x), model.outputs(x), rtol=1e-5, atol=1e-6
        )
        assert np.array_equal(calibrated.predict(x), model.predict(x))
    else:
        expected = sum(
            weight * each.predict(x)
            for weight, each in zip(WEIGHTS, models, strict=True)
        )
        np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5)
    served = json.loads(Formats(model, 100).write(JSON, model.outputs(x), []))
    np.testing.assert_allclose(served["predictions"], model.predict(x), rtol=1e-6)
    again = load(model.save(tmp_path / "model"), device="cpu")
    for other in (
        again,
        pickle.loads(pickle.dumps(model)),
        Predictor(model.snapshot(), device="cpu"),
    ):
        assert np.array_equal(other.outputs(x), model.outputs(x))
    assert again.evaluate(x, data.y) == model.evaluate(x, data.y)
    assert np.array_equal(
        again.embed(x), np.concatenate([each.embed(x) for each in models], axis=1)
    )
    for text in (
        repr(again),
        again._repr_html_(),
        (tmp_path / "model" / "README.md").read_text(),
    ):
        assert all(f"1 of {each.config.method}" in text for each in models)


def test_certain_predictions_keep_their_order() -> None:
    """Probabilities of 1 up to rounding would be ties for metrics of ranks."""
    logits = torch.tensor([[40.0, 60.0], [-50.0, 90.0]])
    for average in ("sigmoid", "softmax"):
        mixed = Mixture([torch.nn.Identity()] * 2, (0.5, 0.5), average)(logits)  # type: ignore[list-item]
        expected = logits if average == "sigmoid" else logits.log_softmax(dim=1)
        assert torch.allclose(mixed, expected)


@pytest.mark.slow
def test_another_process_predicts_the_same_bits(made: Made, tmp_path: Path) -> None:
    models = {kind: ensemble(made(kind)) for kind in KINDS}
    for kind, model in models.items():
        np.save(model.save(tmp_path / kind) / "x.npy", np.asarray(data_of(kind).test.x))
    environment = {
        "PATH": "",
        "PYTHONPATH": str(Path(orca_ray.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [sys.executable, "-c", LOADING],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=280,
    )
    for kind, model in models.items():
        x = data_of(kind).test.x
        assert np.array_equal(
            np.load(tmp_path / kind / "found.npy"), model.outputs(x)
        ), kind
        assert np.array_equal(
            np.load(tmp_path / kind / "embedded.npy"), model.embed(x)
        ), kind


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "to", "first"),
    [
        ("classes", "onnx", 0),
        ("labels", "torch", 0),
        ("field", "torch", 0),
        ("classes", "torch", 2),
    ],
)
def test_an_exported_ensemble_agrees(
    made: Made, kind: str, to: str, first: int, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    models = made(kind)[first:]  # also a single one, with a temperature
    temperature = 1.0 if kind == "field" else 3.0
    model = ensemble(models, (1.0,) if first else WEIGHTS, temperature=temperature)
    x = data_of(kind).test.x
    exported = export_model(model, to, tmp_path / "network")
    assert exported.difference is not None
    assert exported.difference < 1e-5
    if to == "torch":
        with torch.no_grad():
            found = torch.export.load(tmp_path / "network").module()(
                torch.from_numpy(np.asarray(x))
            )
        np.testing.assert_allclose(found, model.outputs(x), rtol=1e-4, atol=1e-5)


def test_the_member_that_cannot_be_exported_is_named(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ensemble(made("classes"))

    def writes(whole: torch.nn.Module, given: Predictor, path: Path) -> Written:
        if "nft" in [each.method for each in given.config.members or [given.config]]:
            raise UserError("no such operation")
        return Written(None, "not run")

    monkeypatch.setattr("orca_ray.export.FORMATS", {"kept": writes})
    with pytest.raises(
        UserError, match="member 2 of the ensemble, by nft: no such operation"
    ):
        export_model(model, "kept", tmp_path / "network")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def folder(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensemble(made("classes")).save(tmp_path_factory.mktemp("forged") / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(member_weights=[0.5, 0.5, 0]),
            "the weight of a member must be above 0",
        ),
        (
            lambda c: c.update(member_weights=[0.5, 0.5, float("nan")]),
            "the weight of a member must be above 0",
        ),
        (
            lambda c: c.update(member_weights=[1.5, -0.7, 0.2]),
            "the weight of a member must be above 0",
        ),
        (
            lambda c: c.update(member_weights=[1e-300] * 3),
            "the members have the sum 3e-300, not 1",
        ),
        (lambda c: c.update(member_weights=[0.5, 0.5]), "3 members with 2 weights"),
        (lambda c: c.update(temperature=1e9), "temperature 1e.09: 0.01 to 100"),
        (lambda c: c.update(temperature=float("nan")), "temperature nan: 0.01 to 100"),
        (
            lambda c: c.update(members=[], member_weights=[], temperature=2),
            "1 for a model without members",
        ),
        (
            lambda c: c.update(
                members=c["members"] * 70, member_weights=[1 / 210] * 210
            ),
            "at most 200 items",
        ),
        (
            lambda c: c.update(members=c["members"][:2], member_weights=[0.5, 0.5]),
            r"weights 2\..* to no member",
        ),
        (
            lambda c: c["members"].insert(0, c["members"].pop()),
            "member 1, by linear_probe: the weights do not fit",
        ),
        (
            lambda c: c["members"][1]["task"].update(input_shape=[2, 17]),
            "member 1 .* its input_shape differs",
        ),
        (
            lambda c: c["members"][1]["task"]["target"].update(size=4),
            "member 1 .* its target differs",
        ),
        (
            lambda c: c["members"][1]["task"].update(loss="mse"),
            "member 1 .* its loss differs",
        ),
        (
            lambda c: c["members"][2].update(method="nought"),
            "member 2, by nought: unknown method",
        ),
        (
            lambda c: c["members"][2]["body"]["values"].update(hidden_size=10**7),
            "member 2, by nft: .*larger than",
        ),
        (
            lambda c: c.update(members=[{}] * 10**5),
            "has 100,... entries; no model has more than 50,000",
        ),
        (
            lambda c: c["members"][0].update(
                members=[dict(c["members"][0])], member_weights=[1.0]
            ),
            "member 0 has members of its own",
        ),
    ],
)
def test_a_forged_ensemble_is_refused(
    folder: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    message: str,
) -> None:
    forged = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((forged / "config.json").read_text())
    del config["sha256"]
    change(config)
    write(forged, config, None)
    with pytest.raises(UserError, match=message):
        load(forged, device="cpu")


@pytest.mark.parametrize("num_levels", [200, 900])
def test_a_deeply_nested_description_is_refused(num_levels: int) -> None:
    nested = json.loads("[" * num_levels + "]" * num_levels)
    values = {"orca_ray": "1", "format": 1, "report": {"a": nested}}
    text = json.dumps({**values, "sha256": model_config.signature(values)}).encode()
    with pytest.raises(UserError, match="has too many levels"):
        model_config.parse_config(text, "config.json")


def test_members_may_hold_no_more_than_their_weights(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers that are no weights count for all members together: 200 of them could
    fill the memory.
    """
    monkeypatch.setattr("orca_ray.methods.snapshot._VALUES_OF_BUILDING", 10**6)
    snapshot = ensemble(made("classes")).snapshot()
    monkeypatch.setattr(
        "orca_ray.methods.snapshot._rebuild_network", lambda config, weights: _Large()
    )
    with pytest.raises(UserError, match="an ensemble that is larger than the weights"):
        Predictor(snapshot, device="cpu")


class _Large(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(10**6), persistent=False)


@pytest.mark.slow
def test_any_forged_field_is_refused_or_predicts(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asarray(data_of("classes").test.x[:4]))
    check_forgeries(folder, tmp_path / "x.npy", 80)
