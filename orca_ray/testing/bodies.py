"""Random bodies of a few kilobytes, saved as Hugging Face directories: a sweep takes their path as a body's name."""

import string
from pathlib import Path

import torch

LETTERS = ("[UNK]", *string.ascii_lowercase, *string.digits, *string.punctuation)
"""Tokens of `save_tokenizer`, in the order of their ids."""


def save_bert(directory: Path) -> str:
    """Save a random BERT of two layers and width 16, with a tokenizer; return its name as a body."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=120,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        BertModel(config).save_pretrained(directory)
    save_tokenizer(directory)
    return str(directory)


def save_vit(directory: Path) -> str:
    """Save a random ViT of two layers, width 16 and patches of 8 pixels; return its name as a body."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        ViTModel(config).save_pretrained(directory)
    return str(directory)


def save_tokenizer(directory: Path) -> None:
    """Write a tokenizer whose tokens are single characters, 69 in all; words after the first begin with no mark."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(directory)
