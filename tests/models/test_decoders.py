"""Decoders as bodies: fed its own stem's tokens, each is the pretrained model, and what its features depend on."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orca_ray.data.rows import Target
from orca_ray.errors import UserError
from orca_ray.models.crossmodal import CrossModalModel, build_model
from orca_ray.models.modality import EmbedderConfig
from orca_ray.models.stems import TextStem
from orca_ray.models.weights import LoadedBody, load_body
from tests.models.conftest import TinyDirectory, sampled
from tests.models.tiny import DECODERS, VOCABULARY

pytestmark = pytest.mark.usefixtures("untouched_random_state")
IDS = torch.arange(5, 5 + 2 * 20).view(2, 20) * 7 % VOCABULARY


def features(loaded: LoadedBody, ids: Tensor = IDS) -> Tensor:
    assert isinstance(loaded.stem, TextStem)
    found: Tensor = loaded.body(loaded.stem.embed_raw(ids))
    return found


@pytest.fixture(params=sampled(DECODERS, "gpt2", "llama", "qwen3"))
def name(request: pytest.FixtureRequest, tiny: TinyDirectory) -> str:
    return str(tiny(request.param))


@pytest.fixture
def model(name: str) -> Any:
    """The Hugging Face model itself."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(name).eval()


def adapted(name: str, target: Target, context: Any = "causal", length: int = 30, channels: int = 2) -> CrossModalModel:
    return build_model(
        input_shape=(channels, length), target=target, body=name, pretrained=True, context=context, seed=0,
        config=EmbedderConfig(sequence_length=length),
    )  # fmt: skip


@torch.no_grad()
def test_doubled_keeps_the_second_half_of_two_passages_and_flipped_averages_both_orders(name: str, model: Any) -> None:
    loaded = load_body(name)
    # GPT-2's positions belong to the tokens; rotary ones continue in the second passage.
    repeated, backward = (
        {"position_ids": positions[None]} if "gpt2" in name else {}
        for positions in (torch.arange(20).repeat(2), torch.arange(20).flip(0))
    )
    doubled = model(torch.cat((IDS, IDS), dim=1), **repeated).last_hidden_state[:, 20:]
    flipped = (model(IDS).last_hidden_state + model(IDS.flip(1), **backward).last_hidden_state.flip(1)) / 2
    expectations: dict[Any, Tensor] = {"doubled": doubled, "flipped": flipped}
    for context, expected in expectations.items():
        loaded.body.set_context(context)
        torch.testing.assert_close(features(loaded), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_last_feature_of_a_causal_body_predicts(tiny: TinyDirectory, random_tensor: Callable[..., Tensor]) -> None:
    x = random_tensor(4, 2, 30)
    for context in ("causal", "doubled", "flipped"):
        model = adapted(str(tiny("gpt2")), Target("classes", size=3), context).eval()
        found = model.body(model.embed(x))
        chosen = found[:, -1] if context == "causal" else found.mean(dim=1)
        assert isinstance(model.head.output, nn.Linear)
        torch.testing.assert_close(model(x), model.head.output(chosen))
    assert adapted(str(tiny("gpt2")), Target("dense", shape=(30,)))(x).shape == (4, 30)
    more = adapted(str(tiny("gpt2")), Target("scalar"), "doubled", length=100, channels=1)  # than its 64 positions
    assert more(torch.zeros(2, 1, 100)).isfinite().all()


@torch.no_grad()
def test_new_tokens_have_the_norm_of_the_bodys_own(name: str, random_tensor: Callable[..., Tensor]) -> None:
    stem = load_body(name).stem
    assert isinstance(stem, TextStem)
    own: Tensor = stem.word_embeddings
    if stem.places is not None:
        own = torch.stack([word + stem.places[number % 64] for number, word in enumerate(own)])
    tokens = adapted(name, Target("scalar")).embed(random_tensor(4, 2, 30))
    torch.testing.assert_close(tokens.norm(dim=2), torch.full((4, 30), float(own.norm(dim=1).mean())))
    assert (stem.places is None) == ("gpt2" not in name)
    assert isinstance(stem.norm, nn.LayerNorm)
    torch.testing.assert_close(stem.norm.weight, torch.full((24,), float(own.norm(dim=1).mean()) / math.sqrt(24)))


def test_contexts_that_are_refused(tiny: TinyDirectory) -> None:
    with pytest.raises(UserError, match=r"decoder\.context 'doubled' is for decoders, such as GPT-2"):
        adapted(str(tiny("bert")), Target("scalar"), "doubled")
    with pytest.raises(UserError, match="Did you mean 'flipped'"):
        adapted(str(tiny("llama")), Target("scalar"), "fliped")
