"""Metrics and losses against the functions of the reference implementation of ORCA, run
from a checkout.

``ORCA_REFERENCE=CHECKOUT python -m pytest benchmarks/compare_metrics.py``. Nothing is
copied: functions of the reference are compiled one by one, because their module does
without its FSD50K part, silently, where a package is missing.
"""

import ast
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orca_ray.tasks.metrics import IGNORED, get_metric
from tests.tasks.test_scores import _inputs, _loss, protein

CHECKOUT = os.environ.get("ORCA_REFERENCE", "")

pytestmark = pytest.mark.skipif(
    not CHECKOUT, reason="ORCA_REFERENCE names no checkout of the reference"
)


def reference(*names: str) -> Any:
    """Compile functions and classes of the reference's utils.py, which may call each
    other; return the last one.
    """
    from sklearn import metrics
    from torch import nn
    from torch.nn import functional

    path = Path(CHECKOUT) / "src" / "utils.py"
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    kinds = ast.FunctionDef | ast.ClassDef
    found: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, kinds) and node.name in names
    ]
    assert len(found) == len(names), f"{path} lacks some of {names}"
    scope: dict[str, Any] = {
        "np": np,
        "torch": torch,
        "nn": nn,
        "F": functional,
        "metrics": metrics,
    }
    scope |= {"roc_auc_score": metrics.roc_auc_score, "device": torch.device("cpu")}
    exec(compile(ast.Module(body=found, type_ignores=[]), str(path), "exec"), scope)
    return scope[names[-1]]


def test_contact_error() -> None:
    """One protein at a time, each cut to the length of the first one in the list."""
    y = np.stack(
        [protein(40, 512, 0), protein(48, 512, 1), protein(33, 512, 2)]
    ).astype(np.float32)
    predictions = (y + np.random.RandomState(3).normal(scale=3, size=y.shape)).astype(
        np.float32
    )
    kind = reference("psicov_mae")
    theirs = kind.__new__(kind)
    theirs.pdb_list = ["a", "b", "c"]
    theirs.length_dict = {"a": 40, "b": 48, "c": 33}

    def chunk(first: int, last: int) -> float:
        # The reference writes to its arguments.
        chunk_predictions = predictions[first:last, None].copy()
        chunk_y = y[first:last, None].copy()
        return float(
            theirs(torch.from_numpy(chunk_predictions), torch.from_numpy(chunk_y))
        )

    expected = np.mean([chunk(i, i + 1) for i in range(3)])
    assert get_metric("mae_lr_d8_reference").compute(predictions, y) == pytest.approx(
        expected, rel=1e-6
    )
    # Symmetric predictions above its floor, all proteins at once: nothing is left of
    # its quirks.
    predictions[:] = np.maximum((predictions + predictions.swapaxes(1, 2)) / 2, 0.01)
    assert get_metric("mae_lr_d8").compute(predictions, y) == pytest.approx(
        chunk(0, 3), rel=1e-6
    )


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("cosmic_one_minus_auroc_thresholded", ("inv_auroc",)),
        ("false_negative_rate", ("maskMetric", "fnr")),
    ],
)
def test_masks(name: str, theirs: tuple[str, ...]) -> None:
    random = np.random.RandomState(0)
    image = random.uniform(size=(5, 1, 16, 16)) < 0.2
    ignore = random.uniform(size=(5, 1, 16, 16)) < 0.1
    logits = random.normal(size=image.shape) + image
    masked = reference("mask")
    given_ = [
        masked(torch.tensor(value).float(), torch.tensor(ignore).float())
        for value in (logits, image)
    ]
    expected = float(reference(*theirs)(*given_))
    y = np.where(ignore, IGNORED, image).astype(np.float32)
    assert get_metric(name).compute(logits, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num_classes", [2, 3, 4])
def test_classes(num_classes: int) -> None:
    random = np.random.RandomState(0)
    y = np.concatenate([np.arange(num_classes), random.randint(0, num_classes, 200)])
    logits = random.normal(size=(len(y), num_classes)) + np.eye(num_classes)[y]
    for ours, theirs in (
        ("one_minus_auroc", "auc_metric"),
        ("one_minus_macro_f1", "ecg_f1"),
        ("error", "accuracy"),
    ):
        expected = 1 - float(
            reference(theirs)(torch.from_numpy(logits), torch.from_numpy(y))
        )
        assert get_metric(ours).compute(logits, y) == pytest.approx(expected, abs=1e-6)


def test_labels() -> None:
    random = np.random.RandomState(0)
    y = (random.uniform(size=(300, 5)) < 0.3).astype(np.float32)
    logits = random.normal(size=y.shape) + y
    auroc = reference("calculate_auroc", "auroc")
    average = reference("map_value")
    # The reference passes precision_recall_curve a keyword that scikit-learn has
    # renamed; its result is not used.
    auroc.__globals__["calculate_aupr"] = lambda predictions, labels: (0, 0, 0)
    for name, theirs in (("one_minus_auroc", auroc), ("one_minus_map", average)):
        expected = 1 - float(theirs(torch.from_numpy(logits), torch.from_numpy(y)))
        assert get_metric(name).compute(logits, y) == pytest.approx(expected, abs=1e-6)


def test_fields_and_numbers() -> None:
    random = np.random.RandomState(0)
    y = random.normal(size=(20, 3, 4, 4))
    predictions = y + 0.3 * random.normal(size=y.shape)
    for name, theirs in (
        ("nrmse", reference("nmse")),
        ("relative_l2", reference("LpLoss")(size_average=True)),
    ):
        expected = float(theirs(torch.from_numpy(predictions), torch.from_numpy(y)))
        assert get_metric(name).compute(predictions, y) == pytest.approx(expected)
    numbers = predictions[:, 0, 0, 0], y[:, 0, 0, 0]
    expected = 1 - float(reference("r2_score")(*map(torch.from_numpy, numbers)))
    assert get_metric("one_minus_r2").compute(*numbers) == pytest.approx(expected)


def test_losses_of_fields() -> None:
    for name, theirs in (
        ("rmse", reference("rmse_loss")),
        ("nrmse", reference("nrmse_loss")),
    ):
        torch.testing.assert_close(_loss(name)(*_inputs(name)), theirs(*_inputs(name)))
    summed = reference("LpLoss")(size_average=False)(*_inputs("relative_l2"))
    torch.testing.assert_close(
        5 * _loss("relative_l2")(*_inputs("relative_l2")), summed
    )


def test_focal() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(18, (40,), generator=generator)
    for scale in (1.0, 30.0):
        ours = (scale * torch.randn(40, 18, generator=generator)).requires_grad_()
        theirs = ours.detach().clone().requires_grad_()
        values = (
            _loss("softmax_focal")(ours, y),
            reference("FocalLoss")(alpha=1)(theirs, y),
        )
        torch.testing.assert_close(*values)
        gradients = [
            torch.autograd.grad(v, x)[0]
            for v, x in zip(values, (ours, theirs), strict=True)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_masked_and_weighted_labels() -> None:
    logits, y = _inputs("masked_bce")
    masked = reference("mask")
    ignore = (y == IGNORED).double()
    theirs = torch.nn.BCEWithLogitsLoss()(masked(logits, ignore), masked(y, ignore))
    torch.testing.assert_close(_loss("masked_bce")(logits, y), theirs)

    logits, y = _inputs("bce")
    theirs = torch.nn.BCEWithLogitsLoss(pos_weight=4 * torch.ones(4))
    torch.testing.assert_close(_loss("bce_pos4")(logits, y), theirs(logits, y))
