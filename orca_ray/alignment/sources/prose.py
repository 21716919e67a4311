"""Source ``prose`` for sequence bodies: articles of the English Wikipedia.

Labels are topics.
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
"""Tables of ``prose.toml``: the package, and the articles of each topic."""
PACKAGE = Package(**_LISTED["package"])
"""Package with a piece of a dump of Wikipedia."""
MEMBER = (
    "gensim/test/test_data/"
    "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
)
"""A piece of a dump of Wikipedia: the first articles by number, whose titles begin with
A.
"""
TOPICS: Mapping[str, tuple[str, ...]] = _LISTED["topics"]
"""Articles of each topic; the label of a passage is the index of its topic."""

_SHORTEST_PARAGRAPH = 100
"""Least number of characters of a paragraph; shorter lines are headings, captions and
remains of tables.
"""
_NO_PROSE = re.compile(
    r"<!--.*?-->|<ref[^>]*/>|<(ref|math|gallery|timeline)\b.*?</\1>|<[^>]*>", re.DOTALL
)
"""Comments, notes, formulas, galleries, timelines and tags, which are removed."""
_INNERMOST = (
    # Templates and tables are removed.
    (re.compile(r"\{\{[^{}]*\}\}|\{\|[^{}]*\|\}"), ""),
    # Links to articles become their text.
    (re.compile(r"\[\[(?:[^\[\]|:]*\|)?([^\[\]|:]*)\]\]"), r"\1"),
    # Pictures, categories and links to other languages are removed.
    (re.compile(r"\[\[[^\[\]]*\]\]"), ""),
)
"""Patterns of nested markup with replacements, applied until no pattern matches."""
_WEB_LINK = re.compile(r"\[(?:https?:)?//\S+ ?([^\]]*)\]")
"""Link to a web page, which is replaced by its text."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(])")
"""Space between two sentences."""
_NOT_A_PARAGRAPH = "*#:;|!={[ "
"""First characters of lines that are lists, tables, headings or code."""


def sample(request: SampleRequest) -> Samples:
    """Return features [N, D] and labels [N] of passages; see `embed_passages`.

    There are equally many passages of each topic.
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
    return features, torch.tensor([topics[passage.document] for passage in passages])


@functools.cache
def _articles() -> list[list[str]]:
    """Return the sentences of the articles of all topics, in order of topic."""
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
    """Return the sentences of an article's paragraphs.

    Markup, tables, lists, headings, captions and notes are left out.
    """
    without_emphasis = html.unescape(wikitext).replace("'''", "").replace("''", "")
    text = _NO_PROSE.sub("", without_emphasis)
    # Markup may be nested: the innermost is replaced until none is left.
    for pattern, replacement in _INNERMOST:
        num_replaced = 1
        while num_replaced:
            text, num_replaced = pattern.subn(replacement, text)
    paragraphs = (
        line
        for line in _WEB_LINK.sub(r"\1", text).splitlines()
        if len(line) >= _SHORTEST_PARAGRAPH and line[0] not in _NOT_A_PARAGRAPH
    )
    return [sentence for line in paragraphs for sentence in _SENTENCE_END.split(line)]


SOURCE = Source(name="prose", modality="sequence", sample=sample, packages=(PACKAGE,))
