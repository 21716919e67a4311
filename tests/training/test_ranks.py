"""The parts of the work that ranks get; what they do together is in tests/sweep/execution/test_rank_processes.py."""

import numpy as np
import torch
from torch.nn import Parameter

from orca_ray.training.ranks import ALONE, Ranks, disconnect


def test_shares_are_even_and_cover_everything_in_order() -> None:
    for size, count in ((1, 7), (2, 64), (3, 64), (3, 7), (8, 7), (2, 0)):
        shares = [range(count)[Ranks(rank, size).share(count)] for rank in range(size)]
        assert [item for share in shares for item in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert len(shares[0]) == max(map(len, shares)), "the record's micro-batch is the first rank's"


def test_a_process_alone_communicates_with_nobody() -> None:
    parameter, loss, part = Parameter(torch.ones(2)), torch.tensor(3.0), np.ones(2)
    parameter.grad = gradient = torch.ones(2)
    assert ALONE.sum_gradients([parameter], loss) is loss
    assert parameter.grad is gradient
    assert ALONE.joined(part, 2) is part
    ALONE.equalise([parameter])
    state = torch.get_rng_state()
    ALONE.seed(1, 2)
    assert torch.equal(torch.get_rng_state(), state)
    disconnect()


def test_ranks_draw_different_random_numbers() -> None:
    drawn = []
    with torch.random.fork_rng(devices=[]):
        for rank in (1, 2, 1):
            Ranks(rank, 3).seed(5, 7)
            drawn.append(float(torch.rand(())))
    assert drawn[0] == drawn[2] != drawn[1]
