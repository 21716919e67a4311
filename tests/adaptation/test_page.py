"""The page of an adaptation: what it says, and that no text becomes markup."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orca_ray.adaptation.page import adaptation_page
from orca_ray.adaptation.page_figures import make_evidence
from orca_ray.adaptation.report import Report
from orca_ray.cli.boards import check_page
from orca_ray.errors import UserError
from orca_ray.methods.model_card import score_lines

EVIL = "</style><script>alert(1)</script>&\x1b"
"""Text that would be a program if it were markup."""


def make_standing(
    method: str,
    score: float,
    low: float,
    high: float,
    *,
    num_folds: int = 5,
    seconds: float = 1.0,
    pretrained: bool = False,
) -> dict[str, Any]:
    """Return the row of a method in a report."""
    return {
        "method": method,
        "score": score,
        "low": low,
        "high": high,
        "num_folds": num_folds,
        "seconds": seconds,
        "pretrained": pretrained,
    }


STANDINGS = [
    make_standing("nft on minilm-l6", 0.2, 0.15, 0.24, seconds=12.5, pretrained=True),
    make_standing("linear", 0.3, 0.25, 0.36, seconds=0.1),
    make_standing(EVIL, 9.0, 7.0, 12.0, num_folds=1, seconds=3.0),
]


def make_report(**changes: Any) -> dict[str, Any]:
    """Return a report with some fields changed."""
    values: dict[str, Any] = {
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
        "standings": STANDINGS,
        "curve": [(0.5, 0.4), (3.0, 0.3), (20.0, 0.2)],
        "size_mb": 12.3,
        "latency_ms": 4.56,
    }
    return Report(**values | changes).to_json()


def make_page(evidence: str = "", **changes: Any) -> str:
    """Return the page of a report with some fields changed."""
    text = adaptation_page(
        make_report(**changes),
        [("target", EVIL, "the only column of text", "target kind")],
        [EVIL],
        evidence,
        name=EVIL,
        folder="my wine-model",
    )
    assert "<script" not in text
    assert "\x1b" not in text
    without_style = re.sub("<style>.*</style>", "", text, flags=re.DOTALL)
    assert "$" not in without_style, "each field of the template is filled"
    return text


def test_what_a_user_wants_to_know_comes_first() -> None:
    text = make_page()
    parts = [
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
    assert sorted(parts, key=text.index) == parts
    num_heads = 2
    num_findings = 1
    num_methods = 1 + len(STANDINGS)
    assert text.count("<tr>") == num_heads + num_methods + num_findings


def test_the_title_is_what_was_found() -> None:
    text = make_page(headline="forest has an error of 9.7 % [6.1, 14.0]")
    titles = re.findall("<(title|h1)>(.*?)</", text)
    assert [tag for tag, _ in titles] == ["title", "h1"]
    for _, title in titles:
        assert title.startswith("forest has an error of 9.7 % [6.1, 14.0] on ")


def test_the_most_important_features_are_shown() -> None:
    features = [
        {
            "feature": name,
            "importance": importance,
            "standard_error": 0.01,
            "num_repeats": 5,
        }
        for name, importance in [(EVIL, 0.3), ("age", 0.1), *[("x", 0.0)] * 40]
    ]
    text = make_page(importance={"features": features, "num_samples": 1234})
    assert "1,234 samples" in text
    assert "0.1 ± 0.01" in text
    assert text.index("0.3 ± 0.01") < text.index(">age<")
    assert 0 < text.count(">x<") < 40
    assert "Importance" not in make_page()
    assert "too short" in make_page(importance={"features": [], "num_samples": 9})


def test_the_command_has_intervals_if_the_model_makes_them() -> None:
    assert "--interval" in make_page(has_intervals=True)
    assert "--interval" not in make_page()


def test_scores_are_marked_on_one_axis() -> None:
    centers = re.findall(r'<circle cx="([\d.]+)" cy="15"', make_page())
    model, first, second, worst = (float(center) for center in centers)
    assert model <= first <= second
    assert second - model > 40
    assert worst == 214.0, "a bad method ends at the edge"


def test_the_page_leaves_out_what_is_not_known() -> None:
    assert "no choice has seen" not in make_page(holdout=None, curve=[(1.0, 0.5)])
    lines = score_lines(make_report(num_folds=1))
    assert lines[1].endswith("1,200 samples, the validation split.")


def test_methods_without_an_error_have_an_axis() -> None:
    text = make_page(
        score=0.0,
        low=0.0,
        high=0.05,
        standings=[make_standing("linear", 0.0, 0.0, 0.1)],
    )
    assert "0.1" in re.findall(r'text-anchor="end">([^<]*)<', text)


def test_a_figure_of_predictions_is_part_of_the_page() -> None:
    chances = np.eye(2)[[0, 1, 1]]
    figure = make_evidence(chances, np.array([0, 1, 0]), ["oak", EVIL])
    assert make_page(figure).count(figure) == 1


@pytest.mark.parametrize("headline", ["", "forest has an error of 9.7 % [6.1, 14.0]"])
def test_the_page_of_a_model_may_be_replaced(headline: str, tmp_path: Path) -> None:
    """The same command continues an adaptation, and writes its page again."""
    page = tmp_path / "model.html"
    page.write_text(make_page(headline=headline))
    check_page(page, "--out")
    page.write_text("<!doctype html><title>forest</title>")
    with pytest.raises(UserError, match="has other content"):
        check_page(page, "--out")
