"""What has changed since the study of six epochs, for docs/findings.md.

``python -m benchmarks.findings_changes cabinet --results DIR --before DIR`` prints two
tables, which ``make boards`` writes: the answers to the questions that both studies
ask, and the best transformer after several lengths of training.
"""

# ruff: noqa: T201 - a benchmark prints its tables

import argparse
from collections.abc import Iterator, Sequence

from benchmarks.findings import Answer, answers, joined_name
from benchmarks.findings_page import rows_by_kind
from benchmarks.findings_reading import Found, read
from benchmarks.planned import SIX_EPOCHS, TRAINED
from benchmarks.searches import BEST_BASELINE, BEST_TRANSFORMER
from orca_ray.leaderboard.formats.markdown import markdown_table
from orca_ray.results.store import ResultsStore


def changed_answers(
    now: Sequence[Answer], before: Sequence[Answer]
) -> Iterator[list[str]]:
    """Yield title and rows of the answers to the questions that both studies ask."""
    yield ["question", "ratio", SIX_EPOCHS.trained, f"after {TRAINED.length}"]
    for answer in now:
        for earlier in before:
            if earlier.question == answer.question:
                question = answer.question
                texts = [_answer_text(earlier), _answer_text(answer)]
                yield [question.text, question.sides.title, *texts]


def _answer_text(answer: Answer) -> str:
    """Return the numbers and the verdict of an answer."""
    numbers = answer.numbers
    return f"{numbers}, adjusted p = {answer.adjusted_p:.2g}: {answer.verdict}"


def best_by_length(found: Found) -> Iterator[list[str]]:
    """Yield title and rows of the best transformer to the best baseline.

    Transformers have each length of training of the study, baselines the full one.
    """
    lengths = [part.name for part in found.plan.parts]
    names = [joined_name(BEST_TRANSFORMER, length) for length in lengths]
    names.append(BEST_TRANSFORMER)
    columns = [found.study.data(name, BEST_BASELINE) for name in names]
    yield ["", "tasks", *lengths, found.plan.length]
    yield from rows_by_kind(columns, found.study.properties.kinds)


def page(arguments: Sequence[str] | None = None) -> str:
    """Return the two tables for command-line ``arguments``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("--results", required=True, help="store of the trained study")
    parser.add_argument("--before", required=True, help="store of that of six epochs")
    options = parser.parse_args(arguments)
    found = read(options.benchmark, ResultsStore(options.results), TRAINED)
    before = read(options.benchmark, ResultsStore(options.before))
    changes = changed_answers(
        answers(found.study, TRAINED.questions),
        answers(before.study, SIX_EPOCHS.questions),
    )
    by_answer = markdown_table(list(changes), 4)
    by_length = markdown_table(list(best_by_length(found)), 2)
    return "\n".join([*by_answer, "", *by_length, ""])


if __name__ == "__main__":
    print(page())
