"""The conformance suite of body families.

It tests that a body and its Hugging Face model compute equal features of tokens.

Suffixes of tensor names give shapes: B batch, S tokens, C channels, H and W sides, F
features.
"""

import inspect
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.body import (
    ImageStem,
    TextStem,
    set_dropout,
    switch_stochastic_depth_off,
)
from orca_ray.models.crossmodal import build_model
from orca_ray.models.family import family_of
from orca_ray.models.hugging_face import read_config
from orca_ray.models.modality import EmbedderConfig
from orca_ray.models.weights import LoadedBody, body_modality, check_body, load_body
from orca_ray.testing.suite import Suite, made_once


class FamilySuite(Suite, ABC):
    """Test class of families of Hugging Face models.

    The models are small and random; `save` makes them. `names` are any names of models,
    e.g. model types; several may belong to one family.
    """

    @abstractmethod
    def save(self, name: str, directory: Path) -> None:
        """Save a random model by ``save_pretrained`` in ``directory``.

        It has three layers or more. A text model with learned positions needs 64
        positions or more.
        """

    def expected(self, model: Any, inputs: Tensor) -> Tensor:
        """Return the last hidden state [B, S, F] of the Hugging Face model.

        ``inputs`` are token ids [B, S] or images [B, C, H, W]. By default, the model's
        positions are interpolated to the size of the images if the model can do that.
        """
        named = {}
        if (
            inputs.ndim == 4
            and "interpolate_pos_encoding"
            in inspect.signature(model.forward).parameters
        ):
            named = {"interpolate_pos_encoding": True}
        features: Tensor = model(inputs, **named).last_hidden_state
        return features

    @pytest.fixture
    def directory(self, name: str, tmp_path_factory: pytest.TempPathFactory) -> str:
        """Return the directory with the model that `save` has saved for ``name``."""

        def save(directory: Path) -> None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                self.save(name, directory)

        return str(made_once((type(self), name), tmp_path_factory, save))

    def test_a_configuration_is_recognised_without_its_weights(
        self, name: str, directory: str
    ) -> None:
        check_body(directory)
        family = family_of(read_config(directory))
        assert (
            load_body(directory).body.modality
            == body_modality(directory)
            == family.modality
        )

    @torch.no_grad()
    def test_the_body_is_the_model(self, name: str, directory: str) -> None:
        from transformers import AutoModel

        model = AutoModel.from_pretrained(directory).eval()
        for size in (0, 1):
            loaded = load_body(directory)
            inputs = samples(loaded)[size]
            if isinstance(loaded.stem, ImageStem):
                loaded.body.fit_grid(grid_of(inputs, loaded.stem))
            expected = self.expected(model, inputs)
            torch.testing.assert_close(
                features(loaded, inputs), expected, atol=1e-5, rtol=1e-5
            )
            assert expected.std() > 0.1
            assert expected.shape[2] == loaded.body.feature_width

    @torch.no_grad()
    def test_fewer_layers_are_the_first_ones(self, name: str, directory: str) -> None:
        config = read_config(directory)
        depths = family_of(config).depths(config)
        full = load_body(directory)
        shallow = load_body(f"{directory}:layers={sum(depths) - 1}")
        whole, kept = (loaded.body.state_dict() for loaded in (full, shallow))
        assert 0 < len(kept) < len(whole)
        if len(depths) == 1:
            assert all(torch.equal(whole[part], value) for part, value in kept.items())
        inputs = samples(full)[0]
        assert not torch.allclose(
            features(full, inputs), features(shallow, inputs), atol=1e-3
        )
        with pytest.raises(UserError, match="layers"):
            check_body(f"{directory}:layers={sum(depths) + 1}")

    @torch.no_grad()
    def test_it_keeps_no_state_between_calls_and_leaves_the_random_state_alone(
        self, name: str, directory: str
    ) -> None:
        before = torch.get_rng_state()
        loaded = load_body(directory)
        large, small = samples(loaded)
        first = features(loaded, large)
        features(loaded, small)
        assert torch.equal(features(loaded, large), first)
        assert torch.equal(torch.get_rng_state(), before)

    def test_every_parameter_of_the_body_gets_a_gradient(
        self, name: str, directory: str
    ) -> None:
        loaded = load_body(directory)
        features(loaded, samples(loaded)[0]).square().sum().backward()  # type: ignore[no-untyped-call]
        assert [
            part for part, value in loaded.body.named_parameters() if value.grad is None
        ] == []

    @torch.no_grad()
    def test_dropout_is_what_is_set(self, name: str, directory: str) -> None:
        loaded = load_body(directory)
        switch_stochastic_depth_off(loaded.body)
        inputs = samples(loaded)[0]
        for probability, least, most in ((0.0, 0.0, 0.0), (0.5, 0.01, float("inf"))):
            set_dropout(loaded.body, probability)
            loaded.body.train()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                spread = float(
                    (features(loaded, inputs) - features(loaded, inputs)).abs().max()
                )
            assert least <= spread <= most

    def test_it_adapts_to_other_inputs(self, name: str, directory: str) -> None:
        shape = (2, 30) if body_modality(directory) == "sequence" else (2, 20, 24)
        model = build_model(
            input_shape=shape,
            target=Target("classes", size=3),
            body=directory,
            pretrained=True,
            config=EmbedderConfig(sequence_length=10, image_size=32),
            seed=0,
        )
        predictions = model(
            torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
        )
        assert predictions.shape == (4, 3)
        predictions.square().sum().backward()
        assert all(
            parameter.grad is not None
            for parameter in model.embedder.parameters()
            if parameter.requires_grad
        )


def samples(loaded: LoadedBody) -> tuple[Tensor, Tensor]:
    """Return two inputs of different size.

    They are token ids [2, S], or images [2, 3, H, W], the first of the native size. A
    body without learned positions has no native size; its first images have 16 x 16
    patches.
    """
    if isinstance(loaded.stem, TextStem):
        ids = torch.arange(5, 5 + 2 * 60).view(2, 60) % len(loaded.stem.word_embeddings)
        return ids, ids[:, :20]
    assert isinstance(loaded.stem, ImageStem)
    side = loaded.stem.patch_size
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        (16, 16) if loaded.stem.places is None else loaded.stem.places.shape[:2]
    )
    native = (rows * side, columns * side)
    other = (rows // 2 * side, 3 * columns // 2 * side)
    return torch.randn(2, 3, *native, generator=generator), torch.randn(
        2, 3, *other, generator=generator
    )


def features(loaded: LoadedBody, inputs: Tensor) -> Tensor:
    """Return the body's features [B, S, F] of token ids or images.

    ``inputs`` are those of `samples`; the body's stem embeds them.
    """
    if isinstance(loaded.stem, TextStem):
        of_text: Tensor = loaded.body(loaded.stem.embed_raw(inputs))
        return of_text
    assert isinstance(loaded.stem, ImageStem)
    of_images: Tensor = loaded.body(
        loaded.stem.embed_images(inputs), grid_of(inputs, loaded.stem)
    )
    return of_images


def grid_of(images: Tensor, stem: ImageStem) -> tuple[int, int]:
    """Return the number of rows and columns of patches of images [B, C, H, W]."""
    return images.shape[2] // stem.patch_size, images.shape[3] // stem.patch_size
