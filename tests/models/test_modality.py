"""A modality owns its embedder, its defaults and its sizing."""

import pytest

from orca_ray.data.bodies import PACKAGED_BODIES, PAPER_BODIES
from orca_ray.errors import UserError
from orca_ray.models.modality import MODALITIES, EmbedderConfig, get_modality, modality_of
from orca_ray.models.names import list_bodies


def test_each_modality_names_listed_bodies_of_its_own() -> None:
    listed = {info.name: info for info in list_bodies()}
    for name, modality in MODALITIES.items():
        assert get_modality(name) is modality
        for bodies, available in ((PACKAGED_BODIES, "packaged"), (PAPER_BODIES, "hub")):
            info = listed[bodies[modality.name]]
            assert (info.available, info.modality, modality.name) == (available, name, name)
        EmbedderConfig(**modality.paper_embedder(256))  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"unknown modality 'images'. Did you mean 'image'\? Allowed: image, sequence"):
        get_modality("images")


def test_the_modality_of_a_body_is_read_off_its_name() -> None:
    assert modality_of("vit-s14:layers=2", "sequence").name == "image"
    assert modality_of("roberta-base", "image").name == "sequence"
    assert modality_of("./my-body", "image").name == "image"
    assert modality_of("./my-body", "sequence").name == "sequence"


@pytest.mark.parametrize(
    ("shape", "config", "tokens"),
    [
        ((1, 30), EmbedderConfig(sequence_length=8), 8),
        ((1, 5), EmbedderConfig(sequence_length=8), 5),
        ((3, 20, 20), EmbedderConfig(sequence_length=64), 64),
        (None, EmbedderConfig(sequence_length=64), 64),
        ((1, 30), EmbedderConfig(sequence_length=8, patching="divide"), 6),
        ((1, 31), EmbedderConfig(sequence_length=8, patching="divide"), 1),
        ((3, 5, 7), EmbedderConfig(sequence_length=8, patching="divide"), 8),
        (None, EmbedderConfig(sequence_length=64, patching="divide"), 64),
    ],
)
def test_tokens_of_a_sequence(shape: tuple[int, ...] | None, config: EmbedderConfig, tokens: int) -> None:
    assert MODALITIES["sequence"].num_tokens(shape, config) == tokens


def test_tokens_of_an_image_and_sizes_of_sources() -> None:
    image = MODALITIES["image"]
    assert image.num_tokens((1, 28, 28), EmbedderConfig(image_size=56), patch_size=14) == 16
    assert image.num_tokens(None, EmbedderConfig(image_size=224)) == 196
    assert (image.source_size(56, 8), MODALITIES["sequence"].source_size(56, 8)) == ((56, 0), (0, 8))
