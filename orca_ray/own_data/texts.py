"""Columns of text in tables: several categories in a cell, and free text.

A cell such as "Drama, Crime" becomes a 1 in the slot of each of its parts. Free text
becomes the TF-IDF of frequent words (Salton and Buckley, 1988), computed by
scikit-learn.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from orca_ray.data.rows import Array

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

Separator = Literal["", ",", ";", "|", "/"]
"""Text between the parts of a cell; "": cells are not divided."""
SEPARATORS: tuple[Separator, ...] = (",", ";", "|", "/")
MOST_PARTS = 64
"""Largest number of different parts in the cells of a column, as of categories."""
LEAST_SHARE = 0.2
"""Least share of the cells that have at least two parts."""
MOST_TERMS = 1024
"""Largest number of words of a column that get a slot, the most frequent first."""
LEAST_CELLS = 3
"""Least number of cells with a word that gets a slot."""
LEAST_WORDS = 5
"""Least number of words in half of the cells of a column of free text.

Cells with fewer words are probably names.
"""


def split_cell(text: str, separator: str) -> list[str]:
    """Return the parts of a cell, each once and without spaces around it."""
    parts = [part.strip() for part in text.split(separator)]
    return list(dict.fromkeys(filter(None, parts)))


def find_separator(texts: Sequence[str]) -> Separator:
    """Return the separator of cells that hold several of few different parts.

    "" if the cells are no such lists: one in five has several parts, there are at most
    `MOST_PARTS` different parts, and fewer of them than of different cells.
    """
    for separator in SEPARATORS:
        parts_of_cells = [split_cell(text, separator) for text in texts]
        num_lists = sum(len(parts) > 1 for parts in parts_of_cells)
        if num_lists < LEAST_SHARE * len(texts):
            continue
        num_parts = len({part for parts in parts_of_cells for part in parts})
        if num_parts <= MOST_PARTS and num_parts < len(set(texts)):
            return separator
    return ""


def count_parts(texts: Iterable[str], separator: str) -> Counter[str]:
    """Return the number of cells with each part."""
    return Counter(part for text in texts for part in split_cell(text, separator))


def is_free_text(texts: Sequence[str]) -> bool:
    """Return whether half of the cells have at least `LEAST_WORDS` words."""
    return bool(np.median([len(text.split()) for text in texts]) >= LEAST_WORDS)


def fit_terms(texts: Sequence[str]) -> tuple[list[str], list[float]]:
    """Return the words of free text that get a slot, and their weights (IDF).

    Both are empty if no word is in `LEAST_CELLS` cells.
    """
    vectorizer = _vectorizer(max_features=MOST_TERMS, min_df=LEAST_CELLS)
    try:
        vectorizer.fit(texts)
    except ValueError:  # scikit-learn: no terms remain
        return [], []
    terms: list[str] = vectorizer.get_feature_names_out().tolist()
    weights = [float(f"{weight:.7g}") for weight in vectorizer.idf_]
    return terms, weights


def encode_terms(
    texts: Sequence[str], terms: Sequence[str], weights: Sequence[float]
) -> Array:
    """Return the TF-IDF [N, number of terms] of texts; each row has the length 1."""
    vectorizer = _vectorizer(vocabulary=terms)
    vectorizer.idf_ = np.asarray(weights)
    values: Array = vectorizer.transform(texts).toarray()
    return values


def _vectorizer(**options: object) -> "TfidfVectorizer":
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, dtype=np.float32, **options)
