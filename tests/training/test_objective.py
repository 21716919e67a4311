"""Decoding, losses from training targets, seeds, and the parts of the work that ranks get (more in tests/sweep)."""

import numpy as np
import pytest
import torch

from orca_ray.data.rows import Target
from orca_ray.training.evaluate import Objective
from orca_ray.training.numerics import derive_seed, isolated_rng, make_generator
from orca_ray.training.ranks import Ranks

CPU = torch.device("cpu")


def test_dense_outputs_are_decoded_and_logits_are_not() -> None:
    for mean in (np.array(2.0), np.full((4, 4), 2.0)):
        objective = Objective(Target("dense", shape=(4, 4)), "mse", "rmse", mean, mean * 0 + 3.0)
        decoded = objective.decoder(CPU)(torch.ones(5, 4, 4))
        assert decoded.dtype == torch.float32
        assert torch.equal(decoded, torch.full((5, 4, 4), 5.0))
    objective = Objective(Target("classes", size=3), "cross_entropy", "error", np.array(2.0), np.array(3.0))
    output = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(objective.decoder(CPU)(output), output)


def test_decoded_scores_are_in_the_targets_units() -> None:
    objective = Objective(Target("scalar"), "mse", "rmse", np.array(10.0), np.array(2.0))
    outputs = torch.tensor([0.0, 1.0])
    decoded = objective.decoder(CPU)(outputs).numpy()
    y = np.array([10.0, 14.0], dtype=np.float32)
    assert objective.score(decoded, y) == pytest.approx(np.sqrt(2.0))
    assert float(objective.training_loss(y, CPU)(outputs, torch.from_numpy(y))) == pytest.approx(2.0)


def test_class_weights_come_from_the_training_targets() -> None:
    objective = Objective(Target("classes", size=2), "weighted_cross_entropy", "error")
    loss = objective.training_loss(np.array([0, 0, 0, 1]), CPU)
    each = [float(loss(torch.zeros(1, 2), torch.tensor([k]))) for k in (0, 1)]
    assert each[1] / each[0] == pytest.approx(3)


def test_seeds_are_fixed_for_all_time() -> None:
    """A changed derivation would change every published score."""
    assert derive_seed(0, "order", 1) == 8024286156118006313
    places = [(0, ("a", 1)), (0, ("a", 2)), (0, ("b", 1)), (1, ("a", 1)), (11, ("a",)), (1, ("1", "a"))]
    assert len({derive_seed(seed, *path) for seed, path in places}) == len(places)
    assert all(0 <= derive_seed(seed) < 2**63 for seed in range(50))


def test_isolated_rng() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with isolated_rng(8, CPU):
        first = torch.rand(4)
    assert torch.equal(torch.rand(2), expected)
    with isolated_rng(8, CPU):
        assert torch.equal(torch.rand(4), first)
    assert torch.equal(torch.rand(3, generator=make_generator(1, "x")), torch.rand(3, generator=make_generator(1, "x")))


def test_shares_are_even_and_cover_everything_in_order() -> None:
    for size, count in ((1, 7), (2, 64), (3, 64), (3, 7), (8, 7), (2, 0)):
        shares = [range(count)[Ranks(rank, size).share(count)] for rank in range(size)]
        assert [item for share in shares for item in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert len(shares[0]) == max(map(len, shares)), "the record's micro-batch is the first rank's"


def test_ranks_draw_different_random_numbers() -> None:
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for rank in (1, 2, 1):
            Ranks(rank, 3).seed(5, 7)
            drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[2] != drawn[1]
