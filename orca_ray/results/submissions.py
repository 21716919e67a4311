"""CSV files with scores from other people, which a store keeps beside its records.

A file has the columns `COLUMNS`, and may have `OPTIONAL`, in any order. Each row is a
test score in the unit of its metric; lower is better. It is the score of one seed or,
if ``seed`` is empty, the mean over seeds with deviation ``std``.
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
"""Columns that every file has."""
OPTIONAL = ("std", "metric_version", "data_fingerprint")
"""Columns that a file may have."""
DIRECTORY = "imported"
"""Folder of a store that holds the imported files, each named after its content."""
MAX_BYTES = 10 * 2**20
"""Largest size of a file."""
MAX_ROWS = 100_000
"""Largest number of scores in a file."""
MAX_PROBLEMS = 20
"""Number of problems that are reported for a file.

A file of another kind would otherwise fill the screen.
"""
_MAX_LENGTHS = {"method": 100, "source": 300, "data_fingerprint": 64}
"""Largest number of characters of a text, by column."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SEED = re.compile(r"\d{1,18}", re.ASCII)
_IMPORTED = re.compile(r"[0-9a-f]{16}\.csv")
"""Matches the name of a file that `import_scores` wrote."""


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

    def version_change(self, current: "Versions") -> str:
        """Return how metric or data changed since the score was computed.

        Returns "" if no change is known.
        """
        version, data = current.get(
            (self.task, self.metric, self.protocol), (self.metric_version, "")
        )
        if self.metric_version != version:
            return (
                f"made with version {self.metric_version} of {self.metric}, which has"
                f" version {version} here"
            )
        if data and self.data_fingerprint not in ("", data):
            return f"made on data {self.data_fingerprint}, which are {data} here"
        return ""

    @property
    def group(self) -> "SubmittedScore":
        """The row without score, seed and versions, which all seeds have in common."""
        return replace(
            self, score=0.0, seed=None, std=None, metric_version=1, data_fingerprint=""
        )


Versions = Mapping[tuple[str, str, str], tuple[int, str]]
"""Version of the metric and fingerprint of the data, by task, metric and protocol.

The fingerprint is "" if it is not known.
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
    """Return the scores in the ``content`` of a file; ``name`` is for errors.

    If ``known`` is None, names of tasks and metrics and the largest scores are not
    checked. Raises the errors of `read_scores`.
    """
    problems = _Problems()
    scores = list(_parse(content, problems, known))
    if not problems and not scores:
        problems.add(1, "the file has no rows")
    if problems:
        if len(problems) > MAX_PROBLEMS:
            title = f"more than {MAX_PROBLEMS} problems; the first are"
        elif len(problems) > 1:
            title = f"{len(problems)} problems"
        else:
            title = "1 problem"
        raise UserError("\n".join([f"{name}: {title}", *problems[:MAX_PROBLEMS]]))
    return scores


def write_scores(scores: Iterable[SubmittedScore]) -> str:
    """Return scores as the text of a CSV file; floats keep all digits."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, (*COLUMNS, *OPTIONAL), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    return stream.getvalue()


def import_scores(uri: str, path: Path, known: Known) -> int:
    """Copy a file of scores into the store at ``uri``; return the number of scores.

    The store is created if it is missing. The store's own records do not change.
    Importing a file again changes nothing; deleting the copy undoes the import. Raises
    UserError as `read_scores` does, and if another imported file has scores of the same
    `SubmittedScore.group`.
    """
    content = _content(path)
    scores = parse_scores(content, str(path), known)
    ResultsStore(uri, create=True)
    folder = open_folder(uri)
    name = _file_name(content)
    files = [
        (f"{DIRECTORY}/{stored_name}", stored_scores)
        for stored_name, stored_scores in _read_imported(folder).scores.items()
        if stored_name != name
    ]
    files.append((str(path), scores))
    _, sentences = merge_scores(files)
    for sentence in sentences:
        if sentence.startswith(f"{path}: "):
            raise UserError(f"{sentence}. Delete the old file to replace it.")
    folder.write(f"{DIRECTORY}/{name}", pa.py_buffer(content))
    return len(scores)


def imported_scores(uri: str) -> tuple[list[SubmittedScore], list[str]]:
    """Return the imported scores of a store, and a sentence for each unusable file."""
    imported = _read_imported(open_folder(uri))
    scores, repeated = merge_scores(
        (f"{DIRECTORY}/{name}", scores) for name, scores in imported.scores.items()
    )
    reasons = [*imported.damaged, *repeated]
    return scores, [f"imported scores left out: {reason}" for reason in reasons]


def merge_scores(
    files: Iterable[tuple[str, Sequence[SubmittedScore]]],
) -> tuple[list[SubmittedScore], list[str]]:
    """Return the scores of several files, and sentences about scores that are left out.

    ``files`` are pairs of name and scores. If several files have scores of the same
    method, task, metric, protocol and source, only those of the first are returned.
    """
    first_file: dict[SubmittedScore, str] = {}
    merged_scores: list[SubmittedScore] = []
    sentences = []
    for name, scores in files:
        earlier_files = []
        for score in scores:
            file = first_file.setdefault(score.group, name)
            if file == name:
                merged_scores.append(score)
            else:
                earlier_files.append(file)
        if earlier_files:
            sentences.append(
                f"{name}: {len(earlier_files)} score(s) of methods, tasks and sources"
                f" that {earlier_files[0]} has"
            )
    return merged_scores, sentences


def _file_name(content: bytes) -> str:
    return f"{hashlib.sha256(content).hexdigest()[:16]}.csv"


@dataclass(frozen=True)
class _Imported:
    """The imported files of a store."""

    scores: dict[str, list[SubmittedScore]]
    """Scores of each readable file, by the name of the file."""
    damaged: list[str]
    """A sentence for each file that cannot be read."""


def _read_imported(folder: Folder) -> _Imported:
    """Return the scores in all imported files of a store.

    Damaged files, and files that were changed since the import, are left out with a
    sentence on the reason.
    """
    scores = {}
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
            scores[name] = parse_scores(content, path, None)
        except (UserError, FileNotFoundError) as error:
            damaged.append(" ".join(str(error).splitlines()[:2]))
    return _Imported(scores, damaged)


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read(MAX_BYTES + 1)


class _Problems(list[str]):
    """Problems of a file, as text with the number of the line."""

    def add(self, line: int, text: str) -> None:
        self.append(f"  line {line}: {text}")


def _parse(
    content: bytes, problems: _Problems, known: Known | None
) -> Iterator[SubmittedScore]:
    """Yield the valid scores in the content of a file.

    What is wrong with the other rows is added to ``problems``.
    """
    rows = _rows(content, problems)
    _, header_cells = next(rows, (1, []))
    if problems:
        return
    header = [cell.strip() for cell in header_cells]
    if problem := _header_problem(header):
        problems.add(1, problem)
        return
    lines_by_seed: dict[SubmittedScore, dict[int | None, int]] = {}
    for row_number, (line, cells) in enumerate(rows, 1):
        if len(problems) > MAX_PROBLEMS:
            return
        if row_number > MAX_ROWS:
            problems.add(line, f"the file has more than {MAX_ROWS} rows; split it")
            return
        score = _score(header, cells, line, problems, known)
        if score is None:
            continue
        lines = lines_by_seed.setdefault(score.group, {})
        repeated_line = _repeated_line(score.seed, lines)
        if repeated_line is not None:
            problems.add(
                line,
                f"repeats line {repeated_line}: same method, task, metric, protocol,"
                " source and seed",
            )
            continue
        lines[score.seed] = line
        yield score


def _rows(content: bytes, problems: _Problems) -> Iterator[tuple[int, list[str]]]:
    """Yield the first line and the cells of each row of a CSV file, the header first.

    If the content cannot be read further, the reason is added to ``problems``.
    """
    if len(content) > MAX_BYTES:
        problems.add(1, f"the file is larger than {MAX_BYTES // 2**20} MiB; split it")
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problems.add(content.count(b"\n", 0, error.start) + 1, "the text is not UTF-8")
        return
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        for cells in reader:
            yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        problems.add(reader.line_num, f"not CSV: {error}")


def _header_problem(header: list[str]) -> str:
    """Return why a header is not that of a file of scores; "" if it is."""
    required = ", ".join(COLUMNS)
    optional = ", ".join(OPTIONAL)
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        return (
            f"columns missing: {', '.join(missing)}. The first line names {required},"
            f" and optionally {optional}"
        )
    unknown = [name for name in header if name not in (*COLUMNS, *OPTIONAL)]
    if unknown:
        problem = ", ".join(quoted(name, 40) for name in unknown[:5])
    elif len(set(header)) < len(header):
        problem = "a column twice"
    else:
        return ""
    return f"the first line names {problem}; allowed are {required}, {optional}"


def _repeated_line(seed: int | None, lines: Mapping[int | None, int]) -> int | None:
    """Return the line of an earlier score that excludes one of ``seed``, or None.

    ``lines`` has the lines of earlier scores of the same group, by seed (None: the mean
    over seeds). A seed must not be repeated, and a group must not have both a mean and
    scores of seeds.
    """
    if seed is None:
        return next(iter(lines.values()), None)
    return lines.get(seed, lines.get(None))


def _score(
    header: list[str],
    cells: list[str],
    line: int,
    problems: _Problems,
    known: Known | None,
) -> SubmittedScore | None:
    """Return a row as a score; None if the row is invalid.

    What is wrong with the row is added to ``problems``.
    """
    surplus = len(cells) - len(header)
    if surplus:
        direction = "too many" if surplus > 0 else "missing"
        problems.add(line, f"{abs(surplus)} cells {direction}")
        return None
    row = dict.fromkeys(OPTIONAL, "")
    row |= {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    row_problems = [*_text_problems(row, known), *_number_problems(row, known)]
    for problem in row_problems:
        problems.add(line, problem)
    if row_problems:
        return None
    seed = int(row["seed"]) if row["seed"] else None
    std = float(row["std"]) if row["std"] else None
    metric_version = int(row["metric_version"]) if row["metric_version"] else 1
    score = SubmittedScore(
        method=row["method"],
        task=row["task"],
        metric=row["metric"],
        protocol=row["protocol"],
        score=float(row["score"]),
        seed=seed,
        source=row["source"],
        std=std,
        metric_version=metric_version,
        data_fingerprint=row["data_fingerprint"],
    )
    if known and (change := score.version_change(known.current)):
        problems.add(line, f"{change}: compute the score again, or leave the row out")
    return score


def _text_problems(row: Mapping[str, str], known: Known | None) -> Iterator[str]:
    """Yield what is wrong with the text columns of a row.

    These are texts that are empty or too long, and unknown protocols, tasks and
    metrics. Without ``known``, tasks and metrics are not compared.
    """
    for name, limit in _MAX_LENGTHS.items():
        text = row[name]
        if not text and name == "source":
            yield "source is empty; give a paper, URL or DOI"
        elif not text and name in COLUMNS:
            yield f"{name} is empty"
        elif len(text) > limit or not text.isprintable():
            yield (
                f"{name} {quoted(text, 60)} is not printable text of at most {limit}"
                " characters"
            )
    if row["protocol"] not in PROTOCOLS:
        yield (
            f"unknown protocol {quoted(row['protocol'], 40)}; allowed are"
            f" {', '.join(PROTOCOLS)}"
        )
    if known is not None:
        yield from _unknown_task_or_metric(row, known)


def _unknown_task_or_metric(row: Mapping[str, str], known: Known) -> Iterator[str]:
    """Yield that the task is unknown, or that it has not the metric."""
    metrics = known.metrics.get(row["task"])
    if metrics is None:
        close = nearest(row["task"], known.metrics)
        advice = f" Did you mean {close!r}?" if close else ""
        yield f"unknown task {quoted(row['task'], 60)}.{advice}"
    elif row["metric"] not in metrics:
        yield (
            f"metric {quoted(row['metric'], 60)} is not one of {row['task']}:"
            f" {', '.join(metrics)}"
        )


def _number_problems(row: Mapping[str, str], known: Known | None) -> Iterator[str]:
    """Yield what is wrong with the numbers of a row."""
    yield from _score_problems(row, known)
    for name in ("seed", "metric_version"):
        if row[name] and not _SEED.fullmatch(row[name]):
            yield (
                f"{name} {quoted(row[name], 40)} is not an integer of 0 or more, nor"
                " empty"
            )
    if row["seed"] and row["std"]:
        yield "std belongs to a mean over seeds: leave seed or std empty"


def _score_problems(row: Mapping[str, str], known: Known | None) -> Iterator[str]:
    """Yield what is wrong with the score and the deviation of a row."""
    for name in ("score", "std"):
        is_given = name == "score" or row[name]
        if is_given and not _is_score(row[name]):
            yield (
                f"{name} {quoted(row[name], 40)} is not a finite number of 0 or more;"
                " lower is better"
            )
    if known is not None and _is_score(row["score"]):
        score = float(row["score"])
        largest = known.largest.get(row["metric"], math.inf)
        if score > largest:
            yield (
                f"score {score:g}: {printable(row['metric'])} is at most {largest:g},"
                " not in percent"
            )


def _is_score(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text)) and 0 <= float(text) < math.inf
