"""A body fed its own stem's tokens is the pretrained model.

This holds for every family, at any depth and image size.
"""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orca_ray.alignment.source import SampleRequest, embed_images
from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models import weights
from orca_ray.models.body import (
    ImageStem,
    TextStem,
    has_stochastic_depth,
    set_dropout,
    switch_stochastic_depth_off,
)
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.models.family import all_families
from orca_ray.models.modality import EmbedderConfig
from orca_ray.models.weights import load_body
from orca_ray.testing import FamilySuite
from tests.models.conftest import (
    DECODERS,
    IMAGE,
    TEXT,
    RandomTensor,
    TinyDirectory,
    sampled,
    save_tiny,
)

pytestmark = pytest.mark.usefixtures("untouched_random_state")


class TestEveryFamily(FamilySuite):
    """Every model type is compared with its library, and four have all the tests."""

    names = (*TEXT, *IMAGE, *DECODERS)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if metafunc.function.__name__ == "test_the_body_is_the_model":
            super().pytest_generate_tests(metafunc)
        elif "name" in metafunc.fixturenames:
            metafunc.parametrize(
                "name", sampled(self.names, "roberta", "dinov2", "swin", "gpt2")
            )

    def save(self, name: str, directory: Path) -> None:
        save_tiny(name, directory)


def test_no_two_families_list_a_model_type() -> None:
    listed = [
        model_type
        for family in all_families().values()
        for model_type in family.model_types
    ]
    assert len(listed) == len(set(listed))


@torch.no_grad()
def test_images_are_normalised_as_by_the_bodys_own_preprocessor(
    tiny: TinyDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import ViTImageProcessor

    unprocessed = str(tiny("vit"))
    copied = str(shutil.copytree(tiny("vit"), tmp_path / "copy"))
    processor = ViTImageProcessor(
        do_resize=False, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    processor.save_pretrained(copied)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    processed = processor(list(pixels), return_tensors="pt")["pixel_values"]
    # Without a preprocessor, mean and deviation are 0.5.
    for body, pixel_values in ((copied, processed), (unprocessed, 2 * images - 1)):
        stem = load_body(body).stem
        assert isinstance(stem, ImageStem)
        features = embed_images(SampleRequest(stem, body, 32, 1, 5, 0), images)
        expected = stem.embed_images(pixel_values).mean(1)
        torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)
    (warning,) = caplog.messages
    assert "no image_mean and image_std in a preprocessor_config.json" in warning
    assert "usual for its class, mean [0.5, 0.5, 0.5]" in warning
    (Path(copied) / "preprocessor_config.json").write_text(
        '{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5]}'
    )
    weights._cached_bodies[True].clear()
    stem = load_body(copied).stem
    assert isinstance(stem, ImageStem)
    assert stem.image_mean.flatten().tolist() == [0, 0, 0]
    assert stem.image_std.flatten().tolist() == [1, 1, 1]


@torch.no_grad()
def test_stochastic_depth_is_the_bodys_own_or_none(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    loaded = load_body(str(tiny("swin")))
    set_dropout(loaded.body, 0.0)
    loaded.body.train()
    tokens = random_tensor(32, 16, loaded.stem.width)

    def largest_difference() -> float:
        """Return the difference between two passes of the same tokens."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = loaded.body(tokens, (4, 4))
            second = loaded.body(tokens, (4, 4))
        return float((first - second).abs().max())

    assert has_stochastic_depth(loaded.body)
    assert largest_difference() > 0.01
    switch_stochastic_depth_off(loaded.body)
    assert not has_stochastic_depth(loaded.body)
    assert largest_difference() == 0


def test_position_tables_are_whole_and_stretched_beyond_their_length(
    tiny: TinyDirectory,
) -> None:
    for kind in TEXT:
        stem = load_body(str(tiny(kind))).stem
        table = stem.positions((64,))
        longer = stem.positions((127,))
        assert (table is None) == (longer is None) == (kind == "modernbert")
        if table is None or longer is None:
            continue
        assert isinstance(stem, TextStem)
        assert stem.places is not None
        assert len(stem.places) == 64
        torch.testing.assert_close(longer[::2], table, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(longer[1], (table[0] + table[1]) / 2)


def test_models_that_are_no_encoders_are_refused(tmp_path: Path) -> None:
    from transformers import OPTConfig, OPTModel

    sizes = {
        "hidden_size": 8,
        "word_embed_proj_dim": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "ffn_dim": 8,
    }
    with torch.random.fork_rng(devices=[]):
        OPTModel(OPTConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="OPTModel"):
        load_body(str(tmp_path))


@pytest.fixture(params=sampled(DECODERS, "gpt2", "llama", "qwen3"))
def name(request: pytest.FixtureRequest, tiny: TinyDirectory) -> str:
    return str(tiny(request.param))


def adapted(
    name: str, target: Target, length: int = 30, channels: int = 2
) -> CrossModalModel:
    return build_model(
        input_shape=(channels, length),
        target=target,
        body=name,
        pretrained=True,
        seed=0,
        config=EmbedderConfig(sequence_length=length),
    )


@torch.no_grad()
def test_the_last_feature_of_a_causal_body_predicts(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    x = random_tensor(4, 2, 30)
    name = str(tiny("gpt2"))
    model = adapted(name, Target("classes", size=3)).eval()
    assert isinstance(model.head.output, nn.Linear)
    features = model.body(model.embed(x))
    torch.testing.assert_close(model(x), model.head.output(features[:, -1]))
    assert adapted(name, Target("dense", shape=(30,)))(x).shape == (4, 30)


@torch.no_grad()
def test_new_tokens_have_the_norm_of_the_bodys_own(
    name: str, random_tensor: RandomTensor
) -> None:
    stem = load_body(name).stem
    assert isinstance(stem, TextStem)
    body_tokens: Tensor = stem.word_embeddings
    if stem.places is not None:
        body_tokens = torch.stack(
            [word + stem.places[number % 64] for number, word in enumerate(body_tokens)]
        )
    mean_norm = float(body_tokens.norm(dim=1).mean())
    tokens = adapted(name, Target("scalar")).embed(random_tensor(4, 2, 30))
    torch.testing.assert_close(tokens.norm(dim=2), torch.full((4, 30), mean_norm))
    assert (stem.places is None) == ("gpt2" not in name)
    assert isinstance(stem.norm, nn.LayerNorm)
    gain = torch.full((24,), mean_norm / math.sqrt(24))
    torch.testing.assert_close(stem.norm.weight, gain)
