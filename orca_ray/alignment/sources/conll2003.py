"""Source ``conll2003`` for sequence bodies, used in the ORCA paper: CoNLL-2003."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from orca_ray.alignment.source import SampleRequest, Samples, Source
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError

ENTITIES = ("none", "PER", "ORG", "LOC", "MISC")
"""Names of the labels.

The label of a passage is the type of named entity that most words of its sentences
have.
"""

Sentence = tuple[str, Counter[str]]
"""A sentence, and its number of words in named entities of each type."""


def sample(request: SampleRequest) -> Samples:
    """Return the features [N, D] and the labels [N] of N passages.

    A passage has one label. Passages begin at random sentences; see `embed_passages`.
    """
    import torch

    from orca_ray.alignment.text_features import embed_passages

    documents = read_conll(SOURCE.path())
    starts = [
        (document, start)
        for document, sentences in enumerate(documents)
        for start in range(len(sentences))
    ]
    order = np.random.RandomState(request.seed).permutation(len(starts))
    texts = [[text for text, _ in sentences] for sentences in documents]
    features, passages = embed_passages(request, texts, (starts[i] for i in order))
    labels = [
        _label(documents[passage.document][sentence] for sentence in passage.sentences)
        for passage in passages
    ]
    return features, torch.tensor(labels)


def _label(sentences: Iterable[Sentence]) -> int:
    """Return the index in `ENTITIES` of the most frequent type of named entity."""
    counts = sum((types for _, types in sentences), start=Counter[str]())
    if not counts:
        return ENTITIES.index("none")
    ((most_frequent, _),) = counts.most_common(1)
    return ENTITIES.index(most_frequent)


def read_conll(path: Path) -> list[list[Sentence]]:
    """Return the sentences of each document in a file of the CoNLL format.

    Lines are "word … tag"; a blank line ends a sentence, -DOCSTART- begins a document.
    Raises UserError for a tag that is not one of CoNLL-2003, or a file without
    sentences.
    """
    documents: list[list[Sentence]] = [[]]
    words: list[str] = []
    types = Counter[str]()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a CoNLL-2003 text file: {error}") from error
    # The blank line that is added ends the last sentence.
    for number, line in enumerate([*lines, ""], start=1):
        fields = line.split()
        if fields and fields[0] != "-DOCSTART-":
            entity_type = fields[-1].rpartition("-")[2]
            if len(fields) < 2 or entity_type not in ("O", *ENTITIES[1:]):
                raise UserError(
                    f"{path}:{number}: expected 'word … tag' with a tag of CoNLL-2003,"
                    f" got {line!r}"
                )
            words.append(fields[0])
            if entity_type != "O":
                types[entity_type] += 1
            continue
        if words:
            documents[-1].append((" ".join(words), types))
            words = []
            types = Counter[str]()
        if fields:
            documents.append([])
    if not any(documents):
        raise UserError(f"{path} contains no sentence in the CoNLL format")
    return documents


_FILE = RawFile(
    path="conll2003.zip",
    urls=("https://data.deepai.org/conll2003.zip",),
    num_bytes=1_000_000,
    unpacked="train.txt",
)
SOURCE = Source(name="conll2003", modality="sequence", sample=sample, file=_FILE)
