"""Augmentations: what they do to an image, and what they draw."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from orca_ray.errors import UserError
from orca_ray.tasks.augmentations import CropFlip, all_augmentations, get_augmentation

UNCHANGED = [4, 4, 0]


def images(num: int, channels: int = 3, height: int = 6, width: int = 9, seed: int = 0) -> Tensor:
    return torch.randn(num, channels, height, width, generator=torch.Generator().manual_seed(seed))


def draw(name: str, num: int, seed: int = 0) -> Tensor:
    return all_augmentations()[name].draw(num, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", all_augmentations())
def test_every_augmentation_changes_samples_one_by_one_as_its_generator_draws(name: str) -> None:
    augmentation = all_augmentations()[name]
    x, state = images(20), torch.get_rng_state()
    before, drawn = x.clone(), draw(name, 20)
    assert torch.equal(drawn, draw(name, 20))
    assert not torch.equal(drawn, draw(name, 20, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    changed = augmentation.apply(x, drawn)
    assert (changed.shape, changed.dtype) == (x.shape, x.dtype)
    assert torch.equal(x, before)  # it may be the data set itself
    assert not torch.equal(changed, x)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    for part in torch.split(order, 7):
        assert torch.equal(augmentation.apply(x[part], drawn[part]), changed[part])
    assert augmentation.name == name
    assert len(augmentation.definition) > 20


@given(
    st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.booleans(), st.integers(0, 10_000)
)
def test_it_is_a_window_of_the_padded_image(
    channels: int, height: int, width: int, margin: int, one_for_all: bool, seed: int
) -> None:
    padding = (0.5,) if one_for_all else tuple(float(c) for c in range(channels))
    crop_flip = CropFlip("any", "any", padding, margin)
    x = images(4, channels, height, width, seed)
    drawn = crop_flip.draw(4, torch.Generator().manual_seed(seed))
    changed = crop_flip.apply(x, drawn).numpy()
    for image, (top, left, mirrored), ours in zip(x.numpy(), drawn.tolist(), changed, strict=True):
        expected = []
        for channel, border in zip(image, padding * channels if one_for_all else padding, strict=False):
            padded = np.pad(channel, margin, constant_values=border)
            window = padded[top : top + height, left : left + width]
            expected.append(window[:, ::-1] if mirrored else window)
        np.testing.assert_array_equal(ours, np.stack(expected))


def test_all_windows_are_as_likely() -> None:
    drawn = draw("crop_flip", 20_000).numpy()
    assert drawn.shape == (20_000, 3)
    for column, num in ((0, 9), (1, 9), (2, 2)):
        counts = np.bincount(drawn[:, column], minlength=num)
        assert len(counts) == num
        np.testing.assert_allclose(counts / 20_000, 1 / num, atol=0.012)
    # Neither coordinate tells of another.
    assert np.abs(np.corrcoef(drawn.T) - np.eye(3)).max() < 0.03


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 8)])
def test_inputs_that_are_no_such_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"crop_flip_cifar100 takes images \[B, 3, H, W\]"):
        all_augmentations()["crop_flip_cifar100"].apply(torch.zeros(shape), torch.tensor([UNCHANGED] * 2))


def test_no_name_is_no_augmentation_and_a_misspelt_one_gets_the_nearest() -> None:
    assert get_augmentation("") is None
    with pytest.raises(UserError, match=r"unknown augmentation 'crop_flp'\. Did you mean 'crop_flip'"):
        get_augmentation("crop_flp")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", all_augmentations())
def test_devices_agree(name: str) -> None:
    x, drawn, augmentation = images(20), draw(name, 20), all_augmentations()[name]
    assert torch.equal(augmentation.apply(x.cuda(), drawn.cuda()).cpu(), augmentation.apply(x, drawn))
