"""Functions for text sources: tokenise sentences, and embed passages.

A body's tokenizer is used. A passage is T consecutive tokens of a document, as many as
the task's own samples have.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from orca_ray.alignment.source import SampleRequest
from orca_ray.errors import UserError
from orca_ray.models.body import TextStem
from orca_ray.models.names import PACKAGED
from orca_ray.models.packaged import read_packaged

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BATCH_TOKENS = 1 << 14
"""Number of tokens that a stem embeds at a time."""


class Passage(NamedTuple):
    """Consecutive tokens of one document, and their place in it."""

    document: int
    """Index of the document."""
    sentences: range
    """Indices of the sentences in the document; the passage may contain only the first
    tokens of the last one.
    """
    ids: list[int]
    """T token ids, without special tokens, because a task's samples have none either.
    """


def embed_passages(
    request: SampleRequest,
    documents: Sequence[Sequence[str]],
    starts: Iterable[tuple[int, int]],
) -> tuple[Tensor, list[Passage]]:
    """Return the features [N, D] of N passages, and the passages.

    N is ``request.num_samples``, or less if ``starts`` ends earlier. If the request is
    ``raw``, return token ids [N, T] instead of features.

    A document is a sequence of sentences. ``starts`` contains the indices of document
    and sentence at which each passage begins. The next sentences follow until there are
    T tokens. If the document ends earlier, the passage begins with earlier sentences.
    Documents of fewer than T tokens are skipped. Raises UserError if all documents are
    skipped.
    """
    stem = request.stem
    assert isinstance(stem, TextStem), "text sources are for sequence bodies"
    passages = list(islice(_passages(request, documents, starts), request.num_samples))
    if not passages:
        raise UserError(
            f"no document of the alignment source has {request.num_tokens} tokens: use"
            " another align.source, or a smaller embedder.sequence_length"
        )
    ids_NT = torch.tensor([passage.ids for passage in passages])
    if request.raw:
        return ids_NT, passages
    batches = ids_NT.split(max(1, _BATCH_TOKENS // request.num_tokens))  # type: ignore[no-untyped-call]
    return torch.cat([stem.embed_raw(ids).mean(1) for ids in batches]), passages


def _passages(
    request: SampleRequest,
    documents: Sequence[Sequence[str]],
    starts: Iterable[tuple[int, int]],
) -> Iterator[Passage]:
    """Yield a passage for each start in a document of enough tokens."""
    encode = functools.cache(tokenizer(request.body))
    for document, start in starts:
        sentences = documents[document]
        first = start
        end = start
        count = 0
        while count < request.num_tokens and end < len(sentences):
            count += len(encode(sentences[end]))
            end += 1
        # The document ended too early: sentences before the start are added.
        while count < request.num_tokens and first > 0:
            first -= 1
            count += len(encode(sentences[first]))
        if count >= request.num_tokens:
            ids = [
                token for sentence in sentences[first:end] for token in encode(sentence)
            ]
            yield Passage(document, range(first, end), ids[: request.num_tokens])


def _packaged_tokenizer(body: str) -> "Tokenizer":
    """Return the tokenizer that is packaged with a body.

    It neither pads nor truncates.
    """
    from tokenizers import Tokenizer

    text = read_packaged(PACKAGED[body], "tokenizer.json").decode()
    tokenizer: Tokenizer = Tokenizer.from_str(text)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenizer(body: str) -> Callable[[str], list[int]]:
    """Return the function that maps a sentence to token ids.

    The ids have no special tokens. Raises UserError if ``body`` has no tokenizer.
    """
    # With the space, byte-level tokenizers encode the first word as they do inside a
    # text. Other tokenizers ignore the space.
    try:
        if body in PACKAGED:
            packaged = _packaged_tokenizer(body)
            return lambda sentence: list(
                packaged.encode(f" {sentence}", add_special_tokens=False).ids
            )
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(body, trust_remote_code=False)
    # The Hugging Face libraries raise many undocumented types.
    except Exception as error:
        raise UserError(
            f"cannot load the tokenizer of body {body!r}, which alignment needs"
            f" ({error}): save it next to the weights of a local body with"
            " save_pretrained, or use a method that does not align"
        ) from error

    def encode(sentence: str) -> list[int]:
        return list(loaded(f" {sentence}", add_special_tokens=False)["input_ids"])

    return encode
