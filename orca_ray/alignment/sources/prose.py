"""Source ``prose`` for sequence bodies: articles of the English Wikipedia, labelled by
topic.
"""

import bz2
import functools
import html
import re
from collections.abc import Mapping

from orca_ray.alignment.source import SampleRequest, Samples, Source, balanced_order
from orca_ray.data import packages
from orca_ray.data.packages import Package
from orca_ray.discovery import tables

_LISTED = tables("orca_ray.alignment.sources", "prose.toml")
PACKAGE = Package(**_LISTED["package"])
MEMBER = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
"""A piece of a dump of Wikipedia: the first articles by number, whose titles begin with
A.
"""
TOPICS: Mapping[str, tuple[str, ...]] = _LISTED["topics"]
"""Articles of each topic; the label of a passage is the index of its topic."""

_SHORTEST_PARAGRAPH = 100
"""Characters; shorter lines are headings, captions and remains of tables."""
_NO_PROSE = re.compile(
    r"<!--.*?-->|<ref[^>]*/>|<(ref|math|gallery|timeline)\b.*?</\1>|<[^>]*>", re.DOTALL
)
_INNERMOST = (  # markup to replace until none is left, since it is nested
    (re.compile(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}"), ""),  # templates, tables
    (
        re.compile(r"\[\[(?:[^\[\]|:]*\|)?([^\[\]|:]*)\]\]"),
        r"\1",
    ),  # links to articles: their text
    (re.compile(r"\[\[[^\[\]]*\]\]"), ""),  # pictures, categories, other languages
)
_WEB_LINK = re.compile(r"\[(?:https?:)?//\S+ ?([^\]]*)\]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of passages (see `embed_passages`), equally
    many of each topic.
    """
    import torch

    from orca_ray.alignment.text_features import embed_passages

    articles = _articles()
    topics = [topic for topic, titles in enumerate(TOPICS.values()) for _ in titles]
    starts = [
        (article, start)
        for article, sentences in enumerate(articles)
        for start in range(len(sentences))
    ]
    order = balanced_order([topics[article] for article, _ in starts], request.seed)
    features, passages = embed_passages(request, articles, (starts[i] for i in order))
    return features, torch.tensor([topics[each.document] for each in passages])


@functools.cache
def _articles() -> list[list[str]]:
    dump = bz2.decompress(packages.read_member(PACKAGE, MEMBER)).decode()
    pages = dict(
        re.findall(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", dump, re.DOTALL)
    )
    return [
        sentences(html.unescape(pages[title]))
        for titles in TOPICS.values()
        for title in titles
    ]


def sentences(wikitext: str) -> list[str]:
    """Return the sentences of an article's paragraphs, without markup, tables, lists,
    headings, captions and notes.
    """
    text = _NO_PROSE.sub(
        "", html.unescape(wikitext).replace("'''", "").replace("''", "")
    )
    for pattern, replacement in _INNERMOST:
        found = 1
        while found:
            text, found = pattern.subn(replacement, text)
    paragraphs = (
        line
        for line in _WEB_LINK.sub(r"\1", text).splitlines()
        if len(line) >= _SHORTEST_PARAGRAPH
    )
    return [
        each
        for line in paragraphs
        if line[0] not in "*#:;|!={[ "
        for each in _SENTENCE_END.split(line)
    ]


SOURCE = Source(name="prose", modality="sequence", sample=sample, packages=(PACKAGE,))
