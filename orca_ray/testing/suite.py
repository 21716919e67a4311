"""The class `Suite`, base of the conformance suites.

Random bodies of a few kilobytes are here, too.
"""

import string
from collections.abc import Callable, Collection, Hashable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from orca_ray.data import cache

SHARED = ("packages", "bodies")
"""Folders of the user's cache that tests share: fetched packages and converted bodies.
"""


_made: dict[Hashable, Path] = {}


def made_once(
    key: Hashable, factory: pytest.TempPathFactory, make: Callable[[Path], object]
) -> Path:
    """Return a temporary directory filled by ``make``.

    Equal keys get the same directory within a run of pytest.
    """
    if key not in _made:
        directory = factory.mktemp("once")
        make(directory)
        _made[key] = directory
    return _made[key]


class Suite:
    """Base class of the suites: test classes whose tests run for every name in `names`.

    See `orca_ray.testing`.
    """

    names: ClassVar[Iterable[str]]
    """Registered names of the objects to test; a plug-in must be installed, so that its
    entry points are found.
    """

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each test with an argument ``name`` once for each of `names`.

        `names` must not be empty.
        """
        if "name" in metafunc.fixturenames:
            names = sorted(self.names)
            assert names, f"{type(self).__name__}.names is empty"
            self.parametrize(metafunc, "name", [(name,) for name in names])

    def parametrize(
        self,
        metafunc: pytest.Metafunc,
        arguments: str,
        cases: Iterable[tuple[str, ...]],
    ) -> None:
        """Run a test once for each of ``cases``.

        A case has one value for each of the comma-separated ``arguments``.
        """
        marked = (
            pytest.param(
                *case,
                marks=self.marks(metafunc.function.__name__, case, number),
                id="-".join(case),
            )
            for number, case in enumerate(cases)
        )
        metafunc.parametrize(arguments, list(marked))

    def marks(
        self, test: str, case: tuple[str, ...], number: int
    ) -> Collection[pytest.MarkDecorator]:
        """Return pytest marks for case ``number`` of a test.

        Override it to leave cases out of the usual runs.
        """
        return ()

    @pytest.fixture
    def bodies(self, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
        """Return the names of random bodies by modality."""
        makers = {"sequence": save_bert, "image": save_vit}
        return {
            modality: str(made_once(make, tmp_path_factory, make))
            for modality, make in makers.items()
        }


def make_home(directory: Path, shared: Iterable[str] = SHARED) -> Path:
    """Make ``directory`` a cache directory, and return it.

    It is empty except for links to the folders ``shared`` of the user's cache.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in shared:
        (directory / name).symlink_to(
            cache.subdirectory(name), target_is_directory=True
        )
    return directory


LETTERS = ("[UNK]", *string.ascii_lowercase, *string.digits, *string.punctuation)
"""Tokens of `save_tokenizer`, in the order of their ids."""
_TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def save_bert(directory: Path) -> str:
    """Save a random BERT of two layers and width 16, with a tokenizer.

    Return the directory, the body's name.
    """
    from transformers import BertConfig, BertModel

    save_tokenizer(directory)
    return _save(
        directory,
        BertModel,
        BertConfig(**_TINY, vocab_size=120, max_position_embeddings=32),
    )


def save_vit(directory: Path) -> str:
    """Save a random ViT of two layers, width 16 and patches of 8 pixels.

    Return the directory, the body's name.
    """
    from transformers import ViTConfig, ViTModel

    return _save(directory, ViTModel, ViTConfig(**_TINY, image_size=32, patch_size=8))


def _save(directory: Path, model: Callable[[Any], Any], config: Any) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        model(config).save_pretrained(directory)
    return str(directory)


def save_tokenizer(directory: Path) -> None:
    """Write a tokenizer of 69 tokens, ``[UNK]`` and single characters.

    Spaces are dropped.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel(
            {letter: i for i, letter in enumerate(LETTERS)}, unk_token="[UNK]"
        )
    )
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]"
    ).save_pretrained(directory)
