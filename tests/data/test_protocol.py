import numpy as np
import pytest

from orca_ray.data.protocol import under_protocol
from orca_ray.tasks.registry import get_task


def test_held_out_leaves_the_splits_alone() -> None:
    data = get_task("pocket/wdbc").prepare()
    assert under_protocol(data, "held-out") is data


@pytest.mark.parametrize("name", ["pocket/wdbc", "pocket/burgers16"])
def test_paper_trains_on_all_but_test_and_selects_on_test(name: str) -> None:
    data = get_task(name).prepare()
    paper = under_protocol(data, "paper")
    assert len(paper.train.y) == len(data.train.y) + len(data.validation.y)
    np.testing.assert_array_equal(paper.train.x[len(data.train.x) :], data.validation.x)
    np.testing.assert_array_equal(paper.validation.y, data.test.y)
    assert paper.fingerprint == data.fingerprint
