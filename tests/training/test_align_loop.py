"""The align loop: what it changes, how it draws, and exact resume."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from orca_ray.alignment.distance import Distance, get_distance
from orca_ray.alignment.features import SourceFeatures
from orca_ray.data.target import Target
from orca_ray.errors import UserError
from orca_ray.models.crossmodal import CrossModalModel
from orca_ray.training import checkpoint
from orca_ray.training.align import AlignConfig, AlignEpoch, AlignLoop, balanced_draw, relative_steps
from orca_ray.training.errors import NotFiniteError

from .training_toys import CLASSES, CPU, copy_of, same, toy_model, toy_split


def fitted(name: str = "mmd") -> Distance:
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(60) % 4
    x = 0.3 * torch.randn(60, 6, generator=generator) + torch.nn.functional.one_hot(y, 6) - 0.5
    return get_distance(name).fit(SourceFeatures(x=x, y=y, name="toy"))


def make_loop(model: CrossModalModel, config: AlignConfig, seed: int = 0, distance: str = "mmd") -> AlignLoop:
    split = toy_split(90)
    return AlignLoop(model, split.x, split.y, CLASSES, config, fitted(distance), seed=seed, device=CPU)


def curve(epoch: AlignEpoch) -> tuple[int, float, float]:
    return epoch.epoch, epoch.distance, epoch.learning_rate


@pytest.mark.parametrize("distance", ["otdd", "mmd", "l2"])
def test_aligning_reduces_the_distance_and_changes_the_embedder_only(distance: str) -> None:
    model = toy_model()
    before = copy_of(model)
    loop = make_loop(model, AlignConfig(epochs=30, learning_rate=1e-2, samples=60), distance=distance)
    while not loop.done:
        loop.step()
    assert loop.distance_before is not None
    assert loop.distance_after is not None
    assert loop.distance_after < 0.8 * loop.distance_before
    after = copy_of(model)
    assert {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])} == {"embedder"}


def test_requires_grad_is_left_as_found() -> None:
    model = toy_model()
    model.embedder.requires_grad_(False)
    before = copy_of(model.embedder)
    loop = make_loop(model, AlignConfig(epochs=1, learning_rate=1e-2))
    loop.step()
    assert not same(before, copy_of(model.embedder))
    assert not any(parameter.requires_grad for parameter in model.embedder.parameters())
    assert all(parameter.requires_grad for parameter in model.body.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_learning_rate_falls_by_thirds() -> None:
    loop = make_loop(toy_model(), AlignConfig(epochs=6, learning_rate=1.0e-2))
    assert [loop.step().learning_rate for _ in range(6)] == pytest.approx([1e-2, 1e-2, 2e-3, 2e-3, 4e-4, 4e-4])


@pytest.mark.parametrize("interrupted_after", [0, 1, 3, 4])
def test_resume_is_exact(interrupted_after: int, tmp_path: Path) -> None:
    config = AlignConfig(epochs=4, learning_rate=1e-2, samples=20)
    whole_model = toy_model(dropout=0.3)
    whole = make_loop(whole_model, config)
    expected = [curve(whole.step()) for _ in range(4)]
    assert len({distance for _, distance, _ in expected}) == 4

    first = make_loop(toy_model(dropout=0.3), config)
    curves = [curve(first.step()) for _ in range(interrupted_after)]
    checkpoint.save(tmp_path / "state", first.state_dict())
    torch.rand(3)
    state = checkpoint.load(tmp_path / "state")
    assert state is not None
    model = toy_model(dropout=0.3, seed=0)
    with torch.no_grad():
        for parameter in model.embedder.parameters():
            parameter.add_(1.0)  # must come from the checkpoint
    resumed = make_loop(model, config)
    resumed.load_state_dict(state)
    curves += [curve(resumed.step()) for _ in range(4 - interrupted_after)]
    assert curves == expected
    assert same(copy_of(model), copy_of(whole_model))
    assert (resumed.distance_before, resumed.distance_after) == (whole.distance_before, whole.distance_after)


def test_dense_targets_get_pseudo_classes() -> None:
    split = toy_split(90)
    y = np.outer(split.y, np.ones(16)).reshape(90, 4, 4).astype(np.float32) + np.float32(0.01) * split.x[:, :1, :4]
    seen: list[Tensor] = []

    def distance(features: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return features.square().sum()

    target = Target("dense", shape=(4, 4))
    AlignLoop(toy_model(), split.x, y, target, AlignConfig(epochs=1), distance, seed=0, device=CPU).step()
    assert all(labels.dtype == torch.int64 and labels.shape == (90,) for labels in seen)
    for value in range(3):
        others = set(seen[0][torch.from_numpy(split.y != value)].tolist())
        assert not others & set(seen[0][torch.from_numpy(split.y == value)].tolist())


def test_features_that_are_not_finite() -> None:
    split = toy_split(90)
    split.x[3] = np.inf
    loop = AlignLoop(toy_model(), split.x, split.y, CLASSES, AlignConfig(), fitted(), seed=0, device=CPU)
    with pytest.raises(NotFiniteError, match="features"):
        loop.step()


def test_distance_that_is_not_finite() -> None:
    split = toy_split(90)

    def distance(features: Tensor, labels: Tensor) -> Tensor:
        return features.sum() * float("nan")

    loop = AlignLoop(toy_model(), split.x, split.y, CLASSES, AlignConfig(), distance, seed=0, device=CPU)
    with pytest.raises(NotFiniteError, match="distance is nan"):
        loop.step()


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(-2, 4), min_size=1, max_size=60),
    num_samples=st.integers(2, 70),
    seed=st.integers(0, 5),
)
def test_draws_are_balanced(labels: list[int], num_samples: int, seed: int) -> None:
    array = np.array(labels)
    drawn = balanced_draw(array, num_samples, torch.Generator().manual_seed(seed))
    assert len(drawn) == min(num_samples, len(array)) == len(set(drawn.tolist()))
    taken = {label: int((array[drawn] == label).sum()) for label in set(labels)}
    for label, count in taken.items():
        if count < labels.count(label):  # a class with samples to spare has no fewer than any other, but for rounding
            assert count >= max(taken.values()) - 1


def test_draws_differ_by_seed_and_epoch() -> None:
    labels = np.arange(100) % 5
    draws = {tuple(balanced_draw(labels, 20, torch.Generator().manual_seed(seed))) for seed in range(10)}
    assert len(draws) == 10


@pytest.mark.parametrize(
    "option",
    [
        {"distance": "ottd"},
        {"source": "vocabularies"},
        {"epochs": -1},
        {"learning_rate": 0.0},
        {"optimizer": "adamm"},
        {"samples": 1},
        {"source_samples": 0},
        {"clip": -1.0},
        {"weight_decay": float("inf")},
    ],
    ids=str,
)
def test_bad_options_are_refused_by_name(option: dict[str, float | str]) -> None:
    with pytest.raises(UserError, match=f"align.{next(iter(option))}"):
        AlignConfig(**option)  # type: ignore[arg-type]


def test_a_step_moves_tokens_by_the_same_share_whatever_their_fan_in() -> None:
    for fan_in in (1, 14, 196):
        embedder = nn.Linear(fan_in, 32)
        groups = relative_steps(embedder)
        assert {id(p) for group in groups for p in group.parameters} == {id(p) for p in embedder.parameters()}
        weights, bias = groups
        token_rms = float(embedder.weight.square().mean().sqrt()) * fan_in**0.5
        # Inputs that move together, and an Adam step of the same sign on every weight.
        assert weights.scale * fan_in == pytest.approx(token_rms, rel=1e-5)
        assert bias.scale == pytest.approx(token_rms, rel=1e-5)


def test_a_parameter_of_zeros_can_still_move() -> None:
    norm = nn.LayerNorm(8)
    assert [group.scale for group in relative_steps(norm)] == [pytest.approx(1.0), 1.0]
