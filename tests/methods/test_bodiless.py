"""Methods without a body: `cnn`, `fno`, `minirocket` and others.

They need no body, refuse what does not fit, and estimate costs.
"""

import importlib.util
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from orca_ray.adaptation.sweep import SWEEP
from orca_ray.data.prepared import PreparedData, Split, SplitName
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.export import export_model
from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import check_unfit, get_method, relevant, resolve
from orca_ray.methods.stages.ridge_regression import ridge
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.models import crossmodal
from orca_ray.models.trees import BoostedBody
from orca_ray.predictor import Predictor
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import (
    CLASSES,
    QUICK,
    TASK,
    make_data,
    make_task,
    run,
    start,
)

SMALL: dict[str, Scalar] = {**QUICK, "cnn.width": 16, "cnn.blocks": 1}
WIDE: dict[str, Scalar] = {"cnn.width": 32, "cnn.kernel": 5, "cnn.dilation": 3}
FIELD = make_task(Target("dense", shape=(16,)), (1, 16))
NO_SHAPE = replace(TASK, input_shape=None, input_kind="sequence")


def operations(method: str, task: Task, values: dict[str, Scalar]) -> float | None:
    estimate = get_method(method).operations
    assert estimate is not None
    return estimate(task, relevant(resolve(method, values), method))


def test_a_cnn_and_minirocket_learn_without_a_body(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        crossmodal, "load_body", lambda *_, **__: pytest.fail("a body was loaded")
    )
    cnn = start(NO_BODY, "cnn", hyperparameters={**SMALL, "refine.epochs": 5})
    run(cnn)
    minirocket = start(NO_BODY, "minirocket", hyperparameters={"refine.epochs": 7})
    (report,) = run(minirocket)
    assert (report["epoch"], report["epochs"]) == (1, 1)
    # By chance, the error would be 2/3.
    assert cnn.result().test_score == pytest.approx(0.0, abs=0.1)
    assert minirocket.result().test_score == pytest.approx(0.0, abs=0.1)
    assert minirocket.result().num_trainable == 3 * (9996 + 1)


@pytest.mark.parametrize(
    ("domain", "shape", "network", "layout"),
    [
        ("time series", (2, 16), "auto", (16,)),
        ("tabular", (2, 16), "auto", (1,)),
        ("drug response", (1, 30), "auto", (1,)),
        ("time series", (7, 1), "auto", (1,)),
        ("tabular", (2, 16), "convolutional", (16,)),
        ("image", (1, 8, 8), "table", (1,)),
        ("image", (1, 129, 128), "auto", (65, 64)),  # more than 128 x 128
    ],
)
def test_the_layout_of_a_cnn_follows_from_the_task(
    domain: str, shape: tuple[int, ...], network: str, layout: tuple[int]
) -> None:
    task = replace(make_task(CLASSES, shape), domain=domain)
    values = {**SMALL, "cnn.network": network}
    trial = start(NO_BODY, "cnn", task=task, hyperparameters=values)
    assert trial.model.embedder.layout == layout


PLAIN: dict[str, Scalar] = {**SMALL, "cnn.stages": "plain"}


@pytest.mark.parametrize(
    "task",
    [
        make_task(CLASSES, (2, 60)),
        make_task(Target("dense", shape=(20, 20)), (3, 20, 20)),
    ],
    ids=["series", "field"],
)
def test_plain_stages_change_nothing_but_networks_of_images(task: Task) -> None:
    usual = start(NO_BODY, "cnn", task=task, hyperparameters=SMALL)
    with_plain_stages = start(NO_BODY, "cnn", task=task, hyperparameters=PLAIN)
    assert str(with_plain_stages.model) == str(usual.model)
    assert operations("cnn", task, PLAIN) == operations("cnn", task, SMALL)


def test_plain_stages_have_twice_the_width() -> None:
    task = make_task(CLASSES, (1, 17, 28))
    model = start(NO_BODY, "cnn", task=task, hyperparameters=PLAIN).model
    assert model.embedder.layout == (17, 28)
    assert model.body.feature_width == 4 * 2 * 16
    assert model(torch.zeros(2, 1, 17, 28)).shape == (2, 3)


def start_with_views() -> TrialTrainer:
    """Return a trial on images of 8 x 9 pixels whose outputs are means over views."""
    values = {**PLAIN, "cnn.views": 5, "refine.keep": "last"}
    task = make_task(CLASSES, (1, 8, 9))
    return start(NO_BODY, "cnn", task=task, hyperparameters=values)


def test_views_of_an_image_are_averaged_once_the_network_has_learnt() -> None:
    trial = start_with_views()
    last_report = run(trial)[-1]
    model = trial.model.eval()
    validation = trial.trial.data.validation
    x = torch.from_numpy(validation.x[:])
    averaged = model(x)
    model.body.one_view = True
    alone = model(x)

    def score(outputs: Tensor) -> float:
        return trial.trial.objective.score(outputs.detach().numpy(), validation.y)

    assert trial.result().validation_score == score(averaged)
    assert last_report["validation_score"] == score(alone)
    pixels = model.embed(x).reshape(-1, 8, 9, 32).movedim(3, 1)
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate").movedim(1, 3)
    views = [alone]
    for top, left in ((0, 1), (2, 1), (1, 0), (1, 2)):
        shifted = padded[:, top : top + 8, left : left + 9].reshape(-1, 72, 32)
        views.append(model.head(model.encode(shifted)))
    expected = torch.stack(views).mean(dim=0)
    torch.testing.assert_close(averaged, expected, rtol=1e-4, atol=1e-5)


def test_views_are_averaged_after_restoring_and_after_exporting(tmp_path: Path) -> None:
    trial = start_with_views()
    run(trial)
    trial.save(tmp_path / "checkpoint")
    restored = start_with_views()
    assert restored.restore(tmp_path / "checkpoint")
    np.testing.assert_array_equal(
        restored.outputs("validation"), trial.outputs("validation")
    )
    predictor = Predictor(trial.snapshot(), device="cpu")
    exported = export_model(predictor, "torch", tmp_path / "model.pt2")
    assert exported.difference is not None


def relevant_defaults(method: str) -> dict[str, Scalar]:
    return dict(relevant(resolve(method, {}), method))


def sections(options: Iterable[str]) -> set[str]:
    return {option.partition(".")[0] for option in options}


def test_options_of_other_parts_do_not_belong_to_their_trials() -> None:
    assert sections(relevant_defaults("cnn")) == {"data", "refine", "cnn"}
    assert relevant_defaults("minirocket") == {
        "data.fraction": 1.0,
        "minirocket.features": 10_000,
        "minirocket.dilations": 32,
    }
    boosting = relevant_defaults("gradient_boosting")
    assert sections(boosting) == {"data", "refine", "boosting"}
    of_refining = [option for option in boosting if option.startswith("refine.")]
    assert of_refining == ["refine.epochs"]


@pytest.mark.parametrize(
    "task",
    [
        make_task(CLASSES, (2, 60)),
        make_task(CLASSES, (1, 130, 130)),
        make_task(CLASSES, (1, 28, 28)),
        make_task(Target("dense", shape=(20, 20)), (3, 20, 20)),
        replace(make_task(CLASSES, (1, 30)), domain="tabular"),
    ],
    ids=["series", "large image", "image", "field", "table"],
)
def test_operations_of_a_cnn_are_those_that_are_counted(task: Task) -> None:
    assert task.input_shape is not None
    model = start(NO_BODY, "cnn", task=task, hyperparameters=WIDE).model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *task.input_shape))
    assert operations("cnn", task, WIDE) == pytest.approx(
        counter.get_total_flops(), rel=0.2
    )


@pytest.mark.parametrize(
    ("shape", "frequencies"), [((64,), 4), ((64, 64), 32)], ids=["line", "plane"]
)
def test_operations_of_an_fno(shape: tuple[int, ...], frequencies: int) -> None:
    task = make_task(Target("dense", shape=shape), (1, *shape))
    values: dict[str, Scalar] = {"fno.modes": 4, "fno.width": 8, "fno.layers": 2}
    n = math.prod(shape)
    products = 8 * frequencies * 8**2
    transforms = 5 * n * math.log2(n) * 8
    # Products and transforms are ten times as slow as the map of each point.
    layer = 10 * (products + transforms) + 2 * n * 8**2
    around_the_layers = 2 * n * 4 * 8**2
    assert operations("fno", task, values) == 2 * layer + around_the_layers


@pytest.mark.parametrize(
    ("shape", "width", "modes"), [((64,), 64, 16), ((32, 32), 32, 12)]
)
def test_an_fno_of_size_0_is_that_of_the_paper(
    shape: tuple[int, ...], width: int, modes: int
) -> None:
    task = make_task(Target("dense", shape=shape), (1, *shape))

    def fno(width: int, modes: int) -> tuple[str, float | None]:
        values: dict[str, Scalar] = {"fno.width": width, "fno.modes": modes}
        model = start(NO_BODY, "fno", task=task, hyperparameters=values).model
        shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
        return str(shapes), operations("fno", task, values)

    assert fno(0, 0) == fno(width, modes)
    assert fno(24, 0) == fno(24, modes)


def test_adapt_takes_modes_that_a_fine_grid_needs() -> None:
    """A field has 14 waves, as the Kuramoto-Sivashinsky equation on a long line."""
    settings = yaml.safe_load(SWEEP.read_text())["per_method"]["fno"]["settings"]
    values = {name: settings[name] for name in ("fno.width", "fno.modes")}
    random = np.random.default_rng(0)
    task = make_task(Target("dense", shape=(128,)), (1, 128))
    model = start(NO_BODY, "fno", task=task, hyperparameters=values).model
    wave = np.sin(2 * np.pi * 14 * np.arange(128) / 128 + random.uniform())
    spectral = model.get_submodule("body.spectral.0")
    width = spectral.get_parameter("weight").shape[0]
    field = torch.from_numpy(wave).float().expand(1, width, 1, 128)
    assert spectral(field).abs().max() > 0.01


def test_operations_of_minirocket() -> None:
    # A series of 60 steps has seven dilations.
    values: dict[str, Scalar] = {"minirocket.features": 840, "minirocket.dilations": 8}
    of_step = 2 * 7 * 84 * 9 * 2 + 2 * 840
    task = make_task(CLASSES, (2, 60))
    assert operations("minirocket", task, values) == 60 * of_step


def test_operations_of_boosting_grow_with_features_and_with_labels() -> None:
    small_task = make_task(Target("labels", size=2), (2, 16))
    large_task = make_task(Target("labels", size=4), (4, 16))
    small = operations("gradient_boosting", small_task, {})
    assert small is not None
    assert operations("gradient_boosting", large_task, {}) == 4 * small


@pytest.mark.parametrize("method", ["cnn", "fno", "minirocket", "gradient_boosting"])
def test_operations_are_unknown_for_inputs_without_a_shape(method: str) -> None:
    assert operations(method, NO_SHAPE, {}) is None


@pytest.mark.parametrize(
    ("method", "task", "message"),
    [
        ("fno", make_task(CLASSES, (2, 16)), "it predicts fields.* not classes"),
        ("minirocket", FIELD, r"not a field of shape \(16,\)"),
        ("forest", FIELD, r"not a field of shape \(16,\)"),
        (
            "linear",
            make_task(Target("dense", shape=(300, 300)), (1, 8, 8)),
            "an output has 90000 values",
        ),
        ("unet", make_task(CLASSES, (2, 16)), "it predicts fields.* not classes"),
        (
            "minirocket",
            make_task(CLASSES, (1, 8, 8)),
            r"takes series.* not inputs of shape \(1, 8, 8\)",
        ),
        (
            "minirocket",
            make_task(CLASSES, (7, 8)),
            "kernels have 9 positions, and the series of this task have 8",
        ),
        (
            "minirocket",
            replace(TASK, num_samples=(100_001, 1, 1)),
            "100001 are above 100000",
        ),
        ("gradient_boosting", FIELD, r"not a field of shape \(16,\)"),
        (
            "kernel_ridge",
            replace(make_task(Target("dense", shape=(65,))), domain="tabular"),
            "at most 64 numbers, not 65",
        ),
        (
            "gradient_boosting",
            make_task(CLASSES, (3, 40, 40)),
            r"4800 values \(shape \(3, 40, 40\)\).* at most 4096",
        ),
    ],
)
def test_tasks_that_do_not_fit_are_refused(
    method: str, task: Task, message: str
) -> None:
    expected = f"{method} cannot adapt to {task.name}: .*{message}"
    with pytest.raises(UserError, match=expected):
        check_unfit(method, task)


@pytest.mark.parametrize(
    "shape", [(20, 50), (50, 20)], ids=["more features", "more samples"]
)
def test_ridge_is_that_of_scikit_learn(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    penalties = (10.0, 0.1)
    num_samples, _ = shape
    x = random.random(shape)
    y = random.normal(size=(num_samples, 3))
    x[:, 4] = 0.25  # constant
    scaled = StandardScaler().fit_transform(x)
    fits = ridge(torch.from_numpy(x.copy()), torch.from_numpy(y), penalties)
    for penalty, (weight, bias) in zip(penalties, fits, strict=True):
        expected = Ridge(alpha=penalty).fit(scaled, y).predict(scaled)
        assert x @ weight.numpy().T + bias.numpy() == pytest.approx(expected, abs=1e-8)


def test_the_penalty_of_minirocket_is_the_best_one_on_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = make_task(Target("scalar"), (1, 30))
    values = {"minirocket.features": 840}

    def score_with(penalties: Sequence[float]) -> float:
        monkeypatch.setattr("orca_ray.methods.stages.ridge.PENALTIES", penalties)
        trial = start(NO_BODY, "minirocket", task=task, hyperparameters=values)
        run(trial)
        score = trial.result().validation_score
        assert score is not None
        return score

    penalties = (1e-3, 1.0, 1e3)
    scores = [score_with([penalty]) for penalty in penalties]
    assert len(set(scores)) > 1
    assert score_with(penalties) == min(scores)


def boost(
    task: Task = TASK,
    values: dict[str, Scalar] | None = None,
    data: PreparedData | None = None,
) -> TrialTrainer:
    trainer = start(
        NO_BODY, "gradient_boosting", task=task, data=data, hyperparameters=values or {}
    )
    run(trainer)
    return trainer


def trees(trainer: TrialTrainer) -> BoostedBody:
    assert isinstance(trainer.model.body, BoostedBody)
    return trainer.model.body


def test_one_split_by_hand() -> None:
    # The second feature decides: 3 where it is 0, and 7 and 9, so 8, where it is 1. The
    # first one is noise.
    x = np.array([[[0, 0]], [[1, 0]], [[0, 1]], [[1, 1]]], np.float32)
    split = Split(x, np.array([3, 3, 7, 9], np.float32))
    task = make_task(Target("scalar"), (1, 2))
    equal: dict[SplitName, Split] = {"train": split, "validation": split, "test": split}
    data = replace(make_data(task), splits=equal, y_mean=None, y_std=None)
    values: dict[str, Scalar] = {
        "refine.epochs": 1,
        "boosting.rounds": 1,
        "boosting.leaves": 2,
        "boosting.learning_rate": 1.0,
        "boosting.leaf_samples": 2,
        "boosting.columns": 1.0,
    }
    trainer = boost(task, values, data)
    assert trees(trainer).num_values == 3  # a threshold and two leaves
    root_mean_square = np.sqrt((0 + 0 + 1 + 1) / 4)
    assert trainer.result().test_score == pytest.approx(root_mean_square, abs=1e-5)


def test_epochs_continue_as_one_run_of_lightgbm() -> None:
    def start_with(rounds: int) -> TrialTrainer:
        values: dict[str, Scalar] = {"boosting.columns": 1, "boosting.rounds": rounds}
        return start(NO_BODY, "gradient_boosting", hyperparameters=values)

    three_epochs = start_with(rounds=5)
    three_epochs.step()
    three_epochs.step()
    three_epochs.step()
    one_epoch = start_with(rounds=15)
    one_epoch.step()
    x = torch.from_numpy(make_data(TASK).test.x)
    assert one_epoch.model(x).any()
    assert torch.equal(three_epochs.model(x), one_epoch.model(x))


@pytest.mark.parametrize(
    ("columns", "rows", "equal"),
    [(1.0, 1.0, True), (0.5, 1.0, False), (1.0, 0.5, False)],
)
def test_copies_of_an_epoch_draw_for_themselves_and_are_averaged(
    columns: float, rows: float, equal: bool
) -> None:
    values: dict[str, Scalar] = {
        "boosting.columns": columns,
        "boosting.rows": rows,
        "boosting.leaf_samples": 2,
    }
    one_copy = boost(TASK, values)
    three_copies = boost(TASK, {**values, "boosting.copies": 3})
    # Each copy has trees of each of three classes.
    assert len(trees(three_copies).sizes) % 9 == 0
    x = torch.from_numpy(make_data(TASK).test.x)
    averaged = three_copies.model(x)
    assert torch.allclose(averaged, one_copy.model(x), rtol=1e-4) is equal


def test_the_trees_of_the_best_epoch_are_kept_and_patience_ends_the_trial() -> None:
    random = np.random.default_rng(0)
    data = make_data(TASK)
    noise = {
        name: replace(split, y=random.integers(3, size=len(split.y)))
        for name, split in data.splits.items()
    }
    options: dict[str, Scalar] = {
        "refine.epochs": 50,
        "boosting.rounds": 2,
        "boosting.patience": 3,
    }
    trainer = boost(TASK, options, replace(data, splits=noise))
    outcome = trainer.result()
    assert outcome.best_epoch is not None
    assert outcome.epochs == outcome.best_epoch + 3
    assert len(trees(trainer).sizes) == 3 * 2 * outcome.best_epoch
    assert outcome.num_parameters == outcome.num_trainable == trees(trainer).num_values


def test_each_label_has_trees() -> None:
    trainer = boost(make_task(Target("labels", size=3), (2, 16)))
    assert trainer.result().test_score == pytest.approx(0.0, abs=0.1)  # by chance: 0.5


def test_two_classes_have_one_output_with_two_logits() -> None:
    task = make_task(Target("classes", size=2), (2, 16))
    data = make_data(task)
    splits = {
        name: replace(split, y=split.y % 2) for name, split in data.splits.items()
    }
    trainer = boost(task, data=replace(data, splits=splits))
    logits = trainer.model(torch.from_numpy(splits["test"].x))
    assert logits.shape == (45, 2)
    assert not logits[:, 0].any()
    assert trainer.result().test_score == pytest.approx(0.0, abs=0.1)


def test_boosting_is_saved_without_pickle_and_loads_into_a_model_without_trees(
    tmp_path: Path,
) -> None:
    trainer = boost()
    empty = start(NO_BODY, "gradient_boosting").model
    x = torch.tensor(make_data(TASK).test.x[:])
    assert not empty(x).any()
    save_file(trainer.model.state_dict(), tmp_path / "model.safetensors")
    empty.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(empty(x), trainer.model(x))
    x[:, 0, ::2] = torch.nan  # missing values
    assert empty(x).isfinite().all()


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'orca-ray\[trees\]'"):
        start(NO_BODY, "gradient_boosting")
