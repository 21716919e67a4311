"""What each kind of artefact shows, by values, and which kinds a task has."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from orca_ray.data.rows import Array, Target
from orca_ray.results.artefacts import (
    FORMS,
    MAX_BYTES,
    MAX_TRIAL_BYTES,
    Quantised,
    parse_payload,
)
from orca_ray.tasks.registry import all_tasks, get_task
from orca_ray.tasks.task import Task
from orca_ray.testing.trials import make_task
from orca_ray.training.artefacts.base import (
    Aligned,
    Evaluated,
    Evidence,
    all_artefacts,
    compute_artefacts,
    shrink,
    spaced_indices,
)
from orca_ray.training.artefacts.kinds import gaps, principal_plane
from orca_ray.training.evaluate import join_sample_rows


def evaluated(
    task: Task, predictions: Any, y: Any, x: Array | None = None
) -> Evaluated:
    y = np.asarray(y)
    if x is None:
        assert task.input_shape is not None
        x = np.zeros((len(y), *task.input_shape), np.float32)
    return Evaluated(task, np.asarray(predictions, np.float32), y, np.arange(len(y)), x)


def normal_fields(*shape: int) -> Array:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def classes(size: int) -> Task:
    return make_task(Target("classes", size=size))


def field(*shape: int) -> Task:
    input_shape = shape if len(shape) == 3 else (1, *shape)
    return make_task(Target("dense", shape=shape), input_shape=input_shape)


def pictures_of(evidence: Evidence) -> dict[tuple[str, str], dict[str, Any]]:
    """Return pictures by kind and name."""
    artefacts, notes = compute_artefacts(evidence)
    assert not notes
    return {
        (artefact.kind, artefact.name): parse_payload(artefact.payload)
        for artefact in artefacts
    }


def decoded(values: dict[str, Any]) -> Array:
    return Quantised(
        tuple(values["shape"]), values["low"], values["high"], values["data"]
    ).decode()


def kinds(name: str) -> list[str]:
    return [
        kind.name
        for kind in all_artefacts().values()
        if kind.applies(get_task(name)) and kind.needs is Evaluated
    ]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("pocket/digits", ["confusion_matrix", "sample"]),
        ("pocket/wdbc", ["confusion_matrix"]),
        ("pocket/darcy16", ["field"]),
        ("nasbench360/psicov", ["field"]),
        ("nasbench360/cosmic", ["field"]),
        ("nasbench360/fsd50k", ["label_scores", "sample"]),
        ("cabinet/diabetes", ["scatter"]),
    ],
)
def test_the_kinds_of_a_task_follow_from_its_target_and_modality(
    task: str, expected: list[str]
) -> None:
    assert kinds(task) == expected


def test_a_confusion_matrix_has_true_classes_in_rows_and_at_most_a_hundred() -> None:
    logits = np.eye(3)[[0, 1, 1, 2, 0]]
    pictures = pictures_of(evaluated(classes(3), logits, [0, 1, 2, 2, 1]))
    picture = pictures["confusion_matrix", "test"]
    assert picture["counts"] == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert picture["caption"] == "3 of 5 samples are right."
    of_many_classes = pictures_of(evaluated(classes(101), np.zeros((2, 101)), [0, 1]))
    assert set(of_many_classes) == {("sample", "correct"), ("sample", "wrong")}


def test_samples_are_the_first_correct_and_the_first_wrong_one() -> None:
    x = np.arange(3 * 2 * 16, dtype=np.float32).reshape(3, 2, 16)
    logits = [[0, 2], [1, 0], [0, 1]]
    pictures = pictures_of(evaluated(classes(2), logits, [0, 0, 1], x))
    correct = pictures["sample", "correct"]
    wrong = pictures["sample", "wrong"]
    true = "True class 0, predicted class"
    assert correct["caption"] == f"{true} 0 (probability 0.73)."
    assert wrong["caption"] == f"{true} 1 (probability 0.88)."
    for channel, line in enumerate(correct["series"]):
        np.testing.assert_allclose(decoded(line["values"]), x[1, channel], atol=0.05)


@pytest.mark.parametrize(
    ("domain", "channels", "scale"),
    [("image", 3, "colour"), ("image", 1, "grey"), ("series", 3, "sequential")],
)
def test_three_channels_are_colours_only_of_an_image(
    domain: str, channels: int, scale: str
) -> None:
    x = np.random.default_rng(0).random((channels, 8, 8), np.float32)
    task = replace(classes(2), domain=domain, input_shape=x.shape)
    pictures = pictures_of(evaluated(task, [[0, 2]], [1], x[None]))
    (panel,) = pictures["sample", "correct"]["panels"]
    assert panel["scale"] == scale
    first_channel, *_ = x
    expected = x.transpose(1, 2, 0) if scale == "colour" else first_channel
    np.testing.assert_allclose(decoded(panel["values"]), expected, atol=0.01)


def test_fields_are_the_first_and_the_worst_sample_on_one_scale() -> None:
    y = normal_fields(3, 4, 4)
    errors = np.array([0.1, 0.0, -2.0], np.float32)
    predictions = y + errors[:, None, None]
    pictures = pictures_of(evaluated(field(4, 4), predictions, y))
    assert [name for _, name in pictures] == ["first", "worst"]
    worst = pictures["field", "worst"]
    assert worst["title"] == "Test sample 2, which has the largest error"
    assert worst["caption"] == "Root mean squared error 2."
    true, predicted, error = worst["panels"]
    assert true["values"]["low"] == predicted["values"]["low"]
    assert true["values"]["high"] == predicted["values"]["high"]
    *_, worst_y = y
    np.testing.assert_allclose(decoded(true["values"]), worst_y, atol=0.02)
    np.testing.assert_allclose(decoded(predicted["values"]), worst_y - 2, atol=0.02)
    np.testing.assert_allclose(decoded(error["values"]), -2, atol=0.02)
    assert error["scale"] == "diverging"


def test_fields_of_one_axis_are_lines() -> None:
    y = np.linspace(0, 1, 2 * 8).reshape(2, 8).astype(np.float32)
    picture = pictures_of(evaluated(field(8), y + 0.5, y))["field", "first"]
    lines = {line["title"]: decoded(line["values"]) for line in picture["series"]}
    assert list(lines) == ["true", "predicted", "error"]
    np.testing.assert_allclose(lines["predicted"], y[0] + 0.5, atol=0.01)


def test_the_first_of_several_channels_of_a_field_is_shown() -> None:
    y = normal_fields(1, 3, 4, 5)
    picture = pictures_of(evaluated(field(3, 4, 5), y, y))["field", "first"]
    caption = "Root mean squared error 0; the first of 3 channels is shown."
    assert picture["caption"] == caption
    true, _, _ = picture["panels"]
    np.testing.assert_allclose(decoded(true["values"]), y[0, 0], atol=0.02)


def test_scores_of_labels_equal_scikit_learns() -> None:
    random = np.random.default_rng(0)
    y = (random.random((30, 3)) < 0.4).astype(np.float32)
    y[:, 2] = 0
    logits = random.normal(size=(30, 3)).astype(np.float32)
    task = make_task(Target("labels", size=3))
    pictures = pictures_of(evaluated(task, logits, y))
    bars = pictures["label_scores", "test"]["series"]
    precision, area, share = (series["values"] for series in bars)
    for values, score in ((precision, average_precision_score), (area, roc_auc_score)):
        *scores, score_of_absent_label = values
        expected = [score(y[:, label], logits[:, label]) for label in range(2)]
        assert scores == pytest.approx(expected, abs=1e-4)
        assert score_of_absent_label is None
    *_, share_of_absent_label = share
    assert share_of_absent_label == 0


def test_a_scatter_has_at_most_500_samples() -> None:
    y = np.linspace(0, 9, 1000).astype(np.float32)
    pictures = pictures_of(evaluated(make_task(Target("scalar")), y + 1, y))
    (panel,) = pictures["scatter", "test"]["panels"]
    (group,) = panel["groups"]
    true = decoded(group["x"])
    predicted = decoded(group["y"])
    assert len(true) == 500
    np.testing.assert_allclose(predicted - true, 1, atol=0.05)
    for axis in ("x", "y"):
        assert group[axis]["low"] == 0
        assert group[axis]["high"] == 10


def aligned(num: int = 30, classes: bool = True) -> Aligned:
    random = np.random.default_rng(0)
    source = random.normal(size=(num, 8))
    before = random.normal(size=(num, 8)) + 5
    labels = np.arange(num) % 3
    return Aligned(
        make_task(Target("classes", size=3)),
        source,
        labels,
        before,
        source,
        labels if classes else None,
    )


def test_features_share_the_axes_of_before_aligning() -> None:
    picture = pictures_of(aligned())["features", "aligning"]
    before_panel, after_panel = picture["panels"]
    source, before = before_panel["groups"]
    same_source, after = after_panel["groups"]
    assert source == same_source
    assert source["classes"] == [index % 3 for index in range(30)]
    # The target became the source.
    np.testing.assert_array_equal(decoded(after["x"]), decoded(source["x"]))
    # The first component is the difference of the means.
    distance = decoded(before["x"]).mean() - decoded(source["x"]).mean()
    assert abs(distance) == pytest.approx(5 * np.sqrt(8), rel=0.1)
    picture = pictures_of(aligned(classes=False))["features", "aligning"]
    before_panel, _ = picture["panels"]
    _, target = before_panel["groups"]
    assert target["classes"] is None


def test_the_gaps_vanish_with_the_target_at_the_source() -> None:
    bars = pictures_of(aligned())["features", "gap"]["series"]
    for series in bars:
        _, after = series["values"]
        assert after == pytest.approx(0, abs=1e-3)


def test_the_gaps_are_those_of_gaussians() -> None:
    source = np.random.default_rng(0).normal(size=(800, 3))
    target = source[::-1] * [1, 2, 3] + [0, 3, 0]
    centroid, distribution = gaps(source, target)
    source_variance = 3
    assert centroid == pytest.approx(3**2 / source_variance, rel=0.1)
    difference_of_deviations = (2 - 1) ** 2 + (3 - 1) ** 2
    expected = difference_of_deviations / source_variance
    assert distribution == pytest.approx(expected, rel=0.1)


def test_principal_components_equal_those_of_a_singular_value_decomposition() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(20, 6)) * [9, 5, 1, 1, 1, 1]
    mean, components = principal_plane(x)
    _, _, all_components = np.linalg.svd(x - x.mean(axis=0))
    expected = np.abs(all_components[:2])
    np.testing.assert_allclose(np.abs(components), expected, atol=1e-6)
    np.testing.assert_allclose(mean, x.mean(axis=0))
    for component in components:
        largest = np.abs(component).argmax()
        assert component[largest] > 0
    _, without_variance = principal_plane(np.ones((3, 4)))
    np.testing.assert_array_equal(without_variance, 0)


@pytest.mark.slow
def test_artefacts_of_every_kind_of_task_are_there_bounded_and_deterministic() -> None:
    random = np.random.default_rng(0)
    task_of_kinds = {
        tuple(kinds(name)): name
        for name, task in all_tasks().items()
        if task.input_shape
    }
    for name in task_of_kinds.values():
        task = get_task(name)
        assert task.input_shape is not None
        x = random.normal(size=(3, *task.input_shape)).astype(np.float32)
        outputs = random.normal(size=(3, *task.target.output_shape))
        predictions = outputs.astype(np.float32)
        y: Array = (predictions > 0.5).astype(np.float32)
        if task.target.kind == "classes":
            y = np.arange(3) % task.target.size
        evidence = evaluated(task, predictions, y, x)
        artefacts, notes = compute_artefacts(evidence)
        assert compute_artefacts(evidence) == (artefacts, notes), name
        assert not notes
        assert artefacts
        sizes = [len(artefact.payload) for artefact in artefacts]
        assert max(sizes) <= MAX_BYTES
        assert sum(sizes) <= MAX_TRIAL_BYTES
        for artefact in artefacts:
            assert json.loads(artefact.payload)["form"] in FORMS


def test_arrays_are_shrunk_and_indices_spread_evenly() -> None:
    line = np.arange(5.0)
    np.testing.assert_array_equal(shrink(line, 3), [0.5, 2.5, 4])
    plane = np.arange(16.0).reshape(4, 4)
    np.testing.assert_array_equal(shrink(plane, 2), [[2.5, 4.5], [10.5, 12.5]])
    assert shrink(np.zeros((100, 30, 3)), 50).shape == (50, 15, 3)
    assert shrink(np.zeros((7, 7)), 7).shape == (7, 7)
    assert spaced_indices(5, 3).tolist() == [0, 2, 4]
    assert spaced_indices(2, 3).tolist() == [0, 1]


def test_parts_of_one_sample_are_averaged() -> None:
    predictions = np.array([[1.0], [3.0], [5.0]])
    y = np.array([7, 7, 8])
    samples = join_sample_rows(predictions, y, group=np.array([4, 4, 2]))
    assert samples.predictions.tolist() == [[5.0], [2.0]]
    assert samples.y.tolist() == [8, 7]
    assert samples.first_rows.tolist() == [2, 0]
