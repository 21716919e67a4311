"""Sources for sequence bodies: the body's own words, and sentences of CoNLL-2003.

Letters: N samples, S tokens in one, V words, D token width.
"""

import io
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orca_ray.data import packages
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError
from orca_ray.models.body import Stem
from orca_ray.models.names import PACKAGED, PackagedBody
from orca_ray.models.text import TextStem

_CLUSTERS = 10
_TOKENS = 16  # about a sentence: enough for a mean over tokens, few enough to differ from the next
_MOST_TOKENS = 128  # of a sentence of CoNLL-2003
_BATCH = 256
CONLL2003 = RawFile(
    path="conll2003.zip", urls=("https://data.deepai.org/conll2003.zip",), num_bytes=1_000_000, unpacked="train.txt"
)
ENTITIES = ("none", "PER", "ORG", "LOC", "MISC")
"""Labels of ``conll2003``: the most frequent kind of entity in the sentence."""


def draw_vocabulary(stem: Stem, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features [N, D] and labels [N]: sequences of 16 words, each from one k-means cluster of the vocabulary.

    Labels (the clusters) are balanced. Words that were never trained (BERT's ``[unused7]`` and the like lie close to
    the mean word, at less than half the median distance) are left out.
    """
    assert isinstance(stem, TextStem), "vocabulary is for sequence bodies"
    clusters = _word_clusters(stem.word_embeddings.detach().float().cpu().numpy(), seed)
    random = np.random.RandomState(seed)
    labels = random.permutation(np.arange(num_samples) % len(clusters))
    ids_NS = np.stack([random.choice(clusters[label], _TOKENS) for label in labels])
    batches = torch.from_numpy(ids_NS.astype(np.int64)).split(_BATCH)  # type: ignore[no-untyped-call]
    return torch.cat([stem.embed_tokens(ids).mean(1) for ids in batches]), torch.from_numpy(labels)


def _word_clusters(words_VD: np.ndarray[Any, Any], seed: int) -> list[np.ndarray[Any, Any]]:
    """Return the word ids of each cluster."""
    from sklearn.cluster import KMeans

    distances_V = np.linalg.norm(words_VD - words_VD.mean(0), axis=1)
    (trained,) = np.nonzero(distances_V >= 0.5 * np.median(distances_V))
    model = KMeans(min(_CLUSTERS, len(trained)), n_init=1, random_state=seed)
    labels = model.fit_predict(words_VD[trained])
    return [trained[labels == label] for label in np.unique(labels)]


def draw_conll2003(stem: Stem, body: str, path: Path, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features [N, D] and labels [N] of sentences, tokenised and embedded as the pretrained encoder does."""
    assert isinstance(stem, TextStem), "conll2003 is for sequence bodies"
    sentences = read_conll(path)
    order = np.random.RandomState(seed).permutation(len(sentences))[:num_samples]
    encode = _tokenizer(body)
    features, labels = [], []
    for index in order:
        words, label = sentences[index]
        ids = torch.tensor([encode(" ".join(words))[:_MOST_TOKENS]])
        features.append(stem.embed_tokens(ids).mean(1))
        labels.append(label)
    return torch.cat(features), torch.tensor(labels)


def read_conll(path: Path) -> list[tuple[list[str], int]]:
    """Read sentences in the CoNLL column format (word … tag, a blank line between sentences) with their label.

    Raises:
        UserError: where a tag is none of CoNLL-2003's, or no sentence is found.
    """
    sentences: list[tuple[list[str], int]] = []
    words: list[str] = []
    kinds: list[str] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a CoNLL-2003 text file: {error}") from error
    for number, line in enumerate([*lines, ""], start=1):
        fields = line.split()
        if fields and fields[0] != "-DOCSTART-":
            kind = fields[-1].rpartition("-")[2]
            if len(fields) < 2 or kind not in ("O", *ENTITIES[1:]):
                raise UserError(f"{path}:{number}: expected 'word … tag' with a tag of CoNLL-2003, got {line!r}")
            words.append(fields[0])
            kinds.append(kind)
        elif words:
            counts = Counter(kind for kind in kinds if kind != "O")
            sentences.append((words, ENTITIES.index(counts.most_common(1)[0][0]) if counts else 0))
            words, kinds = [], []
    if not sentences:
        raise UserError(f"{path} holds no sentence in the CoNLL format")
    return sentences


def _tokenizer(body: str) -> Any:
    """Return a function from a text to token ids, special tokens included."""
    if body in PACKAGED:
        from tokenizers import Tokenizer

        packaged = Tokenizer.from_str(_packaged_file(PACKAGED[body], "tokenizer.json").decode())
        packaged.no_padding()
        return lambda text: packaged.encode(text).ids
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(body)
    except Exception as error:  # transformers and huggingface_hub raise many kinds, none documented
        raise UserError(
            f"cannot load the tokenizer of body {body!r} ({error}); source 'vocabulary' needs none"
        ) from error
    return lambda text: tokenizer(text)["input_ids"]


def _packaged_file(body: PackagedBody, name: str) -> bytes:
    """Read a file that lies beside the weights in the body's packages."""
    if len(body.members) == 1:
        return packages.read_member(body.packages[0], str(PurePosixPath(body.members[0]).with_name(name)))
    pieces = zip(body.packages, body.members, strict=True)
    joined = io.BytesIO(b"".join(packages.read_member(package, member) for package, member in pieces))
    with zipfile.ZipFile(joined) as archive:
        return archive.read(next(member for member in archive.namelist() if PurePosixPath(member).name == name))
