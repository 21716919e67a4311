"""Figures of predictions, for each kind of target."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from orca_ray.adaptation.page_figures import MOST_CLASSES, MOST_POINTS, make_evidence


def read_counts(figure: str) -> list[int]:
    """Return the numbers in the cells of a table."""
    return [int(text) for text in re.findall(r">(\d+)</td>", figure)]


def test_classes_have_a_confusion_matrix() -> None:
    chances = np.eye(3)[[0, 1, 1, 2, 2, 0]]
    targets = np.array([0, 1, 2, 2, 2, -1])  # the last one is to be ignored
    figure = make_evidence(chances, targets, ["oak", "ash", "elm"])
    predictions_of_oak = [1, 0, 0]
    predictions_of_ash = [0, 1, 0]
    predictions_of_elm = [0, 1, 2]
    assert read_counts(figure) == [
        *predictions_of_oak,
        *predictions_of_ash,
        *predictions_of_elm,
    ]


def test_a_confusion_matrix_has_the_most_frequent_classes() -> None:
    targets = np.arange(400) % 40
    figure = make_evidence(np.eye(40)[targets], targets)
    assert figure.count("<tr>") == 1 + MOST_CLASSES


def test_without_a_known_target_there_is_no_figure() -> None:
    assert make_evidence(np.eye(3), np.full(3, -1)) == ""


def test_labels_have_a_table_of_hits_and_misses() -> None:
    true = np.array([[1, 0], [1, 1], [0, 1]], dtype=np.float32)
    chances = np.array([[0.9, 0.2], [0.1, 0.8], [0.7, 0.9]])
    figure = make_evidence(chances, true, ["a", "b"])
    hits_of_a = [1, 1, 1, 0]
    hits_of_b = [2, 0, 0, 1]
    assert read_counts(figure) == [*hits_of_a, *hits_of_b]


def test_numbers_are_shown_as_points_with_their_usual_errors() -> None:
    numbers = np.random.default_rng(0).normal(size=3000)
    true = np.where(np.arange(3000) == 7, np.nan, numbers)
    figure = make_evidence(numbers + 0.5, true)
    assert "half within 0.5, nine of ten within 0.5" in figure
    assert MOST_POINTS - 100 < figure.count("h0M") < MOST_POINTS


@pytest.mark.parametrize(
    ("shape", "picture_shape"),
    [((24, 200), (24, 67, 3)), ((3, 16, 16), (16, 16, 3)), ((50,), (1, 50, 3))],
)
def test_fields_are_pictures(
    shape: tuple[int, ...], picture_shape: tuple[int, ...]
) -> None:
    true = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    factors = np.linspace(1, 2, 20).reshape(-1, *[1] * len(shape))
    figure = make_evidence(true * factors, true)
    encoded_pictures = re.findall(r"base64,([^\"]+)", figure)
    assert len(encoded_pictures) == 9, "true, predicted and difference of three samples"
    file = io.BytesIO(base64.b64decode(encoded_pictures[0]))
    picture = np.asarray(Image.open(file))
    assert picture.shape == picture_shape
    assert picture.std() > 20, "it is not of one colour"
