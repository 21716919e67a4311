import pytest

from orca_ray.data.rows import Target, TargetKind


@pytest.mark.parametrize(
    ("target", "shape", "num_outputs"),
    [
        (Target("classes", size=10), (10,), 10),
        (Target("labels", size=4), (4,), 4),
        (Target("scalar"), (), 1),
        (Target("dense", shape=(3, 16)), (3, 16), 48),
    ],
)
def test_shapes_follow_the_kind(target: Target, shape: tuple[int, ...], num_outputs: int) -> None:
    assert target.output_shape == shape
    assert target.num_outputs == num_outputs


@pytest.mark.parametrize(("kind", "size"), [("dense", 1), ("classes", -1), ("labels", 0)])
def test_impossible_targets_are_refused(kind: TargetKind, size: int) -> None:
    with pytest.raises(ValueError, match="target"):
        Target(kind, size=size)
