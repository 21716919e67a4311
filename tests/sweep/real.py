"""A sweep small enough for tests that is real all the same: real data, a tiny body, real training."""

from pathlib import Path
from typing import Any

from orca_ray.results.store import ResultsStore
from orca_ray.sweep.plan.loading import parse_spec
from orca_ray.sweep.plan.spec import SweepSpec
from orca_ray.testing.suite import save_tokenizer

TEXT = Path(__file__).with_name("tiny.yaml").read_text()


def tiny_body(directory: Path) -> str:
    """Save a random two-layer BERT and return its path, which is its name."""
    import torch
    from transformers import BertConfig, BertModel

    path = directory / "tiny-bert"
    if not path.exists():
        config = BertConfig(
            vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=64,
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(0)
            BertModel(config).save_pretrained(path)
        save_tokenizer(path)
    return str(path)


def tiny_text(directory: Path, text: str = TEXT) -> str:
    """Return the sweep file of a tiny sweep whose body lies in ``directory``."""
    return text + f"bodies: {{sequence: {tiny_body(directory)}}}\n"


def tiny_spec(directory: Path, text: str = TEXT) -> SweepSpec:
    return parse_spec(tiny_text(directory, text))


def facts(store: ResultsStore, sweep: str = "tiny/full") -> dict[str, dict[str, Any]]:
    """Return what is equal in every run of a sweep, by trial key: columns of its record, and its artefacts."""
    artefacts = store.artefacts(sweep=sweep)
    return {
        key: {**record.reproducible(), "artefacts": artefacts[artefacts["trial_key"] == key].to_dict("list")}
        for key, record in store.load(sweep).items()
    }
