"""Tiny random models of the classes users name, as Hugging Face directories: what stands in for the hub."""

from pathlib import Path
from typing import Any

import torch

# Of the same classes as roberta-base, bert-base-uncased, all-mpnet-base-v2, distilbert, ModernBERT and ELECTRA.
TEXT: dict[str, dict[str, Any]] = {
    "roberta": {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1},
    "bert": {"max_position_embeddings": 64, "type_vocab_size": 2, "pad_token_id": 0},
    "mpnet": {"max_position_embeddings": 66},
    "distilbert": {"max_position_embeddings": 64, "dim": 24, "hidden_dim": 48, "n_heads": 2, "n_layers": 3},
    "modernbert": {
        "max_position_embeddings": 64, "pad_token_id": 0, "global_attn_every_n_layers": 3, "local_attention": 8,
    },
    "electra": {"max_position_embeddings": 64, "embedding_size": 16, "pad_token_id": 0},
}  # fmt: skip
# Of the same classes as google/vit-base, DeiT, dinov2-small (with and without registers) and the Swins.
IMAGE: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "patch_size": 8},
    "deit": {"image_size": 32, "patch_size": 8},
    "dinov2": {"image_size": 32, "patch_size": 8, "mlp_ratio": 2},
    "dinov2_with_registers": {"image_size": 32, "patch_size": 8, "mlp_ratio": 2, "num_register_tokens": 2},
    "swin": {
        "image_size": 64, "patch_size": 4, "embed_dim": 16, "depths": [2, 4], "num_heads": [2, 4], "window_size": 4,
    },
}  # fmt: skip
# Of the same classes as gpt2, EleutherAI's Pythia, Llama, Mistral, Qwen2.5 and Qwen3.
DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 64},
    "gpt_neox": {},
    "llama": {"num_key_value_heads": 1},
    "mistral": {"num_key_value_heads": 1, "head_dim": 12},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 12},
}
VOCABULARY = 300


def save_tiny(kind: str, directory: Path, width: int = 24) -> None:
    """Write a tiny model with every parameter random (norms and biases, too); some classes have their own width."""
    from transformers import AutoConfig, AutoModel

    values = {**TEXT, **IMAGE, **DECODERS}[kind]
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 3, "num_attention_heads": 2}
    shared = {} if kind in ("distilbert", "swin") else sizes
    vocabulary = {} if kind in IMAGE else {"vocab_size": VOCABULARY}
    config = AutoConfig.for_model(kind, **shared, **vocabulary, **values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModel.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
