"""The align loop and the probe: what they change, draw and measure."""

from collections.abc import Iterable
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from orca_ray.alignment import labels as labels_module
from orca_ray.alignment.distance import Diagnosis, Distance, SourceFeatures
from orca_ray.alignment.labels import ClassIndex
from orca_ray.alignment.registry import get_distance
from orca_ray.data.prepared import Split
from orca_ray.data.rows import Rows, Target
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.testing.trials import changed, copy_of
from orca_ray.training import align
from orca_ray.training.align import (
    NUM_SAMPLES,
    PENALTIES,
    AlignLoop,
    Probe,
    encode_targets,
    ridge_errors,
)
from orca_ray.training.config import AlignConfig
from orca_ray.training.numerics import NotFiniteError
from orca_ray.training.optimisation import relative_steps

from .training_toys import CLASSES, CPU, Recording, toy_model, toy_split


def fit_mmd() -> Distance:
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(60) % 4
    noise = 0.3 * torch.randn(60, 6, generator=generator)
    x = noise + torch.nn.functional.one_hot(y, 6) - 0.5
    return get_distance("mmd").fit(SourceFeatures(x=x, y=y, name="toy"))


class Scripted:
    """Distance that is ``factor`` times the mean square of the features.

    The n-th of ``offsets`` is added to it in the n-th call.
    """

    learning_rate = 0.03

    def __init__(
        self,
        offsets: Iterable[float] = (),
        diagnoses: Iterable[Diagnosis] = (),
        factor: float = 1e-3,
    ) -> None:
        self.diagnosis = Diagnosis()
        self.calls: list[tuple[Tensor, Tensor]] = []
        """Labels and shares of each call."""
        self._offsets = iter(offsets)
        self._diagnoses = iter(diagnoses)
        self._factor = factor

    def __call__(self, features: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
        self.calls.append((labels, shares))
        self.diagnosis = next(self._diagnoses, Diagnosis())
        return self._factor * features.square().mean() + next(self._offsets, 0.0)


def scripted_loop(
    config: AlignConfig, distance: Scripted, y: np.ndarray | None = None
) -> AlignLoop:
    split = toy_split(90)
    if y is None:
        y = split.y
    target = CLASSES
    if y.ndim > 1:
        target = Target("dense", shape=y.shape[1:])
    return AlignLoop(
        toy_model(),
        split.x,
        y,
        target,
        config,
        cast(Distance, distance),
        seed=0,
        device=CPU,
    )


def test_aligning_reduces_the_distance_and_changes_the_embedder_only() -> None:
    model = toy_model()
    split = toy_split(90)
    model.embedder.requires_grad_(False)
    before = copy_of(model)
    config = AlignConfig(epochs=30, learning_rate=1e-2, samples_per_class=20)
    loop = AlignLoop(
        model, split.x, split.y, CLASSES, config, fit_mmd(), seed=0, device=CPU
    )
    while not loop.done:
        loop.step()
    assert loop.distance_before is not None
    assert loop.distance_after is not None
    assert loop.distance_after < 0.8 * loop.distance_before
    names = changed(before, copy_of(model))
    assert names
    assert all(name.startswith("embedder.") for name in names)
    # What required gradients before does so after, and no gradient is left.
    assert not any(parameter.requires_grad for parameter in model.embedder.parameters())
    assert all(parameter.requires_grad for parameter in model.body.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(("option", "rate"), [(0.0, 0.03), (0.5, 0.5)])
def test_the_learning_rate_is_an_option_or_the_distances_and_falls_after_two_thirds(
    option: float, rate: float
) -> None:
    loop = scripted_loop(AlignConfig(epochs=6, learning_rate=option), Scripted())
    rates = [loop.step().learning_rate for _ in range(6)]
    assert rates == pytest.approx([rate] * 4 + [rate / 10] * 2)


def test_dense_targets_get_pseudo_classes() -> None:
    split = toy_split(90)
    class_fields = np.outer(split.y, np.ones(16)).reshape(90, 4, 4).astype(np.float32)
    y = class_fields + np.float32(0.01) * split.x[:][:, :1, :4]
    distance = Scripted()
    loop = scripted_loop(AlignConfig(epochs=1), distance, y)
    loop.step()
    for labels, _ in distance.calls:
        assert labels.dtype == torch.int64
        assert labels.shape == (90,)
    pseudo_classes, _ = distance.calls[0]
    for value in range(3):
        is_value = torch.from_numpy(split.y == value)
        inside = set(pseudo_classes[is_value].tolist())
        outside = set(pseudo_classes[~is_value].tolist())
        assert not inside & outside
    assert not loop.notes


def test_pseudo_classes_of_large_targets_come_from_a_sketch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    y = np.random.default_rng(0).random((90, 4, 4), dtype=np.float32)
    distance = Scripted()
    monkeypatch.setattr(labels_module, "MOST_NUMBERS", 1)
    monkeypatch.setattr(labels_module, "SKETCH_WIDTH", 4)
    (note,) = scripted_loop(AlignConfig(), distance, y).notes
    assert note == (
        "pseudo-classes come from a sketch of the targets (90, 4, 4), too large to"
        " cluster"
    )


def test_features_and_distances_that_are_not_finite_end_the_trial() -> None:
    split = toy_split(90)
    x = split.x[:]
    x[3] = np.inf
    loop = AlignLoop(
        toy_model(),
        x,
        split.y,
        CLASSES,
        AlignConfig(),
        fit_mmd(),
        seed=0,
        device=CPU,
    )
    with pytest.raises(NotFiniteError, match="features"):
        loop.step()
    with pytest.raises(NotFiniteError, match="distance is nan"):
        scripted_loop(AlignConfig(), Scripted(factor=float("nan"))).step()


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-2, 4), min_size=1, max_size=60),
    count=st.integers(1, 30),
    seed=st.integers(0, 5),
)
def test_samples_are_distinct_and_per_class(
    labels: list[int], count: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    drawn = ClassIndex(np.array(labels)).sample(count, generator).tolist()
    assert drawn == sorted(set(drawn))
    drawn_labels = [labels[index] for index in drawn]
    for label in set(labels):
        assert drawn_labels.count(label) == min(count, labels.count(label))


def test_samples_differ_by_seed_and_every_one_has_its_turn() -> None:
    index = ClassIndex(np.repeat(np.arange(3), [2, 10, 40]))
    draws = np.stack(
        [index.sample(4, np.random.default_rng(seed)) for seed in range(60)]
    )
    assert len(np.unique(draws, axis=0)) == 60
    assert np.unique(draws).tolist() == list(range(52))


def test_shares_are_those_of_the_training_set() -> None:
    y = np.repeat([5, 9, 2], [60, 27, 3])
    distance = Scripted()
    scripted_loop(AlignConfig(epochs=1, samples_per_class=3), distance, y).step()
    for labels, shares in distance.calls:
        assert torch.unique(labels).tolist() == [2, 5, 9]
        assert shares.tolist() == pytest.approx([3 / 90, 60 / 90, 27 / 90])
    shares_of_two = ClassIndex(y).shares_of(np.array([0, 61]))
    assert shares_of_two.tolist() == pytest.approx([60 / 87, 27 / 87])


def test_chunks_change_neither_distance_nor_gradient_and_bound_what_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A token of the toy is 6 floats, a sample 4 tokens. Rows are read as float32.
    sample_bytes = 4 * 6 * 4
    config = AlignConfig(
        epochs=3, learning_rate=1e-2, samples_per_class=20, clip=0.0, optimizer="sgd"
    )
    split = toy_split(90)

    def align_in_chunks(
        chunk_bytes: int, x: Rows
    ) -> tuple[list[float | None], CrossModalModel, list[int]]:
        """Return the distance of each epoch, the model, and the sizes of chunks."""
        sizes: list[int] = []

        def record_size(_: nn.Module, inputs: tuple[Tensor], __: Tensor) -> None:
            (chunk,) = inputs
            sizes.append(len(chunk))

        monkeypatch.setitem(align.CHUNK_BYTES, "cpu", chunk_bytes)
        model = toy_model()
        loop = AlignLoop(
            model, x, split.y, CLASSES, config, fit_mmd(), seed=0, device=CPU
        )
        model.embedder.register_forward_hook(record_size)
        return [loop.step().distance for _ in range(3)], model, sizes

    recording = Recording(split.x[:].astype(np.float64))
    expected, expected_model, sizes = align_in_chunks(10**6, split.x)
    distances, model, chunk_sizes = align_in_chunks(7 * sample_bytes, recording)
    assert max(sizes) == 60
    assert max(chunk_sizes) == 7
    assert max(map(len, recording.read)) == 7
    assert distances == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(
        copy_of(model), copy_of(expected_model), rtol=1e-4, atol=1e-6
    )


FALLING = [100.0 * 0.8**epoch for epoch in range(40)]


@pytest.mark.parametrize(
    ("distances", "epochs", "patience", "at_each_rate", "plateaued"),
    [
        (FALLING, 12, 2, [8, 4], False),
        # A plateau cuts each rate short, and the last one ends the stage.
        ([5.0] * 40, 30, 2, [4, 4], True),
        # The distance falls again at the lower rate.
        ([5.0] * 4 + FALLING[:10] + [2.0] * 40, 60, 2, [4, 14], True),
        ([5.0] * 40, 9, 0, [6, 3], False),
    ],
)
def test_a_plateau_ends_a_rate_and_the_last_one_the_stage(
    distances: list[float],
    epochs: int,
    patience: int,
    at_each_rate: list[int],
    plateaued: bool,
) -> None:
    distance = Scripted(distances)
    loop = scripted_loop(
        AlignConfig(epochs=epochs, patience=patience, tolerance=0.01), distance
    )
    rates = []
    while not loop.done:
        assert not loop.plateaued
        assert loop.distance_after is None
        rates.append(loop.step().learning_rate)
        # Each epoch calls the distance; the end of the stage measures it once more.
        num_calls = len(rates) + 1 if loop.done else len(rates)
        assert len(distance.calls) == num_calls
    at_high_rate, at_low_rate = at_each_rate
    assert rates == pytest.approx([0.03] * at_high_rate + [0.003] * at_low_rate)
    assert loop.epoch == sum(at_each_rate)
    assert loop.plateaued == plateaued
    assert loop.distance_after is not None


def test_notes_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    diagnoses = [
        Diagnosis(notes=("class 3 left out",)),
        Diagnosis(
            notes=("class 3 left out", "solved in chunks"), converged=False, error=0.25
        ),
        Diagnosis(converged=False, error=0.5),  # as a ladder of fixed length ends
    ]
    config = AlignConfig(epochs=3, samples_per_class=10)
    loop = scripted_loop(config, Scripted(diagnoses=diagnoses))
    for _ in range(3):
        loop.step()
    assert loop.notes == ("class 3 left out", "solved in chunks")
    assert len(caplog.records) == 2
    resumed = scripted_loop(config, Scripted())
    resumed.load_state_dict(loop.state_dict())
    assert resumed.notes == loop.notes


def test_a_step_moves_tokens_by_the_same_share_whatever_their_fan_in() -> None:
    for fan_in in (1, 14, 196):
        embedder = nn.Linear(fan_in, 32)
        weights, bias = relative_steps(embedder)
        (weight_parameter,) = weights.parameters
        (bias_parameter,) = bias.parameters
        assert weight_parameter is embedder.weight
        assert bias_parameter is embedder.bias
        token_rms = float(embedder.weight.detach().square().mean().sqrt()) * fan_in**0.5
        # Inputs that move together, and an Adam step of the same sign on every weight.
        assert weights.scale * fan_in == pytest.approx(token_rms, rel=1e-5)
        assert bias.scale == pytest.approx(token_rms, rel=1e-5)
    # Zeros, of which a share would be nothing, can still move.
    ones, zeros = relative_steps(nn.LayerNorm(8))
    assert ones.scale == pytest.approx(1.0)
    assert zeros.scale == 1.0


def test_errors_of_a_probe_are_those_of_leaving_each_sample_out() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(40, 3)) * [1.0, 10.0, 0.1]
    targets = features[:, :2] + random.normal(size=(40, 2))
    scaled = features / features.std(axis=0) / 3**0.5

    def squared_errors(penalty: float) -> np.ndarray:
        """Return the error of each sample by a regression on all other samples."""
        errors = np.zeros(40)
        for index in range(40):
            rows = np.delete(np.arange(40), index)
            ridge = Ridge(penalty).fit(scaled[rows], targets[rows])
            (predicted,) = ridge.predict(scaled[[index]])
            errors[index] = np.square(predicted - targets[index]).sum()
        return errors

    best_errors = min(map(squared_errors, PENALTIES), key=np.mean)
    variance = np.square(targets - targets.mean(axis=0)).sum(axis=1).mean()
    errors = ridge_errors(torch.from_numpy(features), torch.from_numpy(targets))
    expected = best_errors / variance
    np.testing.assert_allclose(errors, expected, rtol=1e-6)


def test_neither_units_nor_constant_features_nor_constant_targets_matter() -> None:
    random = np.random.default_rng(1)
    features = torch.from_numpy(random.normal(size=(30, 3)))
    targets = torch.from_numpy(random.normal(size=(30, 1)))
    errors = ridge_errors(features, targets)
    scales = torch.tensor([1.0, 1e3, 1e-3])
    offsets = torch.tensor([5.0, 0.0, -2.0])
    in_other_units = features * scales + offsets
    torch.testing.assert_close(ridge_errors(in_other_units, targets), errors)
    with_constant = torch.cat([features, torch.full((30, 1), 7.0)], dim=1)
    assert bool(torch.isfinite(ridge_errors(with_constant, targets)).all())
    constant_targets = torch.ones(30, 3).double()
    without_error = torch.zeros(30).double()
    torch.testing.assert_close(ridge_errors(features, constant_targets), without_error)


def test_targets_of_every_kind_become_numbers() -> None:
    indices = np.array([0, 2, 3])
    first_split = (np.array([4, 0, 9, 4]), indices)
    second_split = (np.array([0, 9]), np.array([0]))
    # Classes that do not occur have no column.
    classes = encode_targets([first_split, second_split], Target("classes", size=10))
    assert classes.tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    scalars = encode_targets([(np.arange(4.0), indices)], Target("scalar"))
    assert scalars.tolist() == [[0], [2], [3]]
    one_hot = np.eye(4, dtype=np.float32)
    labels = encode_targets([(one_hot, indices)], Target("labels", size=4))
    assert labels.tolist() == one_hot[indices].tolist()
    field = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    fields = encode_targets([(field, indices)], Target("dense", shape=(2, 3)))
    assert fields.tolist() == field[indices].reshape(3, 6).tolist()
    large = np.ones((4, 2, 100, 100), dtype=np.float32)
    large_fields = Target("dense", shape=(2, 100, 100))
    sketches = encode_targets([(large, indices)], large_fields)
    assert sketches.shape == (3, 4096)


def test_a_split_without_chosen_samples_adds_no_targets() -> None:
    targets = np.arange(4.0)
    none = np.array([], dtype=np.int64)
    parts = [(targets, none), (targets, np.array([1, 3]))]
    assert encode_targets(parts, Target("scalar")).tolist() == [[1.0], [3.0]]


def test_a_probe_reads_a_fixed_random_sample_of_all_splits_in_evaluation_mode() -> None:
    splits = [toy_split(2 * NUM_SAMPLES), toy_split(30, seed=1)]
    model = toy_model(dropout=0.5).train()
    probe = Probe(model, splits, CLASSES, seed=0, device=CPU)
    errors = probe()
    assert errors.shape == (NUM_SAMPLES,)
    assert torch.equal(probe(), errors)
    assert model.training
    assert errors.mean() < 0.5  # the classes differ in their mean
    assert not torch.equal(Probe(model, splits, CLASSES, seed=1, device=CPU)(), errors)
    split = toy_split(40)
    small_splits = [split, toy_split(30, seed=1)]
    assert Probe(model, small_splits, CLASSES, seed=0, device=CPU)().shape == (70,)
    # A group is probed once.
    grouped = Split(split.x, split.y, group=np.arange(40) // 4)
    assert Probe(model, [grouped], CLASSES, seed=0, device=CPU)().shape == (10,)


def test_a_probe_of_features_that_are_not_finite_ends_the_trial() -> None:
    split = toy_split(20)
    x = split.x[:].copy()
    x[3] = np.nan
    probe = Probe(toy_model(), [Split(x, split.y)], CLASSES, seed=0, device=CPU)
    message = r"features \(20, 6\) of a probe are not finite"
    with pytest.raises(NotFiniteError, match=message):
        probe()
