"""Source ``prose`` for sequence bodies: articles of the English Wikipedia, labelled by topic."""

import bz2
import functools
import html
import re
from collections.abc import Mapping

from orca_ray.alignment.source import SampleRequest, Samples, Source, balanced_order
from orca_ray.data import packages
from orca_ray.data.packages import Package

PACKAGE = Package(
    "gensim",
    "4.4.0",
    "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    "LGPL-2.1 (package); the articles CC BY-SA",
    28,
    wheel_tag="cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64",
)
MEMBER = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
"""A piece of a dump of Wikipedia: the first articles by number, whose titles begin with A."""
TOPICS: Mapping[str, tuple[str, ...]] = {
    "arts": ("Academy Awards", "An American in Paris", "Animal Farm", "Animation", "Art", "A Modest Proposal"),
    "computing": ("ASCII", "Abacus", "Algorithm", "Analysis of variance", "Arithmetic mean", "Assistive technology"),
    "language": ("A", "Afroasiatic languages", "Alphabet", "Ambiguity", "Austroasiatic languages"),
    "life": ("Aardvark", "Aardwolf", "Agriculture", "Algae", "Amphibian", "Anatomy"),
    "matter": ("Acid", "Albedo", "Alkali metal", "Alkane", "Ampere", "Asphalt", "Atomic number"),
    "people": (
        "Abraham Lincoln", "Albert Einstein", "Albert Sidney Johnston", "Aldous Huxley", "Andre Agassi",
        "Andrei Tarkovsky", "Ayn Rand",
    ),
    "philosophy": ("Altruism", "Anarchism", "Aristotle", "Arthur Schopenhauer"),
    "places": (
        "Afghanistan", "Alabama", "Alaska", "Albania", "Alberta", "Algeria", "Andorra", "Angola", "Aruba", "Asia",
        "Atlantic Ocean", "Azerbaijan",
    ),
    "religion": ("Achilles", "Allah", "Apollo"),
    "space": ("Amateur astronomy", "Apollo 11", "Apollo 8", "Astronaut"),
}  # fmt: skip
"""Articles of each topic; the label of a passage is the index of its topic."""

_SHORTEST_PARAGRAPH = 100
"""Characters; shorter lines are headings, captions and remains of tables."""
_NO_PROSE = re.compile(r"<!--.*?-->|<ref[^>]*/>|<(ref|math|gallery|timeline)\b.*?</\1>|<[^>]*>", re.DOTALL)
_INNERMOST = (  # markup to replace until none is left, since it is nested
    (re.compile(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}"), ""),  # templates, tables
    (re.compile(r"\[\[(?:[^\[\]|:]*\|)?([^\[\]|:]*)\]\]"), r"\1"),  # links to articles: their text
    (re.compile(r"\[\[[^\[\]]*\]\]"), ""),  # pictures, categories, other languages
)
_WEB_LINK = re.compile(r"\[(?:https?:)?//\S+ ?([^\]]*)\]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of passages (see `embed_passages`), equally many of each topic."""
    import torch

    from orca_ray.alignment.text_features import embed_passages

    articles = _articles()
    topics = [topic for topic, titles in enumerate(TOPICS.values()) for _ in titles]
    starts = [(article, start) for article, sentences in enumerate(articles) for start in range(len(sentences))]
    order = balanced_order([topics[article] for article, _ in starts], request.seed)
    features, passages = embed_passages(request, articles, (starts[i] for i in order))
    return features, torch.tensor([topics[each.document] for each in passages])


@functools.cache
def _articles() -> list[list[str]]:
    """Return the sentences of each article of `TOPICS`."""
    dump = bz2.decompress(packages.read_member(PACKAGE, MEMBER)).decode()
    pages = dict(re.findall(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", dump, re.DOTALL))
    return [sentences(html.unescape(pages[title])) for titles in TOPICS.values() for title in titles]


def sentences(wikitext: str) -> list[str]:
    """Return the sentences of an article's paragraphs, without markup, tables, lists, headings, captions and notes."""
    text = _NO_PROSE.sub("", html.unescape(wikitext).replace("'''", "").replace("''", ""))
    for pattern, replacement in _INNERMOST:
        found = 1
        while found:
            text, found = pattern.subn(replacement, text)
    paragraphs = (line for line in _WEB_LINK.sub(r"\1", text).splitlines() if len(line) >= _SHORTEST_PARAGRAPH)
    return [each for line in paragraphs if line[0] not in "*#:;|!={[ " for each in _SENTENCE_END.split(line)]


SOURCE = Source(name="prose", modality="sequence", sample=sample, packages=(PACKAGE,))
