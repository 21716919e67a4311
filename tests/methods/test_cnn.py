"""`cnn`: it needs no body, tells tables from series, and estimates its own cost."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.methods.hyperparameters import relevant, resolve
from orca_ray.methods.options import Scalar
from orca_ray.methods.recipe import NO_BODY
from orca_ray.methods.registry import get_method
from orca_ray.models import crossmodal
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import CLASSES, QUICK, TASK, make_data, make_task, run, start

SMALL: dict[str, Scalar] = {**QUICK, "cnn.width": 16, "cnn.blocks": 1}


def test_it_learns_without_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossmodal, "load_body", lambda *_, **__: pytest.fail("a body was loaded"))
    adaptation = start(NO_BODY, "cnn", hyperparameters={**SMALL, "refine.epochs": 5})
    run(adaptation)
    assert adaptation.result().test_score == pytest.approx(0.0, abs=0.1)  # by chance: 2/3


def test_options_of_other_parts_do_not_belong_to_its_trials() -> None:
    values = relevant(resolve("cnn", {}), "cnn")
    assert {name.split(".")[0] for name in values} == {"data", "refine", "cnn"}
    assert not any(name.startswith("cnn.") for name in relevant(resolve("nft", {}), "nft"))


@pytest.mark.parametrize(
    ("modality", "shape", "network", "layout"),
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
def test_the_layout_follows_from_the_task(
    modality: str, shape: tuple[int, ...], network: str, layout: tuple[int]
) -> None:
    task = replace(make_task(CLASSES, shape), modality=modality)
    model = start(
        NO_BODY, "cnn", task=task, data=make_data(task), hyperparameters={**SMALL, "cnn.network": network}
    ).model
    assert model.embedder.layout == layout


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cnn.kernel": 4}, "cnn.kernel must be odd, got 4"),
        ({"cnn.kernel": 0}, "cnn.kernel must be at least 1"),
        ({"cnn.network": "tables"}, "Did you mean 'table'"),
    ],
)
def test_a_wrong_option(values: dict[str, Scalar], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve("cnn", values)


WIDE: dict[str, Scalar] = {"cnn.width": 32, "cnn.kernel": 5, "cnn.dilation": 3}


@pytest.mark.parametrize(
    "task",
    [
        make_task(CLASSES, (2, 60)),
        make_task(CLASSES, (1, 130, 130)),
        make_task(Target("dense", shape=(20, 20)), (3, 20, 20)),
        replace(make_task(CLASSES, (1, 30)), modality="tabular"),
    ],
    ids=["series", "image", "field", "table"],
)
def test_estimated_operations_are_those_that_are_counted(task: Task) -> None:
    operations = get_method("cnn").operations
    assert operations is not None
    assert task.input_shape is not None
    model = start(NO_BODY, "cnn", task=task, data=make_data(task), hyperparameters=WIDE).model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *task.input_shape))
    estimate = operations(task, relevant(resolve("cnn", WIDE), "cnn"))
    assert estimate == pytest.approx(counter.get_total_flops(), rel=0.2)
    assert operations(replace(TASK, input_shape=None, input_kind="sequence"), {}) is None
