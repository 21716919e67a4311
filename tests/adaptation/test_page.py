"""The page of an adaptation: what it shows, for each kind of target.

No text becomes markup.
"""

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from orca_ray.adaptation.page import adaptation_page
from orca_ray.adaptation.page_figures import MOST_CLASSES, make_evidence
from orca_ray.adaptation.report import Report
from orca_ray.methods.model_card import score_lines

EVIL = "</style><script>alert(1)</script>&\x1b"
RANDOM = np.random.default_rng(0)


def report(**values: Any) -> dict[str, Any]:
    names = ("method", "score", "low", "high", "num_folds", "seconds", "pretrained")
    rows = [
        ("nft on minilm-l6", 0.2, 0.15, 0.24, 5, 12.5, True),
        ("linear", 0.3, 0.25, 0.36, 5, 0.1, False),
        (EVIL, 9.0, 7.0, 12.0, 1, 3.0, False),
    ]
    given: dict[str, Any] = {
        "metric": "error",
        "score": 0.18,
        "low": 0.14,
        "high": 0.22,
        "num_samples": 1200,
        "num_folds": 5,
        "model": "ensemble: 5 of linear, 5 of nft on minilm-l6",
        "baseline": "linear",
        "verdict": "it pays",
        "out_of_fold": 0.17,
        "holdout": 0.19,
        "num_holdout": 60,
        "standings": [dict(zip(names, row, strict=True)) for row in rows],
        "curve": [(0.5, 0.4), (3.0, 0.3), (20.0, 0.2)],
        "size_mb": 12.3,
        "latency_ms": 4.56,
    }
    return Report(**given | values).to_json()


def page(evidence: str = "", **values: Any) -> str:
    found = adaptation_page(
        report(**values),
        [("target", EVIL, "the only column of text", "target kind")],
        [EVIL],
        evidence,
        name=EVIL,
        folder="my wine-model",
    )
    assert "<script" not in found
    assert "\x1b" not in found
    assert "$" not in re.sub("<style>.*</style>", "", found, flags=re.DOTALL)
    return found


def test_what_a_user_wants_to_know_comes_first() -> None:
    text = page()
    order = [
        "it pays",
        "0.18 [0.14, 0.22]",
        "1,200 samples",
        "0.19 on 60 samples that no choice has seen",
        "Best baseline: linear, 0.3 [0.25, 0.36]",
        "12.3 MB; 4.56 ms",
        "Warnings about the data",
        "this model",
        ">nft on minilm-l6",
        "orca-sweep predict &#x27;my wine-model&#x27; DATA",
        "the only column",
    ]
    assert sorted(order, key=text.index) == order
    assert text.count("<tr>") == 1 + 4 + 1 + 1
    bars = [float(x) for x in re.findall(r'<circle cx="([\d.]+)" cy="15"', text)]
    assert bars[:3] == sorted(bars[:3])
    assert bars[3] == 214.0, "a bad method ends at the edge"
    assert bars[2] - bars[0] > 40
    assert "no choice has seen" not in page(holdout=None, curve=[(1.0, 0.5)])
    assert score_lines(report(num_folds=1))[1].endswith(
        "1,200 samples, the validation split."
    )


def test_methods_without_an_error_have_an_axis() -> None:
    row = {
        "method": "linear",
        "score": 0.0,
        "low": 0.0,
        "high": 0.1,
        "num_folds": 5,
        "seconds": 1.0,
        "pretrained": False,
    }
    ends = re.findall(
        r'text-anchor="end">([^<]*)<',
        page(score=0.0, low=0.0, high=0.05, standings=[row]),
    )
    assert "0.1" in ends


def test_classes_have_a_confusion_matrix() -> None:
    chances = np.eye(3)[[0, 1, 1, 2, 2, 0]]
    figure = make_evidence(chances, np.array([0, 1, 2, 2, 2, -1]), ["oak", "ash", EVIL])
    assert page(figure).count(figure) == 1
    assert re.findall(r">(\d+)</td>", figure) == list("100010012")
    many = make_evidence(np.eye(40)[np.arange(400) % 40], np.arange(400) % 40)
    assert many.count("<tr>") == 1 + MOST_CLASSES
    assert make_evidence(chances, np.full(6, -1)) == ""


def test_labels_and_numbers() -> None:
    true = np.array([[1, 0], [1, 1], [0, 1]], dtype=np.float32)
    figure = make_evidence(
        np.array([[0.9, 0.2], [0.1, 0.8], [0.7, 0.9]]), true, ["a", "b"]
    )
    assert re.findall(r">(\d+)</td>", figure) == list("11102001")
    numbers = RANDOM.normal(size=3000)
    figure = make_evidence(
        numbers + 0.5, np.where(np.arange(3000) == 7, np.nan, numbers)
    )
    assert "half within 0.5, nine of ten within 0.5" in page(figure)
    assert 700 < figure.count("h0M") < 800


@pytest.mark.parametrize("shape", [(24, 200), (3, 16, 16), (50,)])
def test_fields_are_pictures(shape: tuple[int, ...]) -> None:
    true = RANDOM.normal(size=(20, *shape)).astype(np.float32)
    figure = page(
        make_evidence(true * np.linspace(1, 2, 20).reshape(-1, *[1] * len(shape)), true)
    )
    pictures = [
        base64.b64decode(text) for text in re.findall(r"base64,([^\"]+)", figure)
    ]
    assert len(pictures) == 9
    found = np.asarray(Image.open(io.BytesIO(pictures[0])))
    assert (
        found.shape
        == {(24, 200): (24, 67, 3), (3, 16, 16): (16, 16, 3), (50,): (1, 50, 3)}[shape]
    )
    assert found.std() > 20
