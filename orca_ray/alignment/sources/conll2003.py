"""Source ``conll2003`` for sequence bodies: sentences of CoNLL-2003."""

import io
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np

from orca_ray.alignment.source import SampleRequest, Samples, Source
from orca_ray.data import packages
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError
from orca_ray.models.names import PACKAGED, PackagedBody

ENTITIES = ("none", "PER", "ORG", "LOC", "MISC")
"""Names of the labels. The label of a sentence is the most frequent type of named entity in it."""
_MAX_TOKENS = 128


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of random sentences, with the tokenizer and embeddings of the body."""
    import torch

    from orca_ray.models.stems import TextStem

    stem = request.stem
    assert isinstance(stem, TextStem), "conll2003 is for sequence bodies"
    sentences = read_conll(SOURCE.path())
    order = np.random.RandomState(request.seed).permutation(len(sentences))[: request.num_samples]
    encode = _tokenizer(request.body)
    ids = (torch.tensor([encode(" ".join(sentences[i][0]))[:_MAX_TOKENS]]) for i in order)
    features = torch.cat([stem.embed_tokens(ids_1S).mean(1) for ids_1S in ids])
    return features, torch.tensor([sentences[i][1] for i in order])


def read_conll(path: Path) -> list[tuple[list[str], int]]:
    """Read sentences (words and label) in the CoNLL format: lines "word … tag", a blank line after each sentence.

    Raises UserError for a tag that is not one of CoNLL-2003, or a file without sentences.
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
        raise UserError(f"{path} contains no sentence in the CoNLL format")
    return sentences


def _tokenizer(body: str) -> Callable[[str], list[int]]:
    """Return the function that maps a text to token ids, including special tokens, for the body named ``body``."""
    if body in PACKAGED:
        from tokenizers import Tokenizer

        packaged = Tokenizer.from_str(_packaged_file(PACKAGED[body], "tokenizer.json").decode())
        packaged.no_padding()
        return lambda text: list(packaged.encode(text).ids)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(body, trust_remote_code=False)
    except Exception as error:  # the Hugging Face libraries raise many undocumented types
        raise UserError(
            f"cannot load the tokenizer of body {body!r} ({error}); source 'vocabulary' needs none"
        ) from error
    return lambda text: list(tokenizer(text)["input_ids"])


def _packaged_file(body: PackagedBody, name: str) -> bytes:
    """Return the contents of file ``name`` that is next to the weights in the packages of ``body``."""
    if len(body.members) == 1:
        return packages.read_member(body.packages[0], str(PurePosixPath(body.members[0]).with_name(name)))
    pieces = zip(body.packages, body.members, strict=True)
    joined = io.BytesIO(b"".join(packages.read_member(package, member) for package, member in pieces))
    with zipfile.ZipFile(joined) as archive:
        return archive.read(next(member for member in archive.namelist() if PurePosixPath(member).name == name))


_FILE = RawFile(
    path="conll2003.zip", urls=("https://data.deepai.org/conll2003.zip",), num_bytes=1_000_000, unpacked="train.txt"
)
SOURCE = Source(name="conll2003", modality="sequence", sample=sample, file=_FILE)
