"""A body fed its own stem's tokens is the pretrained model: for every family, at any
depth and image size.
"""

import math
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
from orca_ray.models.families.vision import SwinBody
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
    """By default, every model type is compared with its library, and four have all the
    tests.
    """

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

    plain = str(tiny("vit"))
    copied = str(shutil.copytree(tiny("vit"), tmp_path / "copy"))
    processor = ViTImageProcessor(
        do_resize=False, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    processor.save_pretrained(copied)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    processed = processor(list(pixels), return_tensors="pt")["pixel_values"]
    for body, expected in (
        (copied, processed),
        (plain, 2 * images - 1),
    ):  # by default, mean and deviation 0.5
        stem = load_body(body).stem
        assert isinstance(stem, ImageStem)
        found = embed_images(SampleRequest(stem, body, 32, 1, 5, 0), images)
        torch.testing.assert_close(
            found, stem.embed_images(expected).mean(1), atol=1e-5, rtol=1e-5
        )
    (told,) = caplog.messages
    assert "no image_mean and image_std in a preprocessor_config.json" in told
    assert "usual for its class, mean [0.5, 0.5, 0.5]" in told
    (Path(copied) / "preprocessor_config.json").write_text(
        '{"do_normalize": false, "image_mean": [0.5, 0.5, 0.5]}'
    )
    weights._pristine[True].clear()
    stem = load_body(copied).stem
    assert isinstance(stem, ImageStem)
    assert (stem.image_mean.flatten().tolist(), stem.image_std.flatten().tolist()) == (
        [0, 0, 0],
        [1, 1, 1],
    )


@torch.no_grad()
def test_swin_shrinks_windows_to_small_grids(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    """A window of 2 keeps the position biases that its four places had inside the
    pretrained window of 4.
    """
    loaded = load_body(str(tiny("swin")))
    assert isinstance(loaded.body, SwinBody)
    before = (
        loaded.body.encoder.layers[1].blocks[0].attention.relative_position_bias()[0]
    )
    loaded.body.fit_grid((4, 4))
    assert [
        [block.shift_size for block in stage.blocks]
        for stage in loaded.body.encoder.layers
    ] == [[0, 0], [0] * 4]
    assert [stage.blocks[0].window_size for stage in loaded.body.encoder.layers] == [
        4,
        2,
    ]
    after = (
        loaded.body.encoder.layers[1].blocks[0].attention.relative_position_bias()[0]
    )
    corner = torch.tensor([0, 1, 4, 5])
    assert torch.equal(after, before[:, corner][:, :, corner])
    features = loaded.body(random_tensor(3, 16, loaded.stem.width), (4, 4))
    assert features.shape == (3, 4, 32)
    assert features.isfinite().all()


@torch.no_grad()
def test_stochastic_depth_is_the_bodys_own_or_none(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    loaded = load_body(str(tiny("swin")))
    set_dropout(loaded.body, 0.0)
    loaded.body.train()
    tokens = random_tensor(32, 16, loaded.stem.width)
    for on in (True, False):
        assert has_stochastic_depth(loaded.body) == on
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            spread = float(
                (loaded.body(tokens, (4, 4)) - loaded.body(tokens, (4, 4))).abs().max()
            )
        assert spread > 0.01 if on else spread == 0
        switch_stochastic_depth_off(loaded.body)


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


def test_mpnet_attends_in_one_kernel_with_the_same_gradient(
    tiny: TinyDirectory, random_tensor: RandomTensor
) -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

    loaded = load_body(str(tiny("mpnet")))
    body = loaded.body.eval()
    tokens = random_tensor(2, 9, loaded.stem.width)
    with mock.patch.object(
        F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention
    ) as kernel:
        fused = torch.autograd.grad(
            body(tokens).square().sum(), list(body.parameters())
        )
    assert kernel.call_count == sum(
        isinstance(part, MPNetSelfAttention) for part in body.modules()
    )
    for part in body.modules():
        if isinstance(part, MPNetSelfAttention):
            part.__class__ = MPNetSelfAttention
    eager = torch.autograd.grad(body(tokens).square().sum(), list(body.parameters()))
    for one, other in zip(fused, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


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
    torch.testing.assert_close(
        model(x), model.head.output(model.body(model.embed(x))[:, -1])
    )
    assert adapted(name, Target("dense", shape=(30,)))(x).shape == (4, 30)


@torch.no_grad()
def test_new_tokens_have_the_norm_of_the_bodys_own(
    name: str, random_tensor: RandomTensor
) -> None:
    stem = load_body(name).stem
    assert isinstance(stem, TextStem)
    own: Tensor = stem.word_embeddings
    if stem.places is not None:
        own = torch.stack(
            [word + stem.places[number % 64] for number, word in enumerate(own)]
        )
    tokens = adapted(name, Target("scalar")).embed(random_tensor(4, 2, 30))
    torch.testing.assert_close(
        tokens.norm(dim=2), torch.full((4, 30), float(own.norm(dim=1).mean()))
    )
    assert (stem.places is None) == ("gpt2" not in name)
    assert isinstance(stem.norm, nn.LayerNorm)
    torch.testing.assert_close(
        stem.norm.weight,
        torch.full((24,), float(own.norm(dim=1).mean()) / math.sqrt(24)),
    )
