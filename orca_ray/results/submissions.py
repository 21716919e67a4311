"""Scores of other people: CSV files that are checked line by line, and kept beside the
records of a store.

A file has the columns `COLUMNS`, and may have `OPTIONAL`, in any order. Each row is a
test score in the unit of its metric, where lower is better: of one seed, or, with an
empty ``seed``, the mean over seeds with deviation ``std``.
"""

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from orca_ray.errors import UserError, nearest, printable, quoted
from orca_ray.paths import open_regular
from orca_ray.results.folder import Folder, open_folder
from orca_ray.results.record import PROTOCOLS
from orca_ray.results.store import ResultsStore

COLUMNS = ("method", "task", "metric", "protocol", "score", "seed", "source")
OPTIONAL = ("std", "metric_version", "data_fingerprint")
DIRECTORY = "imported"
"""Folder of a store that holds the imported files, each under the hash of its content.
"""
MAX_BYTES = 10 * 2**20
MAX_ROWS = 100_000
MAX_PROBLEMS = 20
"""Number of problems after which reading a file ends; a file of another kind would
otherwise fill the screen.
"""
_MAX_LENGTHS = {"method": 100, "source": 300, "data_fingerprint": 64}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_IMPORTED = re.compile(r"[0-9a-f]{16}\.csv")
_SEED = re.compile(r"\d{1,18}", re.ASCII)


@dataclass(frozen=True)
class SubmittedScore:
    """One row of a file of scores: the test score of one seed, or a mean over seeds."""

    method: str
    task: str
    metric: str
    protocol: str
    score: float
    seed: int | None
    """None: the score is a mean over seeds."""
    source: str
    std: float | None = None
    metric_version: int = 1
    data_fingerprint: str = ""
    """Fingerprint of the prepared data; "": the file does not state it."""

    def other_version(self, current: "Versions") -> str:
        """Return what of the task changed since the score was made; "": nothing, as far
        as is known.
        """
        version, data = current.get(
            (self.task, self.metric, self.protocol), (self.metric_version, "")
        )
        if self.metric_version != version:
            return (
                f"made with version {self.metric_version} of {self.metric}, which has"
                f" version {version} here"
            )
        changed = data and self.data_fingerprint not in ("", data)
        return (
            f"made on data {self.data_fingerprint}, which are {data} here"
            if changed
            else ""
        )

    @property
    def group(self) -> "SubmittedScore":
        """The row without score, seed and versions: equal for all seeds of a method on
        a task.
        """
        return replace(
            self, score=0.0, seed=None, std=None, metric_version=1, data_fingerprint=""
        )


Versions = Mapping[tuple[str, str, str], tuple[int, str]]
"""Version of the metric, and fingerprint of the data ("": not known), by task, metric
and protocol.
"""


@dataclass(frozen=True)
class Known:
    """Tasks and metrics that the rows of a file may name."""

    metrics: Mapping[str, tuple[str, ...]]
    """The metrics of each task."""
    largest: Mapping[str, float]
    """Largest possible value of metrics that have one, such as 1 for an error rate."""
    current: Versions = field(default_factory=dict)


def read_scores(path: Path, known: Known) -> list[SubmittedScore]:
    """Read and check a CSV file of scores.

    Raises UserError with every problem and its line number, up to `MAX_PROBLEMS`: the
    file is no CSV of scores, is too large, or a row is incomplete, repeated, or names
    something unknown.
    """
    return parse_scores(_content(path), str(path), known)


def parse_scores(
    content: bytes, name: str, known: Known | None
) -> list[SubmittedScore]:
    """Return the scores in the ``content`` of a file; ``name`` is for errors. Raises
    the errors of `read_scores`.

    If ``known`` is None, names of tasks and metrics and the largest scores are not
    checked.
    """
    problems = _Problems()
    rows = list(_scores(content, problems, known))
    if not problems and not rows:
        problems.add(1, "the file has no rows")
    if len(problems) > MAX_PROBLEMS:
        title = f"{name}: more than {MAX_PROBLEMS} problems; the first are"
        raise UserError("\n".join([title, *problems[:MAX_PROBLEMS]]))
    if problems:
        raise UserError(
            "\n".join(
                [
                    f"{name}: {len(problems)} problem{'s' * (len(problems) > 1)}",
                    *problems,
                ]
            )
        )
    return rows


def write_scores(scores: Iterable[SubmittedScore]) -> str:
    """Return scores as the text of a CSV file that `parse_scores` reads; floats keep
    all digits.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, (*COLUMNS, *OPTIONAL), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    return stream.getvalue()


def import_scores(uri: str, path: Path, known: Known) -> int:
    """Check a file and copy it into the store at ``uri``, which is created if missing;
    return its number of rows.

    The store's own records do not change. Importing a file again changes nothing;
    deleting the copy undoes the import. Raises UserError as `read_scores` does, and if
    another imported file has scores of the same `SubmittedScore.group`.
    """
    content = _content(path)
    scores = parse_scores(content, str(path), known)
    ResultsStore(uri, create=True)
    folder = open_folder(uri)
    name = _file_name(content)
    others = [
        (f"{DIRECTORY}/{each}", rows)
        for each, rows in _stored(folder)[0]
        if each != name
    ]
    _, repeated = merged([*others, (str(path), scores)])
    if own := [text for text in repeated if text.startswith(f"{path}: ")]:
        raise UserError(f"{own[0]}. Delete the old file to replace it.")
    folder.write(f"{DIRECTORY}/{name}", pa.py_buffer(content))
    return len(scores)


def imported_scores(uri: str) -> tuple[list[SubmittedScore], list[str]]:
    """Return the imported scores of a store, and a sentence for each file that is left
    out because it is unusable.
    """
    stored, damaged = _stored(open_folder(uri))
    scores, repeated = merged((f"{DIRECTORY}/{name}", rows) for name, rows in stored)
    return scores, [
        f"imported scores left out: {text}" for text in (*damaged, *repeated)
    ]


def merged(
    files: Iterable[tuple[str, Sequence[SubmittedScore]]],
) -> tuple[list[SubmittedScore], list[str]]:
    """Return the scores of several files (name, scores), and a sentence for each file
    with scores that are left out.

    Of all scores of one method, task, metric, protocol and source, only those in one
    file, the first, are returned.
    """
    first: dict[SubmittedScore, str] = {}
    kept: list[SubmittedScore] = []
    sentences = []
    for name, scores in files:
        places = [first.setdefault(score.group, name) for score in scores]
        kept += [
            score for score, place in zip(scores, places, strict=True) if place == name
        ]
        if other := next((place for place in places if place != name), None):
            count = sum(place != name for place in places)
            sentences.append(
                f"{name}: {count} score(s) of methods, tasks and sources that"
                f" {other} has"
            )
    return kept, sentences


def _file_name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:16]}.csv"


def _stored(folder: Folder) -> tuple[list[tuple[str, list[SubmittedScore]]], list[str]]:
    """Return the imported files with their scores, and a sentence for each damaged one."""
    files = []
    damaged = []
    for name in folder.names(DIRECTORY):
        path = f"{DIRECTORY}/{name}"
        try:
            content = bytes(folder.read(path))
            if _IMPORTED.fullmatch(name) and name != _file_name(content):
                raise UserError(
                    f"{path} was changed since it was imported; delete it, and import"
                    " the file again"
                )
            files.append((name, parse_scores(content, path, None)))
        except (UserError, FileNotFoundError) as error:
            damaged.append(" ".join(str(error).splitlines()[:2]))
    return files, damaged


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(MAX_BYTES + 1)


class _Problems(list[str]):
    """Problems of a file, as text with the number of the line."""

    def add(self, line: int, text: str) -> None:
        self.append(f"  line {line}: {text}")


def _scores(
    content: bytes, problems: _Problems, known: Known | None
) -> Iterator[SubmittedScore]:
    if len(content) > MAX_BYTES:
        problems.add(1, f"the file is larger than {MAX_BYTES // 2**20} MiB; split it")
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.add(content.count(b"\n", 0, error.start) + 1, "the text is not UTF-8")
        return
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines_by_seed: dict[SubmittedScore, dict[int | None, int]] = {}
    try:
        header = [cell.strip() for cell in next(lines, [])]
        if wrong := _wrong_header(header):
            problems.add(1, wrong)
            return
        start = lines.line_num + 1
        for number, cells in enumerate(lines, 1):
            line = start
            start = lines.line_num + 1
            if len(problems) > MAX_PROBLEMS:
                return
            if number > MAX_ROWS:
                problems.add(line, f"the file has more than {MAX_ROWS} rows; split it")
                return
            score = _score(
                dict(zip(header, cells, strict=False)),
                len(cells) - len(header),
                line,
                problems,
                known,
            )
            if score is None:
                continue
            found = lines_by_seed.setdefault(score.group, {})
            # A mean must not stand beside the seeds that it is the mean of.
            other = (
                next(iter(found.values()), None)
                if score.seed is None
                else found.get(None)
            )
            if clash := found.get(score.seed) or other:
                problems.add(
                    line,
                    f"repeats line {clash}: same method, task, metric, protocol, source"
                    " and seed",
                )
                continue
            found[score.seed] = line
            yield score
    except csv.Error as error:
        problems.add(lines.line_num, f"not CSV: {error}")


def _wrong_header(header: list[str]) -> str:
    wanted = ", ".join(COLUMNS)
    optional = ", ".join(OPTIONAL)
    if missing := [name for name in COLUMNS if name not in header]:
        return (
            f"columns missing: {', '.join(missing)}. The first line names {wanted}, and"
            f" optionally {optional}"
        )
    extra = [name for name in header if name not in (*COLUMNS, *OPTIONAL)]
    if extra or len(set(header)) < len(header):
        odd = ", ".join(quoted(name, 40) for name in extra[:5]) or "a column twice"
        return f"the first line names {odd}; allowed are {wanted}, {optional}"
    return ""


def _score(
    cells: dict[str, str],
    surplus: int,
    line: int,
    problems: _Problems,
    known: Known | None,
) -> SubmittedScore | None:
    """Return a row as a score, or None after adding its problems."""
    if surplus:
        problems.add(
            line, f"{abs(surplus)} cells {'too many' if surplus > 0 else 'missing'}"
        )
        return None
    given = {name: cell.strip() for name, cell in cells.items()}
    before = len(problems)
    for text in _wrong_names(given, known):
        problems.add(line, text)
    numbers: dict[str, float | None] = {}
    for name in ("score", "std"):
        number = (
            float(given[name]) if _NUMBER.fullmatch(given.get(name, "")) else math.nan
        )
        numbers[name] = number if math.isfinite(number) else None
        if (name == "score" or given.get(name)) and not 0 <= number < math.inf:
            problems.add(
                line,
                f"{name} {quoted(given[name], 40)} is not a finite number of 0 or more;"
                " lower is better",
            )
    largest = known.largest.get(given["metric"], math.inf) if known else math.inf
    if (score := numbers["score"]) is not None and score > largest:
        problems.add(
            line,
            f"score {score:g}: {printable(given['metric'])} is at most {largest:g}, not"
            " in percent",
        )
    for name in ("seed", "metric_version"):
        if given.get(name) and not _SEED.fullmatch(given[name]):
            problems.add(
                line,
                f"{name} {quoted(given[name], 40)} is not an integer of 0 or more, nor"
                " empty",
            )
    if given["seed"] and given.get("std"):
        problems.add(line, "std belongs to a mean over seeds: leave seed or std empty")
    if len(problems) > before or score is None:
        return None
    names = ("method", "task", "metric", "protocol", "source", "data_fingerprint")
    texts = {name: given.get(name, "") for name in names}
    version = int(given.get("metric_version") or 1)
    seed = int(given["seed"]) if given["seed"] else None
    row = SubmittedScore(
        **texts, score=score, seed=seed, std=numbers["std"], metric_version=version
    )
    if known and (change := row.other_version(known.current)):
        problems.add(line, f"{change}: compute the score again, or leave the row out")
    return row


def _wrong_names(given: Mapping[str, str], known: Known | None) -> Iterator[str]:
    for name, limit in _MAX_LENGTHS.items():
        text = given.get(name, "")
        if not text and name in COLUMNS:
            yield f"{name} is empty" + (
                "; give a paper, URL or DOI" if name == "source" else ""
            )
        elif len(text) > limit or not text.isprintable():
            yield (
                f"{name} {quoted(text, 60)} is not printable text of at most {limit}"
                " characters"
            )
    if given["protocol"] not in PROTOCOLS:
        yield (
            f"unknown protocol {quoted(given['protocol'], 40)}; allowed are"
            f" {', '.join(PROTOCOLS)}"
        )
    if known is None:
        return
    metrics = known.metrics.get(given["task"])
    if metrics is None:
        close = nearest(given["task"], known.metrics)
        yield f"unknown task {quoted(given['task'], 60)}." + (
            f" Did you mean {close!r}?" if close else ""
        )
    elif given["metric"] not in metrics:
        yield (
            f"metric {quoted(given['metric'], 60)} is not one of {given['task']}:"
            f" {', '.join(metrics)}"
        )
